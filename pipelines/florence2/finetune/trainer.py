"""The training loop: steps, comparisons with the held-out examples, early end, and a state that a run resumes from."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.florence2.examples import Example
from pipelines.florence2.fast.memory_budget import available
from pipelines.florence2.finetune.adapter import plain, prepared
from pipelines.florence2.finetune.averaged import AveragedWeights
from pipelines.florence2.finetune.batches import Batch, Encoder, RunExamples, epoch
from pipelines.florence2.finetune.loss import cross_entropy, token_logits
from pipelines.florence2.finetune.memory import COPIES, Peak, check_room
from pipelines.florence2.finetune.rehearsal import Rehearsal
from pipelines.florence2.finetune.settings import TrainingSettings
from streamer.core.errors import ConfigError

MAX_GRADIENT = 1.0
"""Norm to which larger gradients are scaled."""
TELL_EVERY_S = 10.0
"""Seconds between two lines of progress."""


@dataclass(slots=True)
class Progress:
    """The part of a run's state that is neither weights nor the optimizer's."""

    step: int = 0
    """Steps done."""
    best: float | None = None
    """Lowest held-out loss."""
    best_step: int = 0
    worse: int = 0
    """Comparisons since the lowest one."""
    held_out: list[tuple[int, float]] = field(default_factory=list)
    """Steps and held-out losses."""


class Trainer:
    """Trains one model on examples."""

    def __init__(
        self,
        model: Any,
        encoder: Encoder,
        settings: TrainingSettings,
        examples: RunExamples,
        device: torch.device,
    ) -> None:
        """`model`: a Florence2ForConditionalGeneration in float32. Raises ConfigError for too long examples."""
        if not examples.given or not examples.held_out:
            raise ConfigError("training needs examples to train on and held-out examples")
        self.first = examples.of_epoch(0)
        """The examples of the first epoch; each later one has as many."""
        for example in (*self.first, *examples.held_out):
            encoder.check(example)
        self._rehearsal = Rehearsal(model.to(device), examples.rehearsed, settings)
        torch.manual_seed(settings.seed)  # the first weights of adapters are random
        self.settings, self.progress = settings, Progress()
        self.model = prepared(model, settings).to(device)
        self._encoder, self._device, self._examples = encoder, device, examples
        self._trained = {name: weights for name, weights in self.model.named_parameters() if weights.requires_grad}
        self._optimizer = torch.optim.AdamW(
            self._trained.values(), lr=settings.highest_rate, weight_decay=settings.weight_decay
        )
        self._per_epoch = len(epoch(self.first, settings.batch, settings.seed, 0))
        self._averaged = AveragedWeights(self._trained, self._per_epoch)
        self.steps = settings.epochs * self._per_epoch

    @property
    def trained(self) -> Mapping[str, Tensor]:
        """The weights that change, by name."""
        return self._trained

    def try_largest(self, pictures: int = 0) -> tuple[float, int]:
        """Run one step with the longest answers and undo it, so that missing memory shows now.

        `pictures`: bytes of pictures that will be kept. Returns the seconds of a step, and the bytes that the process
        needs, both at most. Raises ConfigError.
        """
        longest = sorted(self.first, key=self._encoder.length)[-self.settings.batch :]
        later = pictures + 4 * COPIES * sum(weights.numel() for weights in self._trained.values())
        try:
            if self._device.type == "cpu":  # where the system ends a process that needs too much
                self._check_memory(longest, later)
            peak, started = Peak(self._device), time.monotonic()
            self._gradients(longest, all_rehearsed=True)
        except (torch.OutOfMemoryError, MemoryError):
            size = self.settings.batch
            raise ConfigError(f"not enough memory for {size} examples at once: use a smaller --batch") from None
        finally:
            self._optimizer.zero_grad(set_to_none=True)
        return time.monotonic() - started, peak.bytes + later

    def _check_memory(self, longest: Sequence[Example], later: int) -> None:
        """Predict from one and two examples whether a step with all fits into memory. Raises ConfigError if not."""
        first = longest[-1]
        second = next((one for one in reversed(longest) if one.image != first.image), longest[0])
        self._gradients([first], all_rehearsed=True)  # allocates the gradients
        rises = []
        for some in ([first], [first, second]):
            peak = Peak(self._device)
            self._gradients(some, all_rehearsed=True)
            rises.append(peak.rise)
        example = max(0, rises[1] - rises[0])
        fixed = later + rises[0] - example
        check_room(fixed, example, len(longest), available(self._device), self.settings)

    def run(self, tell: Callable[[str], None], state: Path | None = None) -> None:
        """Train until the last step, or until the held-out loss no longer falls; then take the best weights.

        `state`: the file that the run is resumed from, if it exists, and that is written after each comparison.
        """
        if state is not None and state.exists():
            self.resume(state)
            tell(f"resumed at step {self.progress.step} of {self.steps}")
        told, started, first = time.monotonic(), time.monotonic(), self.progress.step
        check_every = max(1, self._per_epoch // self.settings.checks)
        for batch in islice(self._batches(), self.steps - self.progress.step):
            if self.has_ended:
                break
            loss = self.step(batch)
            done = self.progress.step
            if done % check_every == 0 or done == self.steps:
                self._compare()
                tell(f"step {done} of {self.steps}: held-out loss {self.progress.held_out[-1][1]:.4f}")
                if state is not None:
                    self.save(state)
            if time.monotonic() - told > TELL_EVERY_S:
                told = time.monotonic()
                left = (told - started) / (done - first) * (self.steps - done) / 60
                tell(f"step {done} of {self.steps}: loss {loss:.4f}, at most {left:.0f} min left")
        self._averaged.take_best()

    @property
    def has_ended(self) -> bool:
        """True after `patience` comparisons without a lower loss."""
        return self.progress.worse >= self.settings.patience

    def step(self, examples: Sequence[Example]) -> float:
        """Train on one batch; return its loss per token."""
        for group in self._optimizer.param_groups:
            group["lr"] = self.settings.rate_at(self.progress.step, self.steps)
        self._optimizer.zero_grad(set_to_none=True)
        # Dropout and variations draw the same numbers in a resumed run.
        torch.manual_seed(self.settings.seed + self.progress.step)
        seed = f"{self.settings.seed}/{self.progress.step}" if self.settings.augment else None
        loss = self._gradients(examples, seed)
        nn.utils.clip_grad_norm_(self._trained.values(), MAX_GRADIENT)
        self._optimizer.step()
        self.progress.step += 1
        self._averaged.add(self.progress.step)
        return loss

    def loss(self, examples: Sequence[Example]) -> float:
        """Return the mean loss per token of examples, without training on them."""
        self.model.eval()
        total, tokens, size = 0.0, 0, self.settings.batch
        with torch.inference_mode():
            for start in range(0, len(examples), size):
                with self._precision():
                    losses = cross_entropy(*self._logits(examples[start : start + size]))
                total, tokens = total + float(losses.sum()), tokens + len(losses)
        return total / tokens

    def _gradients(self, examples: Sequence[Example], seed: str | None = None, all_rehearsed: bool = False) -> float:
        self.model.train()
        if not self.settings.vision:
            plain(self.model).model.vision_tower.eval()
        with self._precision():
            losses = self._rehearsal.losses(*self._logits(examples, seed), examples, all_rehearsed)
        loss = losses.mean()
        loss.backward()
        return float(loss.detach())

    def _precision(self) -> torch.autocast:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda")

    def _logits(self, examples: Sequence[Example], seed: str | None = None) -> tuple[Tensor, Batch]:
        batch = self._encoder.batch(examples, seed).to(self._device)
        return token_logits(plain(self.model), batch, self.settings.vision), batch

    def _batches(self) -> Iterator[list[Example]]:
        """Yield the batches from the next step on."""
        settings = self.settings
        skipped = self.progress.step % self._per_epoch
        for number in count(self.progress.step // self._per_epoch):
            yield from epoch(self._examples.of_epoch(number), settings.batch, settings.seed, number)[skipped:]
            skipped = 0

    def _compare(self) -> None:
        progress = self.progress
        with self._averaged.in_use():
            found = self.loss(self._examples.held_out)
        progress.held_out.append((progress.step, found))
        progress.worse += 1
        if progress.best is None or found < progress.best:
            progress.best, progress.best_step, progress.worse = found, progress.step, 0
            self._averaged.keep()

    def _key(self) -> str:
        """Return a hash of all that a run depends on beside the checkpoint's weights."""
        used = (self._examples.given, self._examples.rehearsed, self._examples.held_out)
        content = [self.settings.model_dump(), *(list(map(asdict, examples)) for examples in used)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write the state; a crash leaves the old one or the new one. Raises OSError."""
        content = {
            "key": self._key(),
            "progress": asdict(self.progress),
            "weights": self._trained,
            "averaged": self._averaged.state,
            "optimizer": self._optimizer.state_dict(),
        }
        temporary = path.with_name(path.name + ".new")
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # of a failed write, without its error number
            raise OSError(str(error)) from error
        os.replace(temporary, path)

    def resume(self, path: Path) -> None:
        """Continue from a saved state. Raises ConfigError if it belongs to another run, or is damaged."""
        try:
            content = torch.load(path, map_location=self._device, weights_only=True)
            key = content["key"]
        except Exception:  # torch raises any exception on damaged files
            raise ConfigError(f"{path} is no state of a training run: remove it to begin anew") from None
        if key != self._key():
            raise ConfigError(f"{path} belongs to a run with other settings or examples: remove it to begin anew")
        saved = content["progress"]
        self.progress = Progress(**saved | {"held_out": list(map(tuple, saved["held_out"]))})
        self._averaged.load(content["averaged"])
        with torch.no_grad():
            for name, weights in content["weights"].items():
                self._trained[name].copy_(weights)
        self._optimizer.load_state_dict(content["optimizer"])
