"""Batches of examples as tensors. Settings and number determine a batch, so that a resumed run repeats none."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipelines.florence2.checkpoint import Checkpoint
from pipelines.florence2.examples import Example, suffix
from pipelines.florence2.finetune.augment import vary
from pipelines.florence2.preprocess import Preprocessor
from pipelines.florence2.tasks import FLORENCE_TASKS, location_tokens
from streamer.core.errors import ConfigError
from streamer.types import Image

IGNORED = -100
"""Label of padding, which has no loss."""

ReadPicture = Callable[[str], Image]
"""Returns the pixels of an example's picture, BGR. Raises ConfigError."""


@dataclass(frozen=True, slots=True)
class Batch:
    """N examples about P pictures."""

    pixels: Tensor
    """float32 (P, 3, height, width): normalised RGB."""
    picture: Tensor
    """int64 (N): number of each example's picture."""
    prompts: Tensor
    """int64 (N, L): `<s>`, the prompt, `</s>`; padded."""
    seen: Tensor
    """int64 (N, L): 1 for tokens, 0 for padding of the prompts."""
    labels: Tensor
    """int64 (N, T): `<s>`, the answer, `</s>`; padded with IGNORED."""

    def rows(self, rows: Tensor) -> Batch:
        """Return some of the examples, `rows` (bool, N), and their pictures."""
        used, picture = self.picture[rows].unique(return_inverse=True)
        return Batch(self.pixels[used], picture, self.prompts[rows], self.seen[rows], self.labels[rows])

    def to(self, device: torch.device) -> Batch:
        return Batch(*(getattr(self, name).to(device) for name in self.__slots__))


class Encoder:
    """Converts examples to batches for one checkpoint."""

    def __init__(self, checkpoint: Checkpoint, read: ReadPicture) -> None:
        self._tokenizer, self._read = checkpoint.tokenizer, read
        self._preprocess = Preprocessor(checkpoint.images)
        self._longest = checkpoint.max_positions
        self._room = checkpoint.max_positions - checkpoint.images.tokens

    def check(self, example: Example) -> None:
        """Raise ConfigError for an example whose prompt or answer is longer than the checkpoint takes."""
        if len(self._prompt(example)) > self._room:
            raise ConfigError(f"{example.image}: the prompt of {example.task} has more than {self._room} tokens")
        if len(self._answer(example)) > self._longest:
            raise ConfigError(f"{example.image}: the answer of {example.task} has more than {self._longest} tokens")

    def length(self, example: Example) -> int:
        """Return the number of tokens of the answer."""
        return len(self._answer(example))

    def batch(self, examples: Sequence[Example], seed: str | None = None) -> Batch:
        """Return a batch; examples about one picture share its pixels. With a seed each picture is varied by it."""
        names = list(dict.fromkeys(example.image for example in examples))
        images = {name: self._read(name) for name in names}
        if seed is not None:
            examples = list(examples)
            for name in names:
                places = [place for place, example in enumerate(examples) if example.image == name]
                variation, varied = vary([examples[place] for place in places], f"{seed}/{name}")
                images[name] = variation.image(images[name])
                for place, example in zip(places, varied, strict=True):
                    examples[place] = example
        prompts = [self._prompt(example) for example in examples]
        answers = [self._answer(example) for example in examples]
        return Batch(
            pixels=torch.stack([self._preprocess(images[name]) for name in names]),
            picture=torch.tensor([names.index(example.image) for example in examples]),
            prompts=_padded(prompts, self._tokenizer.pad_token_id),
            seen=_padded([[1] * len(prompt) for prompt in prompts], 0),
            labels=_padded(answers, IGNORED),
        )

    def _prompt(self, example: Example) -> list[int]:
        region = example.region
        tokens = "" if region is None else location_tokens(region.x0, region.y0, region.x1, region.y1)
        return self._framed(FLORENCE_TASKS[example.task].prompt.format(input=example.text or tokens))

    def _answer(self, example: Example) -> list[int]:
        return self._framed(suffix(example))

    def _framed(self, text: str) -> list[int]:
        return self._tokenizer.encode(f"{self._tokenizer.bos_token}{text}{self._tokenizer.eos_token}")


def _padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


@dataclass(frozen=True, slots=True)
class RunExamples:
    """The examples of a training run."""

    given: Sequence[Example]
    held_out: Sequence[Example]
    """Examples whose loss ends the run."""
    rehearsed: Sequence[Example] = ()
    """Examples of what the model must not forget."""
    composed: Callable[[int], Sequence[Example]] = lambda number: ()
    """Returns the examples about composed pictures of an epoch: as many for each one."""

    def of_epoch(self, number: int) -> list[Example]:
        """Return all examples that the run trains on in an epoch."""
        return [*self.given, *self.composed(number), *self.rehearsed]


def epoch(examples: Sequence[Example], size: int, seed: int, number: int) -> list[list[Example]]:
    """Return the batches of an epoch: all examples in a random order, those about one picture in one batch if they fit.

    The order depends on `seed` and the epoch's number alone.
    """
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.image, []).append(example)
    shuffled = list(groups.values())
    random.Random(f"{seed}/{number}").shuffle(shuffled)
    flat = [example for group in shuffled for example in group]
    return [flat[start : start + size] for start in range(0, len(flat), size)]
