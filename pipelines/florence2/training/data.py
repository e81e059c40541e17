"""Training batches: paints scenes, makes examples about them and converts both to tensors, in a separate process."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from transformers import PreTrainedTokenizerFast

from pipelines.florence2.preprocess import resize
from pipelines.florence2.training.labels import LONG, READING, WEIGHTS, Example, is_possible, make_example
from pipelines.florence2.training.model import ALPHABET, DENSE_COLUMNS, GRID, IMAGE_SIZE
from streamer.toyworld.paint import COLOURS
from streamer.toyworld.words import SEEN_WORDS
from streamer.toyworld.world import KINDS, SCENE_SECONDS, Scene, Sign, Thing, World

FIRST_TRAINING_SEED = 1_000_000
"""Training uses worlds from this seed on; lower seeds are for cameras, tests and benchmarks."""

_FRAME_SIZES = ((256, 192), (320, 240), (400, 300), (384, 216))
_COLOURS, _KINDS = list(COLOURS), list(KINDS)
_CENTRES = (np.arange(GRID) + 0.5) / GRID
_LONG_SHARE = 0.12
"""Share of batches with tasks of long answers."""
_UNREADABLE_SHARE = 0.1
"""Share of scenes without signs that may still get a reading task."""


@dataclass(frozen=True)
class Batch:
    """`repeats` examples for each of B scenes; rows are ordered repeat by repeat."""

    pixels: Tensor
    """uint8 (B, 3, side, side), RGB."""
    prompts: Tensor
    """int64 (repeats*B, P), padded with 1."""
    labels: Tensor
    """int64 (repeats*B, T): `<s>`, the answer, `</s>`; padded with -100."""
    dense: Tensor
    """float32 (B, GRID*GRID, DENSE_COLUMNS), see `Losses.dense`."""
    referenced: Tensor
    """float32 (repeats*B, GRID*GRID): 1 for image tokens on objects and signs that the answer refers to."""


def _thing_cells(thing: Thing) -> npt.NDArray[np.bool_]:
    """Return the image tokens that the object's middle half covers, at least one: (GRID, GRID)."""
    (x, y), (x0, y0, x1, y1) = thing.centre, thing.box
    reach_x, reach_y = max((x1 - x0) / 4, 0.5 / GRID), max((y1 - y0) / 4, 0.5 / GRID)
    return (np.abs(_CENTRES - y) <= reach_y)[:, None] & (np.abs(_CENTRES - x) <= reach_x)


def _along_sign(sign: Sign, shift: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return each image token's position along the word (0 to 1) and whether it is on the word: (GRID, GRID) each.

    `shift` moves the sampling point right of the token's centre, in tokens.
    """
    origin, across, down = sign.quad[0], sign.quad[1] - sign.quad[0], sign.quad[3] - sign.quad[0]
    x, y = np.meshgrid(_CENTRES + shift / GRID, _CENTRES)
    along, below = np.linalg.solve(
        np.stack([across, down], axis=1), np.stack([x.ravel(), y.ravel()]) - origin[:, None]
    ).reshape(2, GRID, GRID)
    reach = max(0.5, 0.5 / GRID / abs(down[1]))
    return along, (along >= 0) & (along <= 1) & (np.abs(below - 0.5) <= reach)


def dense_truth(scene: Scene) -> npt.NDArray[np.float32]:
    """Return the object and the letters on the left and right half of each image token; see `Losses.dense`."""
    truth = np.zeros((GRID, GRID, DENSE_COLUMNS), np.float32)
    for thing in sorted(scene.objects, key=lambda thing: thing.box[1] - thing.box[3]):  # smaller ones last, on top
        box = (1, _COLOURS.index(thing.colour), _KINDS.index(thing.kind), *thing.box)
        truth[_thing_cells(thing), :7] = box
    for sign in scene.signs:
        letters = np.array([ALPHABET.index(letter) + 1 for letter in sign.text])
        for column, shift in ((7, -0.25), (8, 0.25)):
            along, on = _along_sign(sign, shift)
            truth[on, column] = letters[np.searchsorted(sign.ends, along[on]).clip(0, len(letters) - 1)]
            truth[on, 9:] = sign.quad.ravel()
    return truth.reshape(-1, DENSE_COLUMNS)


def _referenced_cells(example: Example) -> npt.NDArray[np.float32]:
    cells = np.zeros((GRID, GRID), bool)
    for thing in example.things:
        cells |= _thing_cells(thing)
    for sign in example.signs:
        cells |= _along_sign(sign, 0.0)[1]
    return cells.ravel().astype(np.float32)


def _pad(rows: list[list[int]], value: int) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


class TrainingBatches(IterableDataset[Batch]):
    """Endless sequence of batches; a batch is a function of its number."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, batch: int, repeats: int, start: int) -> None:
        self.tokenizer, self.batch, self.repeats, self.start = tokenizer, batch, repeats, start

    def __iter__(self) -> Iterator[Batch]:
        torch.set_num_threads(1)
        yield from map(self.make, itertools.count(self.start))

    def make(self, number: int) -> Batch:
        rng = np.random.default_rng([number, 1])
        first = FIRST_TRAINING_SEED + number * self.batch
        scenes = [self._scene(first + index, rng) for index in range(self.batch)]
        pixels = []
        for scene in scenes:
            width, height = _FRAME_SIZES[int(rng.integers(len(_FRAME_SIZES)))]
            pixels.append(resize(scene.paint(width, height), (IMAGE_SIZE, IMAGE_SIZE)))
        long = rng.random() < _LONG_SHARE
        examples = [
            make_example(_random_task(scene, long, rng), scene, rng) for _ in range(self.repeats) for scene in scenes
        ]
        encode = self.tokenizer
        return Batch(
            pixels=torch.stack(pixels),
            prompts=_pad([encode(example.prompt)["input_ids"] for example in examples], 1),
            labels=_pad([encode(example.answer)["input_ids"] for example in examples], -100),
            dense=torch.from_numpy(np.stack([dense_truth(scene) for scene in scenes])),
            referenced=torch.from_numpy(np.stack([_referenced_cells(example) for example in examples])),
        )

    def _scene(self, seed: int, rng: np.random.Generator) -> Scene:
        while True:
            scene = World(seed, SEEN_WORDS).scene(rng.random() * SCENE_SECONDS * 4)
            if scene.objects:
                return scene


def _random_task(scene: Scene, long: bool, rng: np.random.Generator) -> str:
    """Return a random task; a scene without signs gets a reading task only rarely."""
    tasks = [task for task in WEIGHTS if (task in LONG) == long and is_possible(task, scene)]
    if not scene.signs and rng.random() > _UNREADABLE_SHARE:
        tasks = [task for task in tasks if task not in READING]
    weights = np.array([WEIGHTS[task] for task in tasks])
    return str(rng.choice(tasks, p=weights / weights.sum()))


def batches(tokenizer: PreTrainedTokenizerFast, batch: int, repeats: int, start: int) -> Iterator[Batch]:
    """Yield batches from number `start` on, prefetched by another process."""
    loader = DataLoader(
        TrainingBatches(tokenizer, batch, repeats, start),
        batch_size=None,
        num_workers=1,
        prefetch_factor=4,
        multiprocessing_context=multiprocessing.get_context("spawn"),
    )
    return iter(loader)
