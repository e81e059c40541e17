"""Parsing of zones and lines: polygons and pairs of points in fractions of the frame."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator

from streamer.core.settings import split_numbers
from streamer.types import Point

_MIN_AREA = 1e-4
"""Smallest area of a zone, as a fraction of the frame."""


def parse_polygon(value: Any) -> tuple[Point, ...]:
    """Return the corners as fractions of the frame. A text holds them in one row: `x,y,x,y,x,y`. Raises ValueError."""
    if isinstance(value, str):
        value = _pairs(value)
    if not isinstance(value, (list, tuple)) or len(value) < 3:
        raise ValueError("must be a list of at least three corners [x, y]")
    try:
        points = tuple((float(x), float(y)) for x, y in value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("must be a list of corners [x, y], each a fraction of the frame between 0 and 1") from None
    for x, y in points:
        if not (0 <= x <= 1 and 0 <= y <= 1):
            pixels = " (in pixels? divide x by the frame's width and y by its height)" if max(x, y) > 1 else ""
            raise ValueError(f"the corner [{x:g}, {y:g}] is outside the frame: both must be between 0 and 1{pixels}")
    around = zip(points, [*points[1:], points[0]], strict=True)
    if abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in around)) / 2 < _MIN_AREA:
        raise ValueError("has no area: its corners are on a line, or its sides cross")
    return points


def parse_line(value: Any) -> tuple[Point, Point]:
    """Return the two ends of a line as fractions of the frame. A text holds them in one row. Raises ValueError."""
    if isinstance(value, str):
        value = _pairs(value)
    try:
        (x0, y0), (x1, y1) = value
        start, end = (float(x0), float(y0)), (float(x1), float(y1))
    except (TypeError, ValueError, OverflowError):
        raise ValueError("must be the two ends of a line, such as [[0.1, 0.5], [0.9, 0.5]]") from None
    for x, y in (start, end):
        if not (0 <= x <= 1 and 0 <= y <= 1):
            raise ValueError(f"the end [{x:g}, {y:g}] is outside the frame: both must be between 0 and 1")
    if start == end:
        raise ValueError("has no length: its ends are one point")
    return start, end


def _pairs(text: str) -> Any:
    """Return the points of a text; the text itself if it holds no pairs of numbers."""
    try:
        numbers = split_numbers(text)
    except ValueError:
        return text
    return text if len(numbers) % 2 else list(zip(numbers[::2], numbers[1::2], strict=True))


PolygonField = Annotated[
    tuple[Point, ...], BeforeValidator(parse_polygon, json_schema_input_type=str | list[tuple[float, float]])
]
LineField = Annotated[
    tuple[Point, Point], BeforeValidator(parse_line, json_schema_input_type=str | list[tuple[float, float]])
]
