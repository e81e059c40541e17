"""Compare detected boxes with the true ones of the synthetic camera."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from streamer.core.boxes import Rect, iou

GOOD_IOU = 0.5
"""Least overlap (intersection over union) at which an object counts as found."""


@dataclass(frozen=True, slots=True)
class Row:
    """A true object and the box detected for it; one of them is None for a missed or a false detection."""

    label: str
    detected: Rect | None
    truth: Rect | None

    @property
    def iou(self) -> float:
        return iou(self.detected, self.truth) if self.detected and self.truth else 0.0

    @property
    def found(self) -> bool:
        return self.iou >= GOOD_IOU

    def __str__(self) -> str:
        verdict = f"IoU {self.iou:.2f}" if self.detected and self.truth else "missed" if self.truth else "false"
        return f"{self.label:9} detected {_corners(self.detected):21} truth {_corners(self.truth):21} {verdict}"


@dataclass(slots=True)
class Score:
    """Sum of all comparisons."""

    rows: list[Row] = field(default_factory=list)
    ages: list[float] = field(default_factory=list)
    """Milliseconds from capture to publication, one per event."""

    def summary(self) -> str:
        true = [row for row in self.rows if row.truth]
        found = [row.iou for row in true if row.found]
        if not found:
            return f"{len(self.ages)} events, no object found."
        return (
            f"{len(self.ages)} events. {len(found)} of {len(true)} objects found: recall@{GOOD_IOU:g} "
            f"{len(found) / len(true):.2f}, mean IoU {statistics.fmean(found):.2f}; "
            f"{len(self.rows) - len(true)} false detections.\n"
            f"Age of events: median {statistics.median(self.ages):.0f} ms, maximum {max(self.ages):.0f} ms."
        )


def match(detected: Sequence[tuple[str, Rect]], truth: Sequence[tuple[str, Rect]]) -> list[Row]:
    """Pair each detection with a true object of the same label, largest overlap first; return pairs and leftovers.

    Both are (label, box).
    """
    pairs = [
        (iou(box, true_box), i, j)
        for i, (label, box) in enumerate(detected)
        for j, (true_label, true_box) in enumerate(truth)
        if label == true_label
    ]
    partner: dict[int, int] = {}
    for overlap, i, j in sorted(pairs, reverse=True):
        if overlap > 0 and i not in partner.values() and j not in partner:
            partner[j] = i
    rows = [Row(label, detected[partner[j]][1] if j in partner else None, box) for j, (label, box) in enumerate(truth)]
    return rows + [Row(label, box, None) for i, (label, box) in enumerate(detected) if i not in partner.values()]


def _corners(rect: Rect | None) -> str:
    return " ".join(f"{edge:.2f}" for edge in rect) if rect else "-"
