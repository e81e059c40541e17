"""Options of `streamer dataset filter`: areas, fitted scores, and the files of what was removed."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pipelines.dataset.captions import MAX_EXAMPLES, judge_captions
from pipelines.dataset.filters import AnsweredPicture, Area, FilterTable, Objects
from pipelines.dataset.labels import LabelledObject, Labels
from pipelines.dataset.metrics.detection import best_threshold
from pipelines.florence2.examples import Example, write_examples
from streamer.core.closing import Closing
from streamer.core.errors import ConfigError
from streamer.core.settings import split_numbers

Reviewed = tuple[Sequence[LabelledObject], Sequence[LabelledObject]]
"""Found and true objects of one picture."""
MIN_FOUND = 10
"""Reviewed objects of a label from which on it has a lowest score of its own."""


def parse_area(text: str) -> Area:
    """Return the area of `--ignore`: `x,y,x,y,x,y`, after `STREAM:` for one camera. Raises ConfigError."""
    stream, colon, corners = text.rpartition(":")
    try:
        numbers = split_numbers(corners)
    except ValueError:
        numbers = []
    if len(numbers) < 6 or len(numbers) % 2 or not all(0 <= number <= 1 for number in numbers):
        raise ConfigError(f"--ignore: `{text}` is no polygon: write x,y of its corners, each from 0 to 1")
    return Area(tuple(zip(numbers[::2], numbers[1::2], strict=True)), stream if colon else None)


def fitted(
    pictures: Sequence[AnsweredPicture], objects: Objects, reviewed: Labels, precision: float | None, place: str
) -> tuple[float, Mapping[str, float]]:
    """Return the lowest score of all labels together, and of each label with enough reviewed objects.

    Only pictures of `reviewed` count; `place` is its name in errors. A label whose objects reach `precision` at no
    score gets one above 1: all of them are removed. Raises ConfigError.
    """
    truth = {picture.file: picture.objects for picture in reviewed.pictures}
    known = [(some, truth[one.image]) for one, some in zip(pictures, objects, strict=True) if one.image in truth]
    found = Counter(one.label for some, _ in known for one in some)
    if sum(found.values()) < MIN_FOUND:
        raise ConfigError(
            f"--fit: {place}: the model found {sum(found.values())} objects in its pictures, {MIN_FOUND} are needed: "
            "review more of the pictures that have answers"
        )

    limits = {label: _lowest(known, [label], precision) for label, count in sorted(found.items()) if count >= MIN_FOUND}
    return _lowest(known, sorted(found), precision), limits


def _lowest(known: Sequence[Reviewed], labels: Sequence[str], precision: float | None) -> float:
    """Return the lowest score of some labels together. Objects are matched within their label."""
    pairs = [(_of(label, found), _of(label, truth)) for found, truth in known for label in labels]
    return best_threshold(pairs, precision)


def _of(label: str, objects: Sequence[LabelledObject]) -> list[LabelledObject]:
    return [one for one in objects if one.label == label]


class FilterFiles(Closing):
    """The files of removed objects and captions, and of the captions that are left. Each is optional."""

    def __init__(self, folder: Path, removed: Path | None, captions: Path | None) -> None:
        """`folder`: that of the dataset. Raises ConfigError."""
        self._folder, self._captions, self._path = folder, captions, removed
        try:
            self._removed = removed.open("w", encoding="utf-8") if removed else None
        except OSError as error:
            raise ConfigError(f"{removed}: cannot be written: {error.strerror}") from None

    def close(self) -> None:
        if self._removed is not None:
            self._removed.close()

    def write_objects(self, pictures: Sequence[AnsweredPicture], table: FilterTable) -> None:
        """Write a line for each removed object."""
        why = {row.name: row.why for row in table.rows}
        for (number, one), name in table.removed.items():
            self._write(
                image=pictures[number].image, label=one.label, box=one.box, score=one.score, filter=name, why=why[name]
            )

    def write_captions(self, pictures: Sequence[AnsweredPicture], tell: Callable[[str], None]) -> None:
        """Write the captions that are left, and a line for each removed one; tell their numbers. Raises ConfigError."""
        if self._captions is None:
            return
        judged = list(judge_captions(pictures))
        kept = [one for one in judged if not one.unsupported]
        folder = Path(os.path.relpath(self._folder, self._captions.parent))
        try:
            write_examples(self._captions, [Example(str(folder / one.image), one.task, one.answer) for one in kept])
        except OSError as error:
            raise ConfigError(f"{self._captions}: cannot be written: {error.strerror}") from None
        words = Counter(word for one in judged for word in one.unsupported)
        for one in judged:
            if one.unsupported:
                self._write(image=one.image, task=one.task, text=one.answer.text, filter="text", why=one.unsupported)
        most = ", ".join(f"{count} {word}" for word, count in words.most_common(MAX_EXAMPLES))
        removed = f"removed if no box supports an object or action{f' ({most})' if most else ''}"
        tell(f"captions: {len(kept)} of {len(judged)} kept; {removed}")

    def _write(self, **values: object) -> None:
        if self._removed is not None:
            self._removed.write(json.dumps(values, ensure_ascii=False) + "\n")
