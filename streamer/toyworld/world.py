"""Simulation of the toy world: moving shapes and signs with known positions.

It is the `synthetic` camera, and the shipped model is trained and tested on it. A scene is a function of seed and time,
so the truth about a frame is `World(seed).scene(pts)`. Objects glide over a background, signs with a word stand still;
every `SCENE_SECONDS` new ones replace them. Shapes are defined for 4:3 images and stretch in others. Coordinates are
fractions of the frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from streamer.toyworld import paint
from streamer.toyworld.paint import COLOURS, Outline, lettering
from streamer.toyworld.words import WORDS
from streamer.types import Image

SCENE_SECONDS = 12.0
"""Duration of a scene."""
LARGE = 0.25
"""Minimum height of a large object, as a fraction of the frame's height."""

_ASPECT = 4 / 3
_TO_FRACTIONS = np.array([1 / _ASPECT, 1.0])


@dataclass(frozen=True, slots=True)
class Difficulty:
    """Parameters that make scenes easy or hard to recognise."""

    sides: tuple[float, float] = (0.08, 0.4)
    """Range of an object's height, as a fraction of the frame's height."""
    objects: tuple[int, int] = (1, 5)
    """Range of the number of objects."""
    overlap: float = 0.3
    """Maximum intersection over union of two objects' boxes at any time."""
    noise: int = 12
    """Peak-to-peak noise in grey levels."""


NORMAL = Difficulty()
HARD = Difficulty(sides=(0.06, 0.16), objects=(3, 6), overlap=0.5, noise=60)
"""Small, overlapping objects and strong noise."""


def _regular(points: int, radii: tuple[float, ...] = (0.5,), turn: float = -0.25) -> Outline:
    angles = 2 * np.pi * (np.arange(points) / points + turn)
    radius = np.resize(np.array(radii), points)
    return np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1)


_CROSS = [(-1, -3), (1, -3), (1, -1), (3, -1), (3, 1), (1, 1), (1, 3), (-1, 3), (-1, 1), (-3, 1), (-3, -1), (-1, -1)]
KINDS: dict[str, tuple[Outline, ...]] = {
    "circle": (_regular(48),),
    "square": (np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)]),),
    "triangle": (np.array([(0.0, -0.5), (0.5, 0.5), (-0.5, 0.5)]),),
    "star": (_regular(10, (0.5, 0.21)),),
    "ring": (_regular(48), _regular(48, (0.27,))),
    "cross": (np.array(_CROSS) / 6.0,),
}
"""Contours of each kind in a unit square around the origin; a second contour is a hole."""

_MAX_CORNERS = 12
"""Maximum number of corners of a silhouette."""


