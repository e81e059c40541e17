"""Zones: crops a frame to the bounding box of a polygon and maps answers back to the full frame."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from math import ceil, floor

import cv2
import numpy as np

from streamer.types import Answer, Box, Frame, Image, Point, Quad, Region, Zone

_SUBPIXELS = 4
"""Fractional bits of the corner coordinates that OpenCV gets."""

Pixels = tuple[int, int, int, int]
"""left, top, right, bottom"""


def box_of(zone: Zone, width: int, height: int) -> Pixels:
    """Return the bounding box of the zone in a frame of that size, in whole pixels."""
    xs, ys = [x for x, _ in zone.points], [y for _, y in zone.points]
    left, top = min(floor(min(xs) * width), width - 1), min(floor(min(ys) * height), height - 1)
    return left, top, max(left + 1, ceil(max(xs) * width)), max(top + 1, ceil(max(ys) * height))


def crop_to_zone(zone: Zone, frame: Frame) -> Frame:
    """Return a copy of the zone's bounding box, black outside the polygon."""
    height, width = frame.image.shape[:2]
    left, top, right, bottom = box_of(zone, width, height)
    part = cv2.copyTo(frame.image[top:bottom, left:right], _mask(zone, width, height))
    image: Image = np.ascontiguousarray(part, np.uint8)
    image.flags.writeable = False
    return replace(frame, image=image)


@lru_cache(maxsize=64)
def _mask(zone: Zone, width: int, height: int) -> Image:
    left, top, right, bottom = box_of(zone, width, height)
    # fillPoly has the origin at the centre of a pixel.
    corners = (np.array(zone.points) * (width, height) - (left + 0.5, top + 0.5)) * (1 << _SUBPIXELS)
    mask: Image = np.zeros((bottom - top, right - left), np.uint8)
    cv2.fillPoly(mask, [np.rint(corners).astype(np.int32)], (255,), shift=_SUBPIXELS)
    return mask


def to_crop(region: Region, zone: Zone, frame: Frame) -> Region:
    """Return a region of the full frame as fractions of the crop, cut at its edges."""
    height, width = frame.image.shape[:2]
    left, top, right, bottom = box_of(zone, width, height)
    xs = [min(max((x * width - left) / (right - left), 0.0), 1.0) for x in (region.x0, region.x1)]
    ys = [min(max((y * height - top) / (bottom - top), 0.0), 1.0) for y in (region.y0, region.y1)]
    return Region(xs[0], ys[0], xs[1], ys[1])


def to_full_frame(answer: Answer, zone: Zone, frame: Frame) -> Answer:
    """Return an answer about the crop of `frame` with its coordinates in the full frame."""
    height, width = frame.image.shape[:2]
    left, top, right, bottom = box_of(zone, width, height)

    def to_frame(x: float, y: float) -> Point:
        return (left + x * (right - left)) / width, (top + y * (bottom - top)) / height

    def box(old: Box) -> Box:
        (x0, y0), (x1, y1) = to_frame(old.x0, old.y0), to_frame(old.x1, old.y1)
        return replace(old, x0=x0, y0=y0, x1=x1, y1=y1)

    def points(old: Iterable[Point]) -> tuple[Point, ...]:
        return tuple(to_frame(x, y) for x, y in old)

    def quad(old: Quad) -> Quad:
        first, second, third, fourth = points(old.points)
        return replace(old, points=(first, second, third, fourth))

    return replace(
        answer,
        boxes=tuple(map(box, answer.boxes)),
        polygons=tuple(replace(old, points=points(old.points)) for old in answer.polygons),
        quads=tuple(map(quad, answer.quads)),
        spans=tuple(replace(span, boxes=tuple(map(box, span.boxes))) for span in answer.spans),
    )
