"""Zones: a task sees the box around a polygon, black outside of it, and its answer is put back into the full frame."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from math import ceil, floor
from typing import Annotated, Any

import cv2
import numpy as np
from pydantic import BeforeValidator

from streamer.types import Answer, Box, Frame, Image, Point, Polygon, Quad, Zone

_SUBPIXELS = 4
"""Bits of a corner's place within its pixel."""
_SMALLEST = 1e-4
"""Share of the frame that a zone must cover at least."""

Pixels = tuple[int, int, int, int]
"""left, top, right, bottom"""


def parse_polygon(value: Any) -> tuple[Point, ...]:
    """Corners as fractions of the frame. Raises ValueError."""
    if not isinstance(value, (list, tuple)) or len(value) < 3:
        raise ValueError("must be a list of at least three corners [x, y]")
    try:
        points = tuple((float(x), float(y)) for x, y in value)
    except (TypeError, ValueError):
        raise ValueError("must be a list of corners [x, y], each a fraction of the frame between 0 and 1") from None
    for x, y in points:
        if not (0 <= x <= 1 and 0 <= y <= 1):
            raise ValueError(f"the corner [{x:g}, {y:g}] is outside the frame: both must be between 0 and 1")
    around = zip(points, [*points[1:], points[0]], strict=True)
    if abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in around)) / 2 < _SMALLEST:
        raise ValueError("has no area: its corners are on a line, or its sides cross")
    return points


PolygonField = Annotated[
    tuple[Point, ...], BeforeValidator(parse_polygon, json_schema_input_type=list[tuple[float, float]])
]


def box_of(zone: Zone, width: int, height: int) -> Pixels:
    """The whole pixels of a frame of that size which the zone touches."""
    xs, ys = [x for x, _ in zone.points], [y for _, y in zone.points]
    left, top = min(floor(min(xs) * width), width - 1), min(floor(min(ys) * height), height - 1)
    return left, top, max(left + 1, ceil(max(xs) * width)), max(top + 1, ceil(max(ys) * height))


def seen(zone: Zone, frame: Frame) -> Frame:
    """The frame as a task of that zone sees it: a copy of the zone's box, black outside the polygon."""
    height, width = frame.image.shape[:2]
    left, top, right, bottom = box_of(zone, width, height)
    part = cv2.copyTo(frame.image[top:bottom, left:right], _mask(zone, width, height))
    image: Image = np.ascontiguousarray(part, np.uint8)
    image.flags.writeable = False
    return replace(frame, image=image)


@lru_cache(maxsize=64)
def _mask(zone: Zone, width: int, height: int) -> Image:
    left, top, right, bottom = box_of(zone, width, height)
    # fillPoly counts from the middle of a pixel.
    corners = (np.array(zone.points) * (width, height) - (left + 0.5, top + 0.5)) * (1 << _SUBPIXELS)
    mask: Image = np.zeros((bottom - top, right - left), np.uint8)
    cv2.fillPoly(mask, [np.rint(corners).astype(np.int32)], (255,), shift=_SUBPIXELS)
    return mask


def in_frame(answer: Answer, zone: Zone, frame: Frame) -> Answer:
    """An answer about what was seen of `frame`, with the places in the full frame."""
    height, width = frame.image.shape[:2]
    left, top, right, bottom = box_of(zone, width, height)

    def place(x: float, y: float) -> Point:
        return (left + x * (right - left)) / width, (top + y * (bottom - top)) / height

    def box(old: Box) -> Box:
        (x0, y0), (x1, y1) = place(old.x0, old.y0), place(old.x1, old.y1)
        return replace(old, x0=x0, y0=y0, x1=x1, y1=y1)

    def points(old: Iterable[Point]) -> tuple[Point, ...]:
        return tuple(place(x, y) for x, y in old)

    def quad(old: Quad) -> Quad:
        first, second, third, fourth = points(old.points)
        return replace(old, points=(first, second, third, fourth))

    def polygon(old: Polygon) -> Polygon:
        return replace(old, points=points(old.points))

    return replace(
        answer,
        boxes=tuple(map(box, answer.boxes)),
        polygons=tuple(map(polygon, answer.polygons)),
        quads=tuple(map(quad, answer.quads)),
    )
