"""Reasons to collect a frame, found in its answers: unsure scores, tasks that disagree, tracks with a break."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import NamedTuple

from streamer.core.boxes import Rect, bounds, iou
from streamer.types import Answer, Box, Result, TaskSpec

SAME_IOU = 0.5
"""Overlap from which on two shapes are the same object."""
MIN_SEEN = 3
"""Answers in a row that must show an object before its absence is a break of its track."""
EDGE = 0.02
"""Distance from the edge of the frame, as a fraction, at which an object may be leaving."""
MAX_NAMES = 1000
"""Labels of a task that are remembered."""
MAX_TEXT = 60
"""Characters of a label in a reason."""
_PARTS = re.compile(r"[,;.]|\b(?:and|or)\b")
_ARTICLES = frozenset(("a", "an", "the"))

Words = frozenset[str]


class Shape(NamedTuple):
    """A box, or the bounding box of an outline."""

    box: Rect
    label: str
    score: float | None


def shapes_of(answer: Answer) -> Iterator[Shape]:
    """Yield the boxes and outlines of an answer."""
    for box in answer.boxes:
        yield Shape(rect(box), box.label, box.score)
    for polygon in answer.polygons:
        if polygon.points:
            yield Shape(bounds(polygon.points), polygon.label, polygon.score)


def rect(box: Box) -> Rect:
    return box.x0, box.y0, box.x1, box.y1


def unsure(results: Iterable[Result], low: float, high: float) -> Iterator[str]:
    """Yield a reason for each answer with a shape whose score is within `low` to `high`."""
    for result in results:
        scores = [(one.score, one.label) for one in shapes_of(result.answer) if one.score is not None]
        found = [one for one in scores if low <= one[0] <= high]
        if found:
            score, label = min(found)
            yield f"score: {result.job.due.task.name}: {label[:MAX_TEXT]} {score:.2f}"


@dataclass(slots=True)
class Disagreements:
    """Compares the answers about each frame of one stream."""

    specs: Mapping[str, TaskSpec]
    _names: dict[str, dict[Words, None]] = field(default_factory=dict)
    """Labels that each task has given."""

    def find(self, results: Sequence[Result]) -> Iterator[str]:
        """Yield a reason for each pair of answers about one frame that disagree, and for each denied shape."""
        for result in results:
            yield from self._within(result)
        whole = [one for one in results if one.job.due.parent is None and one.job.due.task.params.prompt_region is None]
        for one, other in permutations(whole, 2):
            if one.job.due.task.zone == other.job.due.task.zone:
                yield from self._missed(one, other)
        for result in whole:
            known = self._names.setdefault(result.job.due.task.name, {})
            known.update(dict.fromkeys(_words(shape.label) for shape in shapes_of(result.answer)))
            while len(known) > MAX_NAMES:
                del known[next(iter(known))]

    def _within(self, result: Result) -> Iterator[str]:
        """Yield what an answer says against itself, or against the answer that it follows."""
        name, answer, parent = result.job.due.task.name, result.answer, result.job.due.parent
        if answer.confirmation is not None:
            for refused in answer.confirmation.refused:
                if refused.reason in ("words", "score"):
                    yield f"disagreement: {name}: {refused.box.label[:MAX_TEXT]} was not confirmed"
        for span in answer.spans:
            if not span.is_supported and answer.text is not None:
                yield f"disagreement: {name}: {answer.text[span.start : span.end][:MAX_TEXT]} was not found"
        if parent is None or not (parent.label and answer.text and self.specs[result.job.due.task.task].names_region):
            return
        if _words(parent.label).isdisjoint(_words(answer.text)):
            yield f"disagreement: {name}: {parent.label[:MAX_TEXT]} is {answer.text[:MAX_TEXT]}"

    def _missed(self, one: Result, other: Result) -> Iterator[str]:
        """Yield the first shape of an answer that another task could have found and has not."""
        others = list(shapes_of(other.answer))
        finds_anything = any(not shape.label for shape in others)
        names = self._names_of(other)
        for shape in shapes_of(one.answer):
            if not shape.label or not (finds_anything or _words(shape.label) in names):
                continue
            if not any(iou(shape.box, there.box) >= SAME_IOU for there in others):
                found, missed = one.job.due.task.name, other.job.due.task.name
                yield f"disagreement: {found} found {shape.label[:MAX_TEXT]}, {missed} did not"
                return

    def _names_of(self, result: Result) -> set[Words]:
        """Return the labels that a task can give: those of its text, or those that it has given."""
        task = result.job.due.task
        if task.params.prompt_text is not None:
            return {_words(part) for part in _PARTS.split(task.params.prompt_text)}
        return set(self._names.get(task.name, ())) | {_words(label) for label in task.params.labels or ()}


class Break(NamedTuple):
    """An object that an answer does not show although answers before it did."""

    track: int
    label: str


@dataclass(slots=True)
class TrackMemory:
    """The objects of one task of one stream in its last answer."""

    _seen: dict[int, tuple[int, Box]] = field(default_factory=dict)
    """Answers in a row and last box, by track."""

    def observe(self, boxes: Sequence[Box]) -> tuple[list[str], list[Break]]:
        """Take the next answer; return the labels that changed, as text, and the objects that are missing.

        An object at the edge of the frame may have left it, and is not missing.
        """
        present = {box.track for box in boxes}
        flips, breaks = [], []
        for track, (count, last) in self._seen.items():
            if track in present or count < MIN_SEEN:
                continue
            same = [box for box in boxes if iou(rect(box), rect(last)) >= SAME_IOU]
            if not same:
                if min(last.x0, last.y0, 1 - last.x1, 1 - last.y1) >= EDGE:
                    breaks.append(Break(track, last.label))
            elif all(box.label != last.label for box in same):
                flips.append(f"{last.label[:MAX_TEXT]} became {same[0].label[:MAX_TEXT]}")
        before = self._seen
        self._seen = {
            box.track: (before.get(box.track, (0, box))[0] + 1, box) for box in boxes if box.track is not None
        }
        return flips, breaks


def _words(text: str) -> Words:
    return frozenset(text.casefold().split()) - _ARTICLES
