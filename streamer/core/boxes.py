"""Rectangles with sides parallel to those of the picture."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamer.types import Point

Rect = tuple[float, float, float, float]
"""x0, y0, x1, y1 in fractions of the frame."""


def area(box: Rect) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def intersection(a: Rect, b: Rect) -> float:
    """Return the area that two boxes share."""
    return area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))


def iou(a: Rect, b: Rect) -> float:
    """Return the intersection over union of two boxes; 0 for boxes without an area."""
    common = intersection(a, b)
    union = area(a) + area(b) - common
    return common / union if union > 0 else 0.0


def bounds(points: Sequence[Point]) -> Rect:
    """Return the bounding box of points."""
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def covered(box: Rect, polygon: Sequence[Point]) -> float:
    """Return the area of a box that lies in a polygon: that of the polygon, clipped to each side of the box in turn."""
    points = list(polygon)
    for axis, edge, sign in ((0, box[0], 1), (1, box[1], 1), (0, box[2], -1), (1, box[3], -1)):
        clipped: list[Point] = []
        for before, after in pairwise([*points, *points[:1]]):
            inside = [sign * (point[axis] - edge) >= 0 for point in (before, after)]
            if inside[0] != inside[1]:
                part = (edge - before[axis]) / (after[axis] - before[axis])
                crossing = [start + part * (end - start) for start, end in zip(before, after, strict=True)]
                crossing[axis] = edge
                clipped.append((crossing[0], crossing[1]))
            if inside[1]:
                clipped.append(after)
        points = clipped
    around = pairwise([*points, *points[:1]])
    return abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in around)) / 2
