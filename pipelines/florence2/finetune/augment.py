"""Varies pictures and their examples between epochs, so that few pictures teach more: light, colour, mirror, zoom.

All examples about one picture of a batch get the same variation, because they share its pixels. A picture is moved or
zoomed only if all its examples are about places: a caption may say where things are, and text cannot be mirrored.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from pipelines.florence2.examples import Example
from streamer.types import Box, Image, Point, Polygon, Region

PLACED = frozenset({
    "object_detection", "region_proposal", "dense_region_caption", "open_vocabulary_detection", "phrase_grounding",
    "referring_segmentation", "region_to_segmentation", "region_to_category", "region_to_description",
})  # fmt: skip
"""Tasks whose answers move with the picture."""
ZOOM = (0.75, 1.35)
"""Least and largest factor."""
GAIN, SHIFT, TINT = 0.25, 20.0, 0.08
"""Largest change of contrast, of brightness in grey levels, and of the colour channels' balance."""
SEEN = 0.5
"""Share of a shape that must stay in the picture. A picture with a shape that is cut more is not zoomed."""
GREY = (128, 128, 128)
_SIDES = re.compile(r"\b(?:left|right)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Variation:
    """A change of a picture: x and y are multiplied by `zoom` and moved, after a mirroring."""

    mirror: bool = False
    zoom: float = 1.0
    right: float = 0.0
    down: float = 0.0
    gain: float = 1.0
    shift: float = 0.0
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def point(self, point: Point) -> Point:
        """Return the new place of a point, which may be outside of the picture."""
        x = 1 - point[0] if self.mirror else point[0]
        return x * self.zoom + self.right, point[1] * self.zoom + self.down

    def image(self, image: Image) -> Image:
        """Return the changed picture, of the same size; new areas are grey."""
        height, width = image.shape[:2]
        changed = image[:, ::-1] if self.mirror else image
        if (self.zoom, self.right, self.down) != (1.0, 0.0, 0.0):
            moved = np.array([[self.zoom, 0, self.right * width], [0, self.zoom, self.down * height]])
            upright = np.ascontiguousarray(changed)
            changed = np.asarray(cv2.warpAffine(upright, moved, (width, height), borderValue=GREY), np.uint8)
        levels = changed.astype(np.float32) * (self.gain * np.array(self.tint, np.float32)) + self.shift
        return np.clip(levels, 0, 255).astype(np.uint8)


def vary(examples: Sequence[Example], seed: str) -> tuple[Variation, list[Example]]:
    """Return a variation of a picture, and the examples about it as they are then. The seed determines both."""
    rng = random.Random(seed)
    light = Variation(
        gain=1 + rng.uniform(-GAIN, GAIN),
        shift=rng.uniform(-SHIFT, SHIFT),
        tint=(1 + rng.uniform(-TINT, TINT), 1.0, 1 + rng.uniform(-TINT, TINT)),
    )
    if any(example.task not in PLACED for example in examples):
        return light, list(examples)
    mirror = rng.random() < 0.5 and not any(_SIDES.search(_words(example)) for example in examples)
    zoom = rng.uniform(*ZOOM)
    room = 1 - zoom
    moved = replace(light, mirror=mirror, zoom=zoom, right=room * rng.random(), down=room * rng.random())
    for variation in (moved, replace(light, mirror=mirror)):
        changed = [_changed(example, variation) for example in examples]
        if all(example is not None for example in changed):
            return variation, [example for example in changed if example is not None]
    return light, list(examples)


def _words(example: Example) -> str:
    answer = example.answer
    labels = [box.label for box in answer.boxes] + [polygon.label for polygon in answer.polygons]
    return " ".join([example.text or "", answer.text or "", *labels])


def _changed(example: Example, variation: Variation) -> Example | None:
    """Return the example after a variation; None if too little of a shape would stay in the picture."""
    boxes = [_box(box, variation) for box in example.answer.boxes]
    polygons = [_polygon(polygon, variation) for polygon in example.answer.polygons]
    region = None if example.region is None else _corners(_rect(example.region), variation)
    if None in boxes or None in polygons or (region is None) != (example.region is None):
        return None
    kept = [box for box in boxes if box is not None]
    if list(example.answer.boxes) == sorted(example.answer.boxes, key=_reading_order):
        kept.sort(key=_reading_order)
    answer = replace(
        example.answer, boxes=tuple(kept), polygons=tuple(polygon for polygon in polygons if polygon is not None)
    )
    return replace(example, answer=answer, region=None if region is None else Region(*region))


def _reading_order(box: Box) -> tuple[float, float]:
    return box.y0, box.x0


def _rect(shape: Box | Region) -> tuple[float, float, float, float]:
    return shape.x0, shape.y0, shape.x1, shape.y1


def _corners(rect: tuple[float, float, float, float], variation: Variation) -> tuple[float, float, float, float] | None:
    (xa, y0), (xb, y1) = variation.point((rect[0], rect[1])), variation.point((rect[2], rect[3]))
    x0, x1 = min(xa, xb), max(xa, xb)
    inside = (max(x0, 0.0), max(y0, 0.0), min(x1, 1.0), min(y1, 1.0))
    size, seen = ((max(0.0, b - a), max(0.0, d - c)) for a, c, b, d in ((x0, y0, x1, y1), inside))
    if size[0] * size[1] <= 0 or seen[0] * seen[1] < SEEN * size[0] * size[1]:
        return None
    return inside


def _box(box: Box, variation: Variation) -> Box | None:
    corners = _corners(_rect(box), variation)
    return None if corners is None else Box(*corners, box.label)


def _polygon(polygon: Polygon, variation: Variation) -> Polygon | None:
    """Return the polygon; None unless all of it stays in the picture."""
    points = [variation.point(point) for point in polygon.points]
    if any(not 0 <= value <= 1 for point in points for value in point):
        return None
    return Polygon(tuple(points), polygon.label)