@dataclass(frozen=True, slots=True)
class Thing:
    """An object of a scene at one time: a coloured shape."""

    kind: str
    colour: str
    contours: tuple[Outline, ...]
    box: tuple[float, float, float, float]

    @property
    def size(self) -> str:
        return "large" if self.box[3] - self.box[1] >= LARGE else "small"

    @property
    def centre(self) -> tuple[float, float]:
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2

    @property
    def silhouette(self) -> Outline:
        """Outer contour with at most twelve corners, clockwise from the topmost corner of the upright shape."""
        contour = self.contours[0]
        return contour[:: max(1, len(contour) // _MAX_CORNERS)]


@dataclass(frozen=True, slots=True)
class Sign:
    """A word printed on the background."""

    text: str
    quad: Outline
    """Corners (4, 2), clockwise from the top left of the upright word."""
    ends: tuple[float, ...]
    """End of each letter, as a fraction of the word's width."""

    @property
    def box(self) -> tuple[float, float, float, float]:
        (x0, y0), (x1, y1) = self.quad.min(axis=0).tolist(), self.quad.max(axis=0).tolist()
        return x0, y0, x1, y1


@dataclass(frozen=True, slots=True)
class _Glider:
    """An object over a whole scene: its shape, and its motion back and forth between two points."""

    kind: str
    colour: str
    shape: tuple[Outline, ...]
    start: npt.NDArray[np.float64]
    travel: npt.NDArray[np.float64]
    period: float

    def centres(self, times: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        swing = 0.5 - 0.5 * np.cos(2 * np.pi * times / self.period)
        return self.start + swing[:, None] * self.travel

    def boxes(self, times: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        centres = self.centres(times)
        return np.concatenate([centres + self.shape[0].min(axis=0), centres + self.shape[0].max(axis=0)], axis=1)

    def at(self, time: float) -> Thing:
        now = np.array([time])
        centre = self.centres(now)[0]
        x0, y0, x1, y1 = self.boxes(now)[0].tolist()
        return Thing(self.kind, self.colour, tuple(contour + centre for contour in self.shape), (x0, y0, x1, y1))


def _overlap(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """Return the largest intersection over union of two boxes over time; `a` and `b` are (times, 4)."""
    corner = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None)
    common = corner.prod(axis=1)
    areas = (a[:, 2:] - a[:, :2]).prod(axis=1) + (b[:, 2:] - b[:, :2]).prod(axis=1)
    return float((common / (areas - common)).max())


def _turn(degrees: float) -> npt.NDArray[np.float64]:
    angle = np.deg2rad(degrees)
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _glider(rng: np.random.Generator, difficulty: Difficulty) -> _Glider:
    height = rng.uniform(*difficulty.sides)
    width = height * rng.uniform(0.8, 1.25)
    turn = _turn(rng.uniform(-12, 12))
    kind = str(rng.choice(list(KINDS)))
    shape = tuple((contour * (width, height)) @ turn * _TO_FRACTIONS for contour in KINDS[kind])
    half = np.abs(shape[0]).max(axis=0)
    start, end = (half + (1 - 2 * half) * rng.random(2) for _ in range(2))
    return _Glider(kind, str(rng.choice(list(COLOURS))), shape, start, end - start, rng.uniform(6, 14))


def _sign(rng: np.random.Generator, words: Sequence[str]) -> Sign:
    text = str(rng.choice(list(words)))
    image = lettering(text)
    height = rng.uniform(0.08, 0.15)
    half = np.array([image.aspect * height, height]) / 2
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * half @ _turn(rng.uniform(-15, 15)) * _TO_FRACTIONS
    reach = np.minimum(np.abs(corners).max(axis=0), 0.49)
    centre = reach + (1 - 2 * reach) * rng.random(2)
    return Sign(text, corners + centre, image.ends)


@lru_cache(maxsize=64)
def _layout(seed: int, index: int, words: tuple[str, ...], difficulty: Difficulty) -> tuple[
    tuple[_Glider, ...], tuple[Sign, ...]
]:  # fmt: skip
    """Return the objects and signs of one scene; overlaps stay within `difficulty` at all times."""
    rng = np.random.default_rng([seed, index])
    times = np.arange(0.0, SCENE_SECONDS, 0.25)
    signs: list[Sign] = []
    sign_boxes: list[npt.NDArray[np.float64]] = []
    for _ in range(int(rng.choice(3, p=(0.5, 0.3, 0.2)))):
        sign = _sign(rng, words)
        area = np.tile(sign.box, (len(times), 1))
        if all(_overlap(area, other) == 0 for other in sign_boxes):
            signs.append(sign)
            sign_boxes.append(area)
    placed: list[tuple[_Glider, npt.NDArray[np.float64]]] = []
    low, high = difficulty.objects
    count = int(rng.integers(low, high + 1))
    for _ in range(200):
        if len(placed) == count:
            break
        glider = _glider(rng, difficulty)
        boxes = glider.boxes(times)
        if all(_overlap(boxes, other) == 0 for other in sign_boxes) and all(
            _overlap(boxes, other) <= difficulty.overlap for _, other in placed
        ):
            placed.append((glider, boxes))
    signs.sort(key=lambda sign: (sign.box[1], sign.box[0]))
    return tuple(glider for glider, _ in placed), tuple(signs)


@dataclass(frozen=True, slots=True)
class Scene:
    """The world at one time."""

    seed: int
    time: float
    objects: tuple[Thing, ...]
    """Sorted from top to bottom, then from left to right."""
    signs: tuple[Sign, ...]
    """Sorted like `objects`."""
    noise: int

    def paint(self, width: int, height: int) -> Image:
        """Return the image with noise and slowly changing light: uint8 (height, width, 3), BGR."""
        picture = paint.background(self.seed, width, height).copy()
        for thing in sorted(self.objects, key=lambda thing: thing.box[1] - thing.box[3]):  # smaller ones last, on top
            paint.draw_shape(picture, thing.contours, COLOURS[thing.colour])
        for sign in self.signs:
            paint.draw_word(picture, sign.text, sign.quad)
        return paint.add_light_and_noise(picture, self.seed, self.time, self.noise)


class World:
    """An endless sequence of scenes."""

    def __init__(self, seed: int, words: tuple[str, ...] = WORDS, difficulty: Difficulty = NORMAL) -> None:
        self.seed, self.words, self.difficulty = seed, words, difficulty

    def scene(self, time: float) -> Scene:
        """Return the scene at `time` seconds. Deterministic."""
        index, within = divmod(time, SCENE_SECONDS)
        gliders, signs = _layout(self.seed, int(index), self.words, self.difficulty)
        things = [glider.at(within) for glider in gliders]
        things.sort(key=lambda thing: (thing.box[1], thing.box[0]))
        return Scene(self.seed, time, tuple(things), signs, self.difficulty.noise)
