"""A small moving world with known truth: the `synthetic` camera, and what the shipped model is trained and tested on.

Everything follows from the seed and the time, so truth for a frame is `World(seed).scene(pts).objects`.
Objects glide over a still background; every `SCENE_SECONDS` others take their place. Shapes are drawn for a 4:3
picture and stretch with other ones. Coordinates are fractions of the frame.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from streamer.types import Image

Outline = npt.NDArray[np.float64]
"""Shape (points, 2): one closed contour."""

SCENE_SECONDS = 12.0
MOST_OBJECTS = 4
SMALLEST_SIDE, LARGEST_SIDE = 0.12, 0.38
"""Of an object's height, as a fraction of the frame's."""
LARGE = 0.25
"""Objects of at least this height are called large."""
MOST_OVERLAP = 0.1
"""Intersection over union of two objects' boxes, at any moment."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (40, 40, 215), "green": (60, 160, 50), "blue": (215, 90, 40), "yellow": (50, 220, 235),
    "orange": (25, 130, 245), "purple": (170, 50, 140), "white": (245, 245, 245), "black": (18, 18, 18),
}  # fmt: skip
"""BGR."""

_ASPECT = 4 / 3
_FRAME_NOISE = 12
_NOISE_TILES = 4


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
"""Contours of each kind in a unit square around the origin; the second one is a hole."""


@dataclass(frozen=True, slots=True)
class Thing:
    """One object of a scene."""

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


@dataclass(frozen=True, slots=True)
class _Glider:
    """An object's shape and its way: to and fro between two points."""

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


def _overlaps(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> bool:
    corner = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None)
    common = corner.prod(axis=1)
    areas = (a[:, 2:] - a[:, :2]).prod(axis=1) + (b[:, 2:] - b[:, :2]).prod(axis=1)
    return bool((common / (areas - common) > MOST_OVERLAP).any())


def _glider(rng: np.random.Generator) -> _Glider:
    height = SMALLEST_SIDE * (LARGEST_SIDE / SMALLEST_SIDE) ** rng.random()
    width = height * rng.uniform(0.8, 1.25)
    angle = np.deg2rad(rng.uniform(-12, 12))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    kind = str(rng.choice(list(KINDS)))
    scale = np.array([1 / _ASPECT, 1.0])
    shape = tuple((contour * (width, height)) @ turn * scale for contour in KINDS[kind])
    half = np.abs(shape[0]).max(axis=0)
    start, end = (half + (1 - 2 * half) * rng.random(2) for _ in range(2))
    return _Glider(kind, str(rng.choice(list(COLOURS))), shape, start, end - start, rng.uniform(6, 14))


@lru_cache(maxsize=64)
def _gliders(seed: int, index: int) -> tuple[_Glider, ...]:
    """The objects of one scene of a world, placed so that none hides another at any time."""
    rng = np.random.default_rng([seed, index])
    times = np.arange(0.0, SCENE_SECONDS, 0.25)
    placed: list[tuple[_Glider, npt.NDArray[np.float64]]] = []
    wanted = int(rng.integers(1, MOST_OBJECTS + 1))
    for _ in range(60):
        if len(placed) == wanted:
            break
        glider = _glider(rng)
        boxes = glider.boxes(times)
        if not any(_overlaps(boxes, other) for _, other in placed):
            placed.append((glider, boxes))
    return tuple(glider for glider, _ in placed)


@lru_cache(maxsize=16)
def _background(seed: int, width: int, height: int) -> npt.NDArray[np.uint8]:
    """A dull picture: plain, a gradient, a coarse texture or faint clutter. uint8 (height, width, 3)."""
    rng = np.random.default_rng([seed, 7])
    tint = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0, 0.18), rng.uniform(0.35, 0.7))
    picture = np.full((height, width, 3), 255 * np.array(tint[::-1]), np.float32)
    match int(rng.integers(4)):
        case 1:
            slope = rng.uniform(-45, 45, size=(2, 2, 1)).astype(np.float32)
            picture += cv2.resize(slope, (width, height), interpolation=cv2.INTER_LINEAR)[..., None]
        case 2:
            coarse = rng.normal(0, 14, size=(24, 32, 1)).astype(np.float32)
            picture += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]
        case 3:
            for _ in range(12):
                a, b = (tuple((rng.random(2) * (width, height)).astype(int).tolist()) for _ in range(2))
                shade = (picture[0, 0] + rng.uniform(-25, 25)).tolist()
                cv2.line(picture, a, b, shade, max(1, height // 120), cv2.LINE_AA)
    return np.clip(picture, 25, 225).astype(np.uint8)


@lru_cache(maxsize=16)
def _noise(width: int, height: int, tile: int) -> npt.NDArray[np.uint8]:
    rng = np.random.default_rng([width, height, tile])
    return rng.integers(0, _FRAME_NOISE + 1, size=(height, width, 3), dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class Scene:
    """The world at one moment."""

    seed: int
    time: float
    objects: tuple[Thing, ...]
    """From top to bottom, then from left to right."""

    def paint(self, width: int, height: int) -> Image:
        """The picture with sensor noise and a slow change of light: uint8 (height, width, 3), BGR."""
        light = 1 + 0.12 * np.sin(2 * np.pi * self.time / 20 + self.seed)
        picture = cv2.convertScaleAbs(_background(self.seed, width, height), alpha=light)
        scale = np.array([width, height]) * 16
        for thing in self.objects:
            contours = [np.round(contour * scale).astype(np.int32) for contour in thing.contours]
            colour = tuple(min(255.0, light * channel) for channel in COLOURS[thing.colour])
            cv2.fillPoly(picture, contours, colour, lineType=cv2.LINE_AA, shift=4)
        noise = _noise(width, height, int(self.time * 1000) % _NOISE_TILES)
        return np.asarray(cv2.addWeighted(picture, 1.0, noise, 1.0, -_FRAME_NOISE / 2), np.uint8)


class World:
    """An endless sequence of scenes."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def scene(self, time: float) -> Scene:
        """The scene at `time` seconds, the same one each time it is asked for."""
        index, within = divmod(time, SCENE_SECONDS)
        things = [glider.at(within) for glider in _gliders(self.seed, int(index))]
        things.sort(key=lambda thing: (thing.box[1], thing.box[0]))
        return Scene(self.seed, time, tuple(things))
