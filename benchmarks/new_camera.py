"""A camera that the shipped model does not know: another palette, textures, blur, viewpoint, and two unseen kinds.

Positions and times are those of the toy world (`World`), so the truth about each picture is known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from pipelines.dataset.labels import LabelledObject
from streamer.core.boxes import bounds
from streamer.toyworld import paint
from streamer.toyworld.world import World
from streamer.types import Image

WIDTH, HEIGHT = 320, 240
FIRST_SEED = 700_000
NEW_KINDS = {"cross": "arrow", "ring": "heart"}
"""Unseen kinds, which take the places of known ones."""
KINDS = ("circle", "square", "triangle", "star", "arrow", "heart")
PALETTE: tuple[paint.Colour, ...] = (
    (120, 100, 190), (150, 160, 90), (190, 150, 150), (90, 140, 200), (80, 80, 90), (200, 200, 170),
)  # fmt: skip
"""Pale colours, BGR; the toy world's are strong."""
_ARROW = np.array([(-0.5, -0.18), (0.1, -0.18), (0.1, -0.5), (0.5, 0.0), (0.1, 0.5), (0.1, 0.18), (-0.5, 0.18)])
_VIEW = np.array([(0.06, 0.1), (0.97, 0.0), (1.0, 0.93), (0.0, 1.0)])
"""Corners of the flat world in the picture of a camera that looks at it from the side, clockwise from the top left."""


def _heart() -> npt.NDArray[np.float64]:
    t = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    x, y = 16 * np.sin(t) ** 3, -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x / 32, (y + 2.5) / 29], axis=1)


_CONTOURS = {"arrow": _ARROW, "heart": _heart()}


@dataclass(frozen=True, slots=True)
class Look:
    """Factors that make the pictures of a camera more or less strange."""

    contrast: float
    """Factor of the contrast of the ground's texture."""
    saturation: float
    """Factor of the saturation of the objects' colours."""


LOOKS = {"strange": Look(1.0, 1.0), "similar": Look(0.5, 2.0)}
"""Looks by the name of the camera. The shipped model finds 0.37 and 0.57 of the objects."""


@dataclass(frozen=True, slots=True)
class Shot:
    """A picture and the truth about it."""

    image: Image
    objects: tuple[LabelledObject, ...]


def shot(camera: int, time: float, look: Look) -> Shot:
    """Return the picture of one camera, a function of its number, the time in seconds and its look."""
    scene = World(FIRST_SEED + camera).scene(time)
    view = cv2.getPerspectiveTransform(np.array([(0, 0), (1, 0), (1, 1), (0, 1)], np.float32), _VIEW.astype(np.float32))
    picture = _ground(camera, look.contrast)
    palette = [_saturated(colour, look.saturation) for colour in PALETTE]
    objects = []
    for thing in sorted(scene.objects, key=lambda one: one.box[1] - one.box[3]):  # smaller ones last, on top
        kind = NEW_KINDS.get(thing.kind, thing.kind)
        (x0, y0, x1, y1) = thing.box
        contours = thing.contours
        if kind in _CONTOURS:
            centre, size = np.array(thing.centre), np.array((x1 - x0, y1 - y0))
            contours = (_CONTOURS[kind] * size + centre,)
        seen = [cv2.perspectiveTransform(contour[None], view)[0] for contour in contours]
        colour = palette[int(thing.colour.encode().hex(), 16) % len(palette)]
        paint.draw_shape(picture, seen, colour)
        left, top, right, bottom = bounds([(float(x), float(y)) for x, y in seen[0]])
        objects.append(LabelledObject(kind, (max(left, 0.0), max(top, 0.0), min(right, 1.0), min(bottom, 1.0))))
    blurred = cv2.GaussianBlur(picture, (0, 0), 1.6)
    light = paint.add_light_and_noise(np.asarray(blurred, np.uint8), FIRST_SEED + camera, time, 40)
    return Shot(light, tuple(objects))


def _saturated(colour: paint.Colour, saturation: float) -> paint.Colour:
    grey = sum(colour) / 3
    blue, green, red = (round(min(255.0, max(0.0, grey + saturation * (part - grey)))) for part in colour)
    return blue, green, red


def _ground(camera: int, contrast: float) -> Image:
    """Return a ground of tiles and grain."""
    rng = np.random.default_rng([camera, 11])
    picture = np.full((HEIGHT, WIDTH, 3), rng.uniform(70, 150, 3), np.float32)
    step = int(rng.integers(18, 40))
    for offset in range(0, WIDTH, step):
        cv2.line(picture, (offset, 0), (offset + 20, HEIGHT), (rng.uniform(60, 170, 3)).tolist(), 2, cv2.LINE_AA)
    for offset in range(0, HEIGHT, step):
        cv2.line(picture, (0, offset), (WIDTH, offset - 12), (rng.uniform(60, 170, 3)).tolist(), 2, cv2.LINE_AA)
    picture += rng.normal(0, 14, (HEIGHT, WIDTH, 1)).astype(np.float32)
    mean = picture.mean((0, 1))
    return np.asarray(np.clip(mean + contrast * (picture - mean), 0, 255), np.uint8)
