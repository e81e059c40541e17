"""From the doubts about an answer's tokens to one score, 0 to 1, for each thing in it. Pure.

A text: the geometric mean of its tokens' probabilities. A shape: the probability of its words, times the overlap that
is expected of its place: an edge that is off by e takes a share of about e / side. Of the ways that were tried this one
tells right boxes from wrong ones best (`benchmarks/scores.py`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from streamer.types import Answer


def text_score(doubts: Sequence[float]) -> float | None:
    """None where nothing is known or nothing was written."""
    return math.exp(-sum(doubts) / len(doubts)) if doubts else None


def shape_score(words: Sequence[float], bins: Sequence[int], off: Sequence[float]) -> float | None:
    """Of a shape whose corners are `bins` x, y, x, y, ..., each expected to be `off` by some bins; None if unknown."""
    if not off:
        return None
    overlap = 1.0
    for axis in (0, 1):
        side = max(bins[axis::2]) - min(bins[axis::2]) + 1
        errors = off[axis::2]
        overlap /= 1 + 2 * sum(errors) / len(errors) / side
    return math.exp(-sum(words)) * overlap


def at_least(answer: Answer, score: float) -> Answer:
    """Without the shapes that score less. What is no number is less than anything."""
    return dataclasses.replace(
        answer,
        boxes=tuple(box for box in answer.boxes if (box.score or 0) >= score),
        polygons=tuple(polygon for polygon in answer.polygons if (polygon.score or 0) >= score),
        quads=tuple(quad for quad in answer.quads if (quad.score or 0) >= score),
    )
