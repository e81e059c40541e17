"""Calibration of scores: of the boxes with a score near 0.8, four in five should be right."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipelines.dataset.metrics.detection import Match

BINS = 10
"""Ranges of scores of equal width in the reliability table."""


@dataclass(frozen=True, slots=True)
class ReliabilityRow:
    """The boxes of one range of scores."""

    least: float
    """Lowest score of the range; the range ends below that of the next row, the last one with 1."""
    boxes: int
    score: float
    """Mean score of the boxes."""
    right: float
    """Share of the boxes that are right."""


def reliability(matches: Iterable[Match]) -> list[ReliabilityRow]:
    """Return the reliability table of boxes, without ranges that have none."""
    ranges: list[list[Match]] = [[] for _ in range(BINS)]
    for match in matches:
        ranges[min(int(match.score * BINS), BINS - 1)].append(match)
    return [
        ReliabilityRow(
            number / BINS,
            len(some),
            sum(match.score for match in some) / len(some),
            sum(match.is_right for match in some) / len(some),
        )
        for number, some in enumerate(ranges)
        if some
    ]


def calibration_error(rows: Sequence[ReliabilityRow]) -> float | None:
    """Return the expected calibration error: the mean difference of score and share of right boxes; None without boxes.

    See Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017).
    """
    boxes = sum(row.boxes for row in rows)
    return sum(row.boxes * abs(row.score - row.right) for row in rows) / boxes if boxes else None
