"""Comparison of the int8 model's answers with those of the float32 model, and the floor that admits it by task.

Pure functions over pairs of answers to the same job.
"""

from __future__ import annotations

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
"""Default share of shapes, and of words, that must be equal for a task to pass."""
MIN_ITEMS = 20
"""Shapes and words of a task below which nothing is known: one of 19 that differs would be 5 %."""
_RASTER = 256
"""Pixels per side of the area in which two outlines are compared."""

Outline = Sequence[Point]


@dataclass(frozen=True, slots=True)
class Generated:
    """One model's answer to one job."""

    tokens: Sequence[int]
    answer: Answer | None
    """None if the job ended with an error."""
    seconds: float = 0.0
    """Time from admission to answer, the job alone in the engine."""


@dataclass(slots=True)
class Agreement:
    """Sums over all held-out frames of one task."""

    task: str
    answers: int = 0
    tokens: int = 0
    equal_tokens: int = 0
    shapes: int = 0
    equal_shapes: int = 0
    overlaps: list[float] = field(default_factory=list)
    """IoU of the shapes that have a partner with the same label."""
    labels: int = 0
    equal_labels: int = 0
    words: int = 0
    equal_words: int = 0
    reference_s: float = 0.0
    int8_s: float = 0.0

    def add(self, reference: Generated, int8: Generated) -> None:
        """Count one pair. A job that fails in float32 says nothing about int8 and is not counted."""
        if reference.answer is None:
            return
        found = int8.answer or Answer()
        self.answers += 1
        self.reference_s += reference.seconds
        self.int8_s += int8.seconds
        self._add_tokens(reference.tokens, int8.tokens)
        self._add_shapes(_shapes(reference.answer), _shapes(found))
        self._add_words(_words(reference.answer), _words(found))

    def _add_tokens(self, expected: Sequence[int], found: Sequence[int]) -> None:
        longest = max(len(expected), len(found))
        self.tokens += longest
        self.equal_tokens += longest - edit_distance(expected, found)

    def _add_shapes(self, expected: Sequence[tuple[str, Outline]], found: Sequence[tuple[str, Outline]]) -> None:
        overlaps = pair(expected, found)
        count = max(len(expected), len(found))
        self.shapes += count
        self.equal_shapes += sum(overlap >= GOOD_IOU for overlap in overlaps)
        self.overlaps += overlaps
        self.labels += count
        self.equal_labels += (Counter(label for label, _ in expected) & Counter(label for label, _ in found)).total()

    def _add_words(self, expected: Sequence[str], found: Sequence[str]) -> None:
        longest = max(len(expected), len(found))
        self.words += longest
        self.equal_words += longest - edit_distance(expected, found)

    def refusal(self, floor: float) -> str | None:
        """Return why int8 must not run this task, or None."""
        if self.shapes + self.words < MIN_ITEMS:
            return (
                f"only {self.shapes} shapes and {self.words} words to compare, at least {MIN_ITEMS} are needed: "
                "give more frames that show something"
            )
        for name, equal, count in (
            ("shapes", self.equal_shapes, self.shapes),
            ("words", self.equal_words, self.words),
        ):
            if count and equal / count < floor:
                return f"{equal} of {count} {name} are equal ({equal / count:.3f}, floor {floor:g})"
        return None

    def row(self, floor: float) -> dict[str, Any]:
        """Return the row of the saved report."""
        return {
            "passed": self.refusal(floor) is None,
            "reason": self.refusal(floor),
            "answers": self.answers,
            "tokens": _share(self.equal_tokens, self.tokens),
            "shapes": _share(self.equal_shapes, self.shapes),
            "shapes_compared": self.shapes,
            "mean_iou": round(float(np.mean(self.overlaps)), 4) if self.overlaps else None,
            "labels": _share(self.equal_labels, self.labels),
            "words": _share(self.equal_words, self.words),
            "words_compared": self.words,
            "float32_s": round(self.reference_s / max(1, self.answers), 4),
            "int8_s": round(self.int8_s / max(1, self.answers), 4),
        }


def _share(equal: int, count: int) -> float | None:
    return round(equal / count, 4) if count else None


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
