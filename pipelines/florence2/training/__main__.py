"""Train the small model: `make tiny-model`, or `python -m pipelines.florence2.training --out FOLDER`.

The training state is saved every 250 steps. A restarted run continues from it with the same batches as an unbroken run.
The learning rate rises, stays constant, and falls to zero over the last part, which brings most of the quality; with
fewer `--steps` the fall begins earlier.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Florence2ForConditionalGeneration, PreTrainedTokenizerFast

from pipelines.florence2.training.checkpoint_builder import build_tokenizer, save_checkpoint
from pipelines.florence2.training.data import Batch, batches
from pipelines.florence2.training.labels import corpus
from pipelines.florence2.training.model import (
    IMAGE_SIZE,
    IMAGE_TOKENS,
    Heads,
    Losses,
    build_model,
    generation_config,
    start_from,
)

VOCABULARY = 640
"""Size of the tokenizer's text part."""
WARM_UP = 100
"""Steps in which the learning rate rises."""
SAVE_EVERY = 250
"""Steps between two saved states."""
STATEFUL_PARTS = ("model", "heads", "optimizer")
"""Attributes of the trainer that are part of a saved state."""
LOSS_WEIGHTS = {"answers": 2.0, "dense": 0.3, "referenced": 0.5}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.florence2.training", description="Train the small model on the toy world."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished checkpoint")
    parser.add_argument("--start", type=Path, help="checkpoint folder with initial weights [random weights]")
    parser.add_argument("--state", type=Path, help="training state to resume from and save to [OUT/../training.pt]")
    parser.add_argument("--steps", type=int, default=2800, help="batches to train on")
    parser.add_argument("--dense-steps", type=int, default=300, help="first steps, with the dense head only")
    parser.add_argument("--decay", type=float, default=0.4, help="share of the steps with a falling rate")
    parser.add_argument("--rate", type=float, default=1e-3, help="highest learning rate")
    parser.add_argument("--batch", type=int, default=32, help="scenes per step")
    parser.add_argument("--repeats", type=int, default=2, help="examples per scene")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="torch device")
    return parser.parse_args()


class Trainer:
    """Model, heads and optimizer, and the training step."""

    def __init__(self, args: argparse.Namespace) -> None:
        torch.manual_seed(0)
        self.args = args
        self.tokenizer = build_tokenizer(corpus(), VOCABULARY)
        self.model = build_model(self.tokenizer)
        if args.start:
            loaded = Florence2ForConditionalGeneration.from_pretrained(args.start)
            start_from(self.model, self.tokenizer, loaded, PreTrainedTokenizerFast.from_pretrained(args.start))
        # On a CPU the backward pass of the fused attention is slower in bfloat16.
        self.model.set_attn_implementation("eager")
        self.model.to(args.device).train()
        self.heads = Heads().to(args.device)
        self.losses = Losses(self.tokenizer.get_vocab()["<loc_0>"]).to(args.device)
        parameters = [*self.model.parameters(), *self.heads.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, lr=args.rate, weight_decay=0.01)
        self.number = 0

    def rate(self) -> float:
        """Return the learning rate of the current step."""
        done, steps = self.number, self.args.steps
        decay_steps = max(1.0, steps * self.args.decay)
        return float(self.args.rate * min(1.0, (done + 1) / WARM_UP, max(0.0, (steps - done) / decay_steps)))

    def step(self, batch: Batch) -> dict[str, float]:
        """Train on one batch and return the losses by name."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        with torch.autocast(torch.device(self.args.device).type, torch.bfloat16):
            losses = self._losses(batch)
        self.optimizer.zero_grad(set_to_none=True)
        sum(LOSS_WEIGHTS[name] * loss for name, loss in losses.items()).backward()  # type: ignore[union-attr]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.number += 1
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        device = self.args.device
        mean = torch.tensor((0.485, 0.456, 0.406), device=device)[:, None, None] * 255
        std = torch.tensor((0.229, 0.224, 0.225), device=device)[:, None, None] * 255
        features = self.model.get_image_features((batch.pixels.to(device) - mean) / std).pooler_output
        losses = {"dense": self.losses.dense(self.heads.dense(features[:, 1:]), batch.dense.to(device))}
        if self.number < self.args.dense_steps:
            return losses
        prompts, labels = batch.prompts.to(device), batch.labels.to(device)
        repeats = len(prompts) // len(features)
        embedded = torch.cat([features.repeat(repeats, 1, 1), self.model.get_input_embeddings()(prompts)], dim=1)
        seen = torch.cat([prompts.new_ones(len(prompts), features.shape[1]), (prompts != 1).long()], dim=1)
        language = self.model.model.language_model
        encoded = language.encoder(inputs_embeds=embedded, attention_mask=seen).last_hidden_state
        marks = self.heads.referenced(encoded[:, 1 : features.shape[1]])[..., 0]
        losses["referenced"] = self.losses.referenced(marks, batch.referenced.to(device))
        start = labels.new_full((len(labels), 1), 2)
        inputs = torch.cat([start, labels[:, :-1]], dim=1)
        inputs = inputs.masked_fill(inputs == -100, 1)
        decoded = language.decoder(
            input_ids=inputs, encoder_hidden_states=encoded, encoder_attention_mask=seen
        ).last_hidden_state
        unpadded = labels != -100
        losses["answers"] = self.losses.answers(self.model.lm_head(decoded[unpadded]), labels[unpadded])
        return losses

    def state(self) -> dict[str, Any]:
        return {"number": self.number, **{part: getattr(self, part).state_dict() for part in STATEFUL_PARTS}}

    def resume(self, state: dict[str, Any]) -> None:
        self.number = state["number"]
        for part in STATEFUL_PARTS:
            getattr(self, part).load_state_dict(state[part])


def main() -> None:
    args = _arguments()
    file: Path = args.state or args.out.parent / "training.pt"
    trainer = Trainer(args)
    if file.exists():
        trainer.resume(torch.load(file, map_location=args.device, weights_only=True))
        print(f"resumed from {file} at step {trainer.number}", flush=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    millions = sum(weights.numel() for weights in trainer.model.parameters()) / 1e6
    print(f"{millions:.2f} M parameters, {len(trainer.tokenizer)} tokens, {args.device}", flush=True)
    started, first = time.monotonic(), trainer.number
    for batch in batches(trainer.tokenizer, args.batch, args.repeats, trainer.number):
        if trainer.number >= args.steps:
            break
        losses = trainer.step(batch)
        if trainer.number % 50 == 0:
            seconds = (time.monotonic() - started) / (trainer.number - first)
            left = (args.steps - trainer.number) * seconds / 60
            shown = " ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
            print(f"step {trainer.number}/{args.steps} {shown} {seconds:.2f} s/step, {left:.0f} min left", flush=True)
        if trainer.number % SAVE_EVERY == 0 or trainer.number == args.steps:
            torch.save(trainer.state(), file.with_suffix(".new"))
            os.replace(file.with_suffix(".new"), file)
    finished = trainer.model.half().eval()
    save_checkpoint(args.out, finished, trainer.tokenizer, IMAGE_SIZE, IMAGE_TOKENS, generation_config())
    print(f"saved {args.out}", flush=True)


if __name__ == "__main__":
    main()
