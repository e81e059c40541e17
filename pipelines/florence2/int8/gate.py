"""Comparison of the int8 model's answers with those of the float32 model, and the floor that admits it by task.

Pure functions over pairs of answers to the same job.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from streamer.types import Answer, Point

GOOD_IOU = 0.9
"""Overlap (intersection over union) from which on two shapes with one label count as equal."""
FLOOR = 0.98
"""Default share of shapes, words and statements that must be equal for a task to pass."""
MARGIN = 0.01
"""The true share must be at least floor - MARGIN with the confidence of `_Z`. Of 155 items that differed on the shipped
model, 27 were right in float32 only and 23 in int8 only; if a third were lost, 3 % that differ would cost one point."""
_Z = 1.645
"""Quantile of the normal distribution for a one-sided confidence of 95 %."""
MIN_ITEMS = 100
"""Shapes, words or statements below which nothing is known. With fewer, not even equal answers would be enough."""
READING = frozenset({"ocr", "ocr_with_region", "region_to_ocr"})
"""Tasks whose text is what stands in the picture: each word counts. Text of other tasks makes statements about it."""
_RASTER = 256
"""Pixels per side of the area in which two outlines are compared."""

Outline = Sequence[Point]


@dataclass(frozen=True, slots=True)
class Generated:
    """One model's answer to one job."""

    tokens: Sequence[int]
    answer: Answer | None
    """None if the job ended with an error."""


@dataclass(slots=True)
class Count:
    """Items of one kind in the answers, and how many of them are equal."""

    equal: int = 0
    items: int = 0

    def add(self, equal: int, items: int) -> None:
        self.equal += equal
        self.items += items

    @property
    def share(self) -> float | None:
        return round(self.equal / self.items, 4) if self.items else None

    @property
    def least(self) -> float:
        """The lower bound of Wilson's confidence interval for the share; 0 without items."""
        if not self.items:
            return 0.0
        share, z2 = self.equal / self.items, _Z * _Z
        spread = _Z * math.sqrt(share * (1 - share) / self.items + z2 / (4 * self.items * self.items))
        return (share + z2 / (2 * self.items) - spread) / (1 + z2 / self.items)

    def refusal(self, kind: str, floor: float) -> str | None:
        """Return why so many equal items are not enough, or None."""
        share = self.equal / self.items
        if share < floor:
            return f"{self.equal} of {self.items} {kind} are equal ({share:.3f}, floor {floor:g})"
        if self.items < MIN_ITEMS:
            return f"only {self.items} {kind} to compare, at least {MIN_ITEMS} are needed: give more frames"
        if self.least < floor - MARGIN:
            return (
                f"{self.equal} of {self.items} {kind} are equal, which only shows a share of {self.least:.3f}, and "
                f"{floor - MARGIN:g} is needed: give more frames"
            )
        return None


@dataclass(slots=True)
class Agreement:
    """Sums over all held-out frames of one task."""

    task: str
    answers: int = 0
    tokens: Count = field(default_factory=Count)
    shapes: Count = field(default_factory=Count)
    overlaps: list[float] = field(default_factory=list)
    """IoU of the shapes that have a partner with the same label."""
    labels: Count = field(default_factory=Count)
    words: Count = field(default_factory=Count)
    statements: Count = field(default_factory=Count)

    def add(self, reference: Generated, int8: Generated) -> None:
        """Count one pair. A job that fails in float32 says nothing about int8 and is not counted."""
        if reference.answer is None:
            return
        found = int8.answer or Answer()
        self.answers += 1
        _add_sequence(self.tokens, reference.tokens, int8.tokens)
        self._add_shapes(_shapes(reference.answer), _shapes(found))
        _add_sequence(self.words, _words(reference.answer), _words(found))
        if self.task not in READING:
            _add_bag(self.statements, _statements(reference.answer), _statements(found))

    def _add_shapes(self, expected: Sequence[tuple[str, Outline]], found: Sequence[tuple[str, Outline]]) -> None:
        overlaps = pair(expected, found)
        self.shapes.add(sum(overlap >= GOOD_IOU for overlap in overlaps), max(len(expected), len(found)))
        self.overlaps += overlaps
        _add_bag(self.labels, [label for label, _ in expected], [label for label, _ in found])

    def refusal(self, floor: float) -> str | None:
        """Return why int8 must not run this task, or None."""
        kinds = {"shapes": self.shapes, "words": self.words, "statements": self.statements}
        compared = {kind: count for kind, count in kinds.items() if count.items}
        if not compared:
            return f"the {self.answers} answers are empty: give frames that show something"
        return next((reason for kind, count in compared.items() if (reason := count.refusal(kind, floor))), None)

    def row(self, floor: float) -> dict[str, Any]:
        """Return the row of the saved report."""
        reason = self.refusal(floor)
        return {
            "passed": reason is None,
            "reason": reason,
            "answers": self.answers,
            "tokens": self.tokens.share,
            "shapes": self.shapes.share,
            "shapes_compared": self.shapes.items,
            "mean_iou": round(float(np.mean(self.overlaps)), 4) if self.overlaps else None,
            "labels": self.labels.share,
            "words": self.words.share,
            "words_compared": self.words.items,
            "statements": self.statements.share,
            "statements_compared": self.statements.items,
        }


