"""Points, zones and lines in fractions of the frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from streamer.core.boxes import Rect
from streamer.types import Point


def foot(box: Rect) -> Point:
    """Return the middle of the lower edge of a box: the place where a person or a vehicle stands."""
    x0, _, x1, y1 = box
    return (x0 + x1) / 2, y1


def is_inside(point: Point, polygon: Sequence[Point]) -> bool:
    """Return whether a point is in a polygon (even-odd rule)."""
    x, y = point
    inside = False
    x0, y0 = polygon[-1]
    for x1, y1 in polygon:
        if (y0 > y) != (y1 > y) and x < (x1 - x0) * (y - y0) / (y1 - y0) + x0:
            inside = not inside
        x0, y0 = x1, y1
    return inside


def crossing(line: tuple[Point, Point], before: Point, after: Point) -> Literal["left", "right"] | None:
    """Return the side of `line` to which the way from `before` to `after` crosses it, or None.

    Sides are as a viewer of the picture sees them who stands at the line's first end and looks to its second.
    """
    start, end = line
    old, new = _side(start, end, before), _side(start, end, after)
    if (old > 0) == (new > 0) or (_side(before, after, start) > 0) == (_side(before, after, end) > 0):
        return None
    return "right" if new > 0 else "left"


def _side(start: Point, end: Point, point: Point) -> float:
    """Return a number above zero for a point on the right; y grows downwards."""
    return (end[0] - start[0]) * (point[1] - start[1]) - (end[1] - start[1]) * (point[0] - start[0])
