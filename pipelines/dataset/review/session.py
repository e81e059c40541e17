"""Serves the review page with pictures, labels and their order, and stores its decisions."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.dataset.labels import LabelledObject, checked_label, safe_file
from pipelines.dataset.review.decisions import FILE, DecidedObject, Decision, DecisionFile, Original
from pipelines.dataset.review.order import count_labels, usefulness
from streamer.core.boxes import Rect
from streamer.core.errors import ConfigError
from streamer.core.jpeg import encode_jpeg
from streamer.core.picture_files import find_pictures, read_picture
from streamer.types.review import ReviewedObject, ReviewedPicture

MAX_OBJECTS = 300
"""Most objects of a reviewed picture; nobody can tell more of them apart on a screen."""
WIDTH, QUALITY = 1600, 85
"""Largest width of a served picture in pixels, and its JPEG quality."""
AHEAD = 2
"""Pictures that the page loads ahead."""
ROUNDING = 1e-5
"""Largest change of a coordinate that counts as none: the page rounds."""


class LabelSet(NamedTuple):
    """A set of labels."""

    name: str
    objects: Mapping[str, Sequence[LabelledObject]]
    """Objects by picture."""


@dataclass(frozen=True, slots=True)
class _Picture:
    file: str
    why: str


class DatasetReview:
    """A `Review` of the pictures in a folder."""

    def __init__(self, folder: Path, sets: Sequence[LabelSet]) -> None:
        """`sets`: one or two. Raises ConfigError without any picture to review."""
        self.left_out: Counter[str] = Counter()
        self._folder, self._sets = folder, sets
        self._labels = count_labels([one.objects for one in sets])
        self._decisions = DecisionFile(folder / FILE)
        self._decisions.refresh()
        self._pictures = self._ordered([*self._usable()])
        self._numbers = {picture.file: number for number, picture in enumerate(self._pictures)}
        self._open: dict[str, int] = {}
        """Number of the picture that each reviewer has on the screen."""
        if not self._pictures:
            reasons = "; ".join(f"{count} left out: {reason}" for reason, count in self.left_out.items())
            raise ConfigError(f"{folder}: has no pictures to review" + (f" ({reasons})" if reasons else ""))

    @property
    def total(self) -> int:
        return len(self._pictures)

    @property
    def reviewed(self) -> int:
        """Number of pictures with a decision."""
        return sum(self._is_reviewed(number) for number in range(self.total))

    def describe(self) -> dict[str, Any]:
        """Return the names of the sets, the known labels, the most frequent first, and how to use the result."""
        export = f"streamer dataset convert review:{self._folder} coco:labels.json"
        return {"sets": [one.name for one in self._sets], "labels": [*self._labels], "export": export}

    def next(self, by: str, after: int) -> dict[str, Any]:
        """Return a picture without a decision, one that is open nowhere else if possible; only counts if none is left.

        `after`: the search begins behind this number, and at the first picture again at the end.
        """
        self._decisions.refresh()
        start = min(max(after + 1, 0), self.total)
        self._open.pop(by, None)
        elsewhere = set(self._open.values())
        left = [*filter(lambda one: not self._is_reviewed(one), chain(range(start, self.total), range(start)))]
        order = sorted(left, key=elsewhere.__contains__)
        if not order:
            return self._counts()
        self._open[by] = order[0]
        return {**self._item(order[0]), "upcoming": [*islice(order, 1, 1 + AHEAD)]}

    def decide(self, by: str, decision: ReviewedPicture) -> None:
        """Store a decision. Raises ValueError if it does not fit to the labels, ConfigError, OSError."""
        file = self._picture(decision.number).file
        if not 0 <= decision.labels < len(self._sets):
            raise ValueError(f"there is no set {decision.labels}")
        name, sources = self._sets[decision.labels].name, self._objects(decision.labels, file)
        given = {one.source: one for one in decision.objects if one.source is not None}
        added = [one for one in decision.objects if one.source is None]
        if given.keys() != set(range(len(sources))) or len(given) + len(added) != len(decision.objects):
            raise ValueError("a decision has each object of its set once")
        if len(decision.objects) > MAX_OBJECTS:
            raise ValueError(f"a picture has at most {MAX_OBJECTS} objects")
        objects = [_decided(one, given[place]) for place, one in enumerate(sources)]
        objects += [DecidedObject("added", checked_label(one.label), _checked_box(one.box)) for one in added]
        self._decisions.add(Decision(file, by, round(time.time(), 3), name, tuple(objects)))

    def undo(self, by: str) -> dict[str, Any]:
        """Withdraw the newest decision of a reviewer; return its picture. Raises ValueError, ConfigError, OSError."""
        self._decisions.refresh()
        last = self._decisions.newest(by)
        if last is None:
            raise ValueError(f"{by} has no decision that could be undone")
        if last.image not in self._numbers:
            raise ValueError(f"the picture {last.image} of the newest decision is not in this folder any more")
        self._decisions.add(Decision(last.image, by, round(time.time(), 3), withdrawn=True))
        number = self._numbers[last.image]
        self._open[by] = number
        return {**self._item(number), "upcoming": [], "edits": self._edits(last)}

    def picture(self, number: int) -> bytes:
        """Return a picture as JPEG, made smaller if it is large. Raises ValueError, ConfigError."""
        path = self._folder / self._picture(number).file
        encoded = encode_jpeg(read_picture(path), QUALITY, WIDTH)
        if encoded is None:
            raise ConfigError(f"{path}: too large to be shown")
        return encoded.content

    def _usable(self) -> Iterator[str]:
        for path in find_pictures(self._folder):
            file = path.relative_to(self._folder).as_posix()
            try:
                is_named = safe_file(file) == file
            except ValueError:
                is_named = False
            if not is_named:
                self.left_out["a name that no file of labels can have"] += 1
            elif any(len(one.objects.get(file, ())) > MAX_OBJECTS for one in self._sets):
                self.left_out[f"more than {MAX_OBJECTS} objects"] += 1
            else:
                yield file

    def _ordered(self, files: Sequence[str]) -> list[_Picture]:
        values = {file: usefulness([one.objects.get(file, ()) for one in self._sets], self._labels) for file in files}
        return [_Picture(file, values[file].why) for file in sorted(files, key=lambda file: -values[file].value)]

    def _picture(self, number: int) -> _Picture:
        if not 0 <= number < self.total:
            raise ValueError(f"there is no picture {number}")
        return self._pictures[number]

    def _objects(self, labels: int, file: str) -> Sequence[LabelledObject]:
        return self._sets[labels].objects.get(file, ())

    def _is_reviewed(self, number: int) -> bool:
        return self._decisions.valid(self._pictures[number].file) is not None

    def _counts(self) -> dict[str, Any]:
        return {"reviewed": self.reviewed, "total": self.total}

    def _item(self, number: int) -> dict[str, Any]:
        picture = self._pictures[number]
        objects = [
            [{"label": one.label, "box": one.box, "score": one.score} for one in self._objects(place, picture.file)]
            for place in range(len(self._sets))
        ]
        return {"number": number, "file": picture.file, "why": picture.why, "objects": objects, **self._counts()}

    def _edits(self, decision: Decision) -> dict[str, Any] | None:
        """Return a decision as the page sends it; None if the set that it was made on is another one now."""
        kept = [one for one in decision.objects if one.verdict != "added"]
        before = [one.was or Original(one.label, one.box) for one in kept]
        for place, one in enumerate(self._sets):
            if one.name == decision.labels and before == [*map(_original, self._objects(place, decision.image))]:
                return {"labels": place, "objects": [_edit(n, one) for n, one in enumerate(decision.objects)]}
        return None


def _original(one: LabelledObject) -> Original:
    return Original(one.label, one.box)


def _edit(place: int, one: DecidedObject) -> dict[str, Any]:
    source = None if one.verdict == "added" else place
    return {"source": source, "label": one.label, "box": one.box, "wrong": one.verdict == "wrong"}


def _decided(one: LabelledObject, given: ReviewedObject) -> DecidedObject:
    """Return an object of a set with the verdict. A box that did not move keeps its exact value and its outline."""
    if given.wrong:
        return DecidedObject("wrong", one.label, one.box, one.outline, one.score)
    label, box = checked_label(given.label), _checked_box(given.box)
    has_moved = any(abs(a - b) > ROUNDING for a, b in zip(box, one.box, strict=True))
    if not has_moved and label == one.label:
        return DecidedObject("right", label, one.box, one.outline, one.score)
    outline = () if has_moved else one.outline
    return DecidedObject("changed", label, box if has_moved else one.box, outline, one.score, _original(one))


def _checked_box(box: Rect) -> Rect:
    """Return a box, clipped to the picture. Raises ValueError if nothing is left."""
    x0, y0, x1, y1 = (min(max(value, 0.0), 1.0) for value in box)
    if not all(map(math.isfinite, box)) or x0 >= x1 or y0 >= y1:
        raise ValueError("a box needs four coordinates, x0 < x1 and y0 < y1, and an area in the picture")
    return x0, y0, x1, y1
