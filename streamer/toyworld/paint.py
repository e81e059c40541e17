"""Image rendering of the toy world: four kinds of backgrounds, coloured shapes, words, light and sensor noise."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from streamer.types import Image

Outline = npt.NDArray[np.float64]
"""Closed contour (points, 2), in fractions of the frame."""
Colour = tuple[int, int, int]
"""BGR."""

COLOURS: dict[str, Colour] = {
    "red": (40, 40, 215), "green": (60, 160, 50), "blue": (215, 90, 40), "yellow": (50, 220, 235),
    "orange": (25, 130, 245), "purple": (170, 50, 140), "white": (245, 245, 245), "black": (18, 18, 18),
}  # fmt: skip

_FONT, _STROKE = cv2.FONT_HERSHEY_DUPLEX, 3
_LETTER_SCALE = 2.0
_NOISE_TILES = 4


@dataclass(frozen=True, slots=True)
class Lettering:
    """The image of an upright word."""

    mask: npt.NDArray[np.uint8]
    """uint8 (height, width), 255 where there is ink, cropped to the ink."""
    ends: tuple[float, ...]
    """End of each letter, as a fraction of the width."""

    @property
    def aspect(self) -> float:
        return float(self.mask.shape[1] / self.mask.shape[0])


@cache
def lettering(word: str) -> Lettering:
    """Return the lettering of one of WORDS."""
    ends = [cv2.getTextSize(word[: count + 1], _FONT, _LETTER_SCALE, _STROKE)[0][0] for count in range(len(word))]
    canvas = np.zeros((90, ends[-1] + 40), np.uint8)
    cv2.putText(canvas, word, (20, 70), _FONT, _LETTER_SCALE, 255, _STROKE, cv2.LINE_AA)
    x, y, width, height = cv2.boundingRect(canvas)
    return Lettering(
        np.ascontiguousarray(canvas[y : y + height, x : x + width]),
        tuple(min(1.0, max(0.0, (end + 20 - x) / width)) for end in ends),
    )


@lru_cache(maxsize=16)
def background(seed: int, width: int, height: int) -> npt.NDArray[np.uint8]:
    """Return a gradient, a texture, clutter or a plain colour, by `seed % 4`: uint8 (height, width, 3)."""
    rng = np.random.default_rng([seed, 7])
    tint = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0, 0.18), rng.uniform(0.35, 0.7))
    picture = np.full((height, width, 3), 255 * np.array(tint[::-1]), np.float32)
    match seed % 4:
        case 0:
            slope = rng.uniform(-45, 45, size=(2, 2, 1)).astype(np.float32)
            picture += cv2.resize(slope, (width, height), interpolation=cv2.INTER_LINEAR)[..., None]
        case 1:
            for cells, deviation in ((8, 9), (32, 9), (96, 6)):
                coarse = rng.normal(0, deviation, size=(cells * 3 // 4, cells, 1)).astype(np.float32)
                picture += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]
        case 2:
            for _ in range(16):
                a, b = (tuple((rng.random(2) * (width, height)).astype(int).tolist()) for _ in range(2))
                shade = (picture[0, 0] + rng.uniform(-25, 25)).tolist()
                if rng.random() < 0.6:
                    cv2.line(picture, a, b, shade, max(1, height // 120), cv2.LINE_AA)
                else:
                    cv2.rectangle(picture, a, b, shade, max(1, height // 160), cv2.LINE_AA)
    return np.clip(picture, 25, 225).astype(np.uint8)


def _light(picture: Image, seed: int, time: float) -> Image:
    """Return the image with slowly changing brightness, in a quarter of the worlds with a moving shadow."""
    if seed % 4 != 3:
        return np.asarray(cv2.convertScaleAbs(picture, alpha=1 + 0.12 * np.sin(2 * np.pi * time / 20 + seed)), np.uint8)
    width = picture.shape[1]
    positions = np.linspace(0, 1, 32, dtype=np.float32)
    wave = 0.9 + 0.25 * np.sin(2 * np.pi * (positions + time / 16 + seed / 7))
    shade = cv2.resize(wave[None].astype(np.float32), (width, 1), interpolation=cv2.INTER_LINEAR)
    shade8 = np.broadcast_to((shade * 200).astype(np.uint8)[..., None], picture.shape)
    return np.asarray(cv2.multiply(picture, np.ascontiguousarray(shade8), scale=1 / 200), np.uint8)


@lru_cache(maxsize=16)
def _noise(width: int, height: int, tile: int, strength: int) -> npt.NDArray[np.uint8]:
    rng = np.random.default_rng([width, height, tile])
    return rng.integers(0, strength + 1, size=(height, width, 3), dtype=np.uint8)


def draw_word(picture: Image, word: str, quad: Outline) -> None:
    """Draw a word on its quad into `picture`, white on dark and black on light backgrounds."""
    height, width = picture.shape[:2]
    corners = quad * (width, height)
    left, top = np.maximum(np.floor(corners.min(axis=0)).astype(int) - 1, 0)
    right, bottom = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 1, (width, height))
    mask = lettering(word).mask
    up, across = np.linalg.norm(corners[3] - corners[0]), np.linalg.norm(corners[1] - corners[0])
    size = (min(mask.shape[1], max(2, round(1.5 * across))), min(mask.shape[0], max(2, round(1.5 * up))))
    ink = cv2.resize(mask, size, interpolation=cv2.INTER_AREA)
    sheet = np.array([(0, 0), (size[0], 0), (0, size[1])], np.float32)
    target = (corners[[0, 1, 3]] - (left, top)).astype(np.float32)
    warped = cv2.warpAffine(ink, cv2.getAffineTransform(sheet, target), (int(right - left), int(bottom - top)))
    part = picture[top:bottom, left:right]
    share = warped[..., None].astype(np.float32) / 255
    shade = 240 if part.mean() < 115 else 12
    part[:] = (part * (1 - share) + shade * share).astype(np.uint8)


def draw_shape(picture: Image, contours: Sequence[Outline], colour: Colour) -> None:
    """Fill a shape in `picture`; a second contour is a hole."""
    size = picture.shape[1], picture.shape[0]
    points = [np.round(contour * size * 16).astype(np.int32) for contour in contours]
    cv2.fillPoly(picture, points, colour, lineType=cv2.LINE_AA, shift=4)


def add_light_and_noise(picture: Image, seed: int, time: float, noise: int) -> Image:
    """Return the image with light and with grain of `noise` grey levels from peak to peak."""
    height, width = picture.shape[:2]
    grain = _noise(width, height, int(time * 1000) % _NOISE_TILES, noise)
    return np.asarray(cv2.addWeighted(_light(picture, seed, time), 1.0, grain, 1.0, -noise / 2), np.uint8)