def _add_sequence(count: Count, expected: Sequence[Any], found: Sequence[Any]) -> None:
    longest = max(len(expected), len(found))
    count.add(longest - edit_distance(expected, found), longest)


def _add_bag(count: Count, expected: Sequence[str], found: Sequence[str]) -> None:
    count.add((Counter(expected) & Counter(found)).total(), max(len(expected), len(found)))


def edit_distance(a: Sequence[Any], b: Sequence[Any]) -> int:
    """Return the number of items to insert, remove or replace to turn one sequence into the other."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, right in enumerate(b, 1):
            diagonal, row[j] = row[j], min(diagonal + (left != right), row[j] + 1, row[j - 1] + 1)
    return row[-1]


def pair(expected: Sequence[tuple[str, Outline]], found: Sequence[tuple[str, Outline]]) -> list[float]:
    """Return the overlap of each expected shape with its own partner of the same label, largest overlap first."""
    overlaps = [
        (outline_iou(outline, other), i, j)
        for i, (label, outline) in enumerate(expected)
        for j, (other_label, other) in enumerate(found)
        if label == other_label
    ]
    used: set[tuple[str, int]] = set()
    pairs = []
    for overlap, i, j in sorted(overlaps, reverse=True):
        if overlap > 0 and not {("expected", i), ("found", j)} & used:
            used |= {("expected", i), ("found", j)}
            pairs.append(overlap)
    return pairs


def outline_iou(a: Outline, b: Outline) -> float:
    """Return the intersection over union of the areas inside two outlines."""
    first, second = np.array(a, float), np.array(b, float)
    low = np.minimum(first.min(0), second.min(0))
    size = np.maximum(np.maximum(first.max(0), second.max(0)) - low, 1e-9)
    if (first.min(0) > second.max(0)).any() or (second.min(0) > first.max(0)).any():
        return 0.0
    masks = [_mask((outline - low) / size) for outline in (first, second)]
    union = int((masks[0] | masks[1]).sum())
    return int((masks[0] & masks[1]).sum()) / union if union else 0.0


def _mask(outline: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    mask = np.zeros((_RASTER, _RASTER), np.uint8)
    cv2.fillPoly(mask, [np.round(outline * (_RASTER - 1) * 16).astype(np.int32)], 1, shift=4)
    return mask > 0


def _shapes(answer: Answer) -> list[tuple[str, Outline]]:
    """Return labels and outlines. A quad's words are compared apart, so that a misread letter counts once."""
    boxes = [
        (box.label, ((box.x0, box.y0), (box.x1, box.y0), (box.x1, box.y1), (box.x0, box.y1))) for box in answer.boxes
    ]
    polygons = [(polygon.label, polygon.points) for polygon in answer.polygons]
    quads = [("", quad.points) for quad in answer.quads]
    return [*boxes, *polygons, *quads]


def _words(answer: Answer) -> list[str]:
    texts = [answer.text or "", *(quad.label for quad in answer.quads)]
    return [word for text in texts for word in text.split()]


def _statements(answer: Answer) -> list[str]:
    """Return the parts of a text between full stops, commas and semicolons: a wrong word makes its statement wrong."""
    parts = (" ".join(part.split()) for part in re.split(r"[.,;]\s", f"{answer.text or ''} "))
    return [part for part in parts if part]
