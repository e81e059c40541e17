"""Scores from 0 to 1 for texts and shapes, computed from the uncertainty of their tokens. Pure functions.

A text's score is the geometric mean of its tokens' probabilities. A shape's score is the probability of its label times
the expected overlap of its location: an edge that is off by e bins costs a share of about e / side. Of the formulas
that were compared, this one separates right boxes from wrong ones best (`benchmarks/scores.py`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from streamer.types import Answer


def text_score(uncertainty: Sequence[float]) -> float | None:
    """Return the score of a text from its tokens' uncertainty; None without tokens."""
    return math.exp(-sum(uncertainty) / len(uncertainty)) if uncertainty else None


def shape_score(label: Sequence[float], bins: Sequence[int], errors: Sequence[float]) -> float | None:
    """Return the score of a shape; None when the errors are unknown.

    `label` is the uncertainty of the label's tokens, `bins` the corners as x, y, x, y, ..., and `errors` the expected
    error of each in bins.
    """
    if not errors:
        return None
    overlap = 1.0
    for axis in (0, 1):
        side = max(bins[axis::2]) - min(bins[axis::2]) + 1
        along = errors[axis::2]
        overlap /= 1 + 2 * sum(along) / len(along) / side
    return math.exp(-sum(label)) * overlap


def at_least(answer: Answer, score: float) -> Answer:
    """Return the answer without the shapes that score less; a shape without a score counts as 0."""
    return dataclasses.replace(
        answer,
        boxes=tuple(box for box in answer.boxes if (box.score or 0) >= score),
        polygons=tuple(polygon for polygon in answer.polygons if (polygon.score or 0) >= score),
        quads=tuple(quad for quad in answer.quads if (quad.score or 0) >= score),
    )
