"""Training examples: scenes painted, asked about and made into tensors, in a process of their own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from transformers import PreTrainedTokenizerFast

from pipelines.preprocess import resize
from pipelines.training.answers import WEIGHTS, ask
from pipelines.training.model import GRID, IMAGE_SIZE
from streamer.toyworld import COLOURS, KINDS, SCENE_SECONDS, Scene, World

FIRST_TRAINING_SEED = 1_000_000
"""Worlds below this seed are never trained on: they are for cameras, tests and measurements."""

_FRAME_SIZES = ((256, 192), (320, 240), (400, 300), (384, 216))
_COLOURS, _KINDS = list(COLOURS), list(KINDS)


@dataclass(frozen=True)
class Batch:
    """`repeats` questions for each of B scenes; rows are ordered repeat by repeat."""

    pixels: Tensor
    """uint8 (B, 3, side, side), RGB."""
    prompts: Tensor
    """int64 (repeats*B, P), padded with 1."""
    labels: Tensor
    """int64 (repeats*B, T): `<s>`, the answer, `</s>`; padded with -100."""
    dense: Tensor
    """float32 (B, GRID*GRID, 7), see `Losses.dense`."""


def dense_truth(scene: Scene) -> npt.NDArray[np.float32]:
    """For each image token the object whose middle half covers it, if any."""
    truth = np.zeros((GRID, GRID, 7), np.float32)
    centres = (np.arange(GRID) + 0.5) / GRID
    for thing in sorted(scene.objects, key=lambda thing: thing.box[1] - thing.box[3]):  # smaller ones last, on top
        (x, y), (x0, y0, x1, y1) = thing.centre, thing.box
        reach_x, reach_y = max((x1 - x0) / 4, 0.5 / GRID), max((y1 - y0) / 4, 0.5 / GRID)
        cells = np.ix_(np.abs(centres - y) <= reach_y, np.abs(centres - x) <= reach_x)
        truth[cells] = (1, _COLOURS.index(thing.colour), _KINDS.index(thing.kind), x0, y0, x1, y1)
    return truth.reshape(-1, 7)


def _pad(rows: list[list[int]], value: int) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


class Examples(IterableDataset[Batch]):
    """Endless batches; the one with a given number is always the same."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, batch: int, repeats: int, start: int) -> None:
        self.tokenizer, self.batch, self.repeats, self.start = tokenizer, batch, repeats, start
        self.tasks = list(WEIGHTS)
        self.chances = np.array(list(WEIGHTS.values())) / sum(WEIGHTS.values())

    def __iter__(self) -> Iterator[Batch]:
        torch.set_num_threads(1)
        number = self.start
        while True:
            yield self.make(number)
            number += 1

    def make(self, number: int) -> Batch:
        rng = np.random.default_rng([number, 1])
        first = FIRST_TRAINING_SEED + number * self.batch
        scenes = [World(first + index).scene(rng.random() * SCENE_SECONDS) for index in range(self.batch)]
        pixels = []
        for scene in scenes:
            width, height = _FRAME_SIZES[int(rng.integers(len(_FRAME_SIZES)))]
            pixels.append(resize(scene.paint(width, height), (IMAGE_SIZE, IMAGE_SIZE)))
        asked = [
            ask(self.tasks[int(rng.choice(len(self.tasks), p=self.chances))], scene, rng)
            for _ in range(self.repeats)
            for scene in scenes
        ]
        encode = self.tokenizer
        return Batch(
            pixels=torch.stack(pixels),
            prompts=_pad([encode(prompt)["input_ids"] for prompt, _ in asked], 1),
            labels=_pad([encode(answer)["input_ids"] for _, answer in asked], -100),
            dense=torch.from_numpy(np.stack([dense_truth(scene) for scene in scenes])),
        )


def batches(tokenizer: PreTrainedTokenizerFast, batch: int, repeats: int, start: int) -> Iterator[Batch]:
    """Batches from number `start` on, made ahead in another process."""
    loader = DataLoader(
        Examples(tokenizer, batch, repeats, start),
        batch_size=None,
        num_workers=1,
        prefetch_factor=4,
        multiprocessing_context=multiprocessing.get_context("spawn"),
    )
    return iter(loader)
