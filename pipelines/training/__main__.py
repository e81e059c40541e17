"""Train the small model from nothing: `make tiny-model`, or `python -m pipelines.training --out FOLDER`.

Progress is printed, and saved every 250 steps: started again, it goes on from there. The same steps give the same
model up to floating point. The learning rate rises, stays, and falls to zero over the last part, where most of the
quality comes; started again with fewer `--steps`, the fall begins at once.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.tokenizer import build_tokenizer, save_checkpoint
from pipelines.training.answers import corpus
from pipelines.training.batches import Batch, batches
from pipelines.training.model import (
    IMAGE_SIZE,
    IMAGE_TOKENS,
    Losses,
    build_dense_head,
    build_model,
    generation_config,
)

VOCABULARY = 640
WARM_UP = 100
SAVE_EVERY = 250


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipelines.training", description="Train the small Florence-2.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished checkpoint")
    parser.add_argument("--state", type=Path, help="file to resume from [OUT/../training.pt]")
    parser.add_argument("--steps", type=int, default=2800)
    parser.add_argument("--dense-steps", type=int, default=300, help="steps with the auxiliary head alone, first")
    parser.add_argument("--decay", type=float, default=0.4, help="last part of the steps in which the rate falls")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=2, help="questions per picture")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


class Trainer:
    """Everything that a step changes, and the step."""

    def __init__(self, args: argparse.Namespace) -> None:
        torch.manual_seed(0)
        self.args = args
        self.tokenizer = build_tokenizer(corpus(), VOCABULARY)
        self.model = build_model(self.tokenizer).to(args.device).train()
        self.head = build_dense_head().to(args.device)
        self.losses = Losses(self.tokenizer.get_vocab()["<loc_0>"]).to(args.device)
        parameters = [*self.model.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, lr=args.rate, weight_decay=0.01)
        self.number = 0

    def rate(self) -> float:
        """Learning rate of the current step."""
        done, steps = self.number, self.args.steps
        fall = max(1.0, steps * self.args.decay)
        return float(self.args.rate * min(1.0, (done + 1) / WARM_UP, max(0.0, (steps - done) / fall)))

    def step(self, batch: Batch) -> tuple[float, float]:
        """Learn from one batch; returns the answers' and the dense loss."""
        device = self.args.device
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        mean = torch.tensor((0.485, 0.456, 0.406), device=device)[:, None, None] * 255
        std = torch.tensor((0.229, 0.224, 0.225), device=device)[:, None, None] * 255
        features = self.model.get_image_features((batch.pixels.to(device) - mean) / std).pooler_output
        dense = self.losses.dense(self.head(features[:, 1:]), batch.dense.to(device))
        answers = torch.zeros((), device=device)
        if self.number >= self.args.dense_steps:
            answers = self._answers(features, batch)
        loss = 2 * answers + (0.3 if self.number >= self.args.dense_steps else 1.0) * dense
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.number += 1
        return float(answers.detach()), float(dense.detach())

    def _answers(self, features: Tensor, batch: Batch) -> Tensor:
        prompts, labels = batch.prompts.to(features.device), batch.labels.to(features.device)
        repeats = len(prompts) // len(features)
        embedded = torch.cat([features.repeat(repeats, 1, 1), self.model.get_input_embeddings()(prompts)], dim=1)
        seen = torch.cat([prompts.new_ones(len(prompts), features.shape[1]), (prompts != 1).long()], dim=1)
        encoded = self.model.model.language_model.encoder(inputs_embeds=embedded, attention_mask=seen)
        start = labels.new_full((len(labels), 1), 2)
        inputs = torch.cat([start, labels[:, :-1]], dim=1)
        inputs = inputs.masked_fill(inputs == -100, 1)
        decoded = self.model.model.language_model.decoder(
            input_ids=inputs, encoder_hidden_states=encoded.last_hidden_state, encoder_attention_mask=seen
        ).last_hidden_state
        wanted = labels != -100
        return self.losses.answers(self.model.lm_head(decoded[wanted]), labels[wanted])

    def state(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "model": self.model.state_dict(),
            "head": self.head.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def resume(self, state: dict[str, Any]) -> None:
        self.number = state["number"]
        self.model.load_state_dict(state["model"])
        self.head.load_state_dict(state["head"])
        self.optimizer.load_state_dict(state["optimizer"])


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
        answers, dense = trainer.step(batch)
        if trainer.number % 50 == 0:
            pace = (time.monotonic() - started) / (trainer.number - first)
            left = (args.steps - trainer.number) * pace / 60
            losses = f"answers {answers:.3f} dense {dense:.3f} rate {trainer.rate():.1e}"
            print(f"step {trainer.number}/{args.steps} {losses} {pace:.2f} s/step, {left:.0f} min left", flush=True)
        if trainer.number % SAVE_EVERY == 0 or trainer.number == args.steps:
            torch.save(trainer.state(), file.with_suffix(".new"))
            os.replace(file.with_suffix(".new"), file)
    finished = trainer.model.half().eval()
    save_checkpoint(args.out, finished, trainer.tokenizer, IMAGE_SIZE, IMAGE_TOKENS, generation_config())
    print(f"saved {args.out}", flush=True)


if __name__ == "__main__":
    main()
