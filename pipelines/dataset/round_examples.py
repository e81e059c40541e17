"""Examples of a round: split by time, of labelled objects, and of a model's own answers that it must not forget."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pipelines.dataset.annotate import Shot
from pipelines.dataset.annotations import read_annotations
from pipelines.dataset.derive import examples
from pipelines.dataset.labels import LabelledPicture
from pipelines.dataset.split import split_by_time
from pipelines.florence2.examples import Example, suffix, write_examples
from pipelines.florence2.tasks import FLORENCE_TASKS
from streamer.core.errors import ConfigError
from streamer.types import Answer

HELD_OUT_SHARE = 0.2
"""Share of the pictures that is tested, and share of the others that ends the training."""
MAX_GAP_S = 60.0
"""Seconds between trained and held-out pictures, at most; a twentieth of a shorter recording."""


def split(shots: Sequence[Shot]) -> tuple[list[Shot], list[Shot], list[Shot]]:
    """Return the pictures to train on, those that end the training and those that test it, each set later in time.

    Raises ConfigError if one would be empty.
    """
    rest, test = split_held_out(shots)
    train, held_out = split_held_out(rest)
    return train, held_out, test


def split_held_out(shots: Sequence[Shot]) -> tuple[list[Shot], list[Shot]]:
    """Return the pictures to train on and the held-out ones. Raises ConfigError if there are too few."""
    rest, held_out = split_by_time(shots, HELD_OUT_SHARE, gap_of(shots))
    if not (rest and held_out):
        raise ConfigError(f"{len(shots)} labelled pictures are too few to train and to test with: collect more")
    return rest, held_out


def gap_of(shots: Sequence[Shot]) -> float:
    """Return the seconds that must lie between trained and held-out pictures."""
    times = [shot.taken_at for shot in shots if shot.taken_at is not None]
    return min(MAX_GAP_S, (max(times) - min(times)) / 20) if times else 0.0


def derived(picture: LabelledPicture, tasks: Sequence[str]) -> Iterator[Example]:
    """Yield examples of the objects of a picture. Raises ConfigError for tasks that objects cannot answer."""
    try:
        yield from examples(picture, tasks)
    except ValueError as error:
        raise ConfigError(f"--task: {error}") from None


def own_answers(path: Path, model: str, tasks: Collection[str]) -> dict[str, list[Example]]:
    """Return a model's answers for some tasks by picture, without those that say nothing. Raises ConfigError.

    `model`: name and hash, as in the annotations of the file `path`.
    """
    own: dict[str, list[Example]] = {}
    for one in read_annotations(path, inside=True):
        example = Example(one.image, one.task, one.answer)
        if one.model == model and one.task in tasks and is_possible(example):
            own.setdefault(one.image, []).append(example)
    return own


def is_possible(example: Example) -> bool:
    """Return whether a model can learn an answer: it says something, in the form of its task."""
    if example.answer == Answer() or (FLORENCE_TASKS[example.task].form == "text" and not example.answer.text):
        return False
    try:
        suffix(example)
    except ValueError:
        return False
    return True


def write(path: Path, folder: Path, made: Iterable[Example]) -> int:
    """Write examples about pictures of a folder, their paths relative to the file; return their number.

    Raises OSError.
    """
    back = Path(os.path.relpath(folder, path.parent))
    return write_examples(path, (replace(one, image=str(back / one.image)) for one in made))
