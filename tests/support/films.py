"""Films (brightness by time) with known motion, and what the motion detector reports of them."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from streamer.capture.motion_gate import INTERVAL_S, WHOLE, MotionDetector, MotionSettings, SceneState, shrink
from streamer.toyworld.world import Scene
from streamer.types import Luma

WIDTH, HEIGHT = 640, 480
WARM_S = 2.0
Picture = npt.NDArray[np.float32]
Film = Callable[[float], Picture]
"""Brightness by time in seconds."""

_rng = np.random.default_rng(7)
_coarse = cv2.resize(_rng.normal(110, 35, (24, 32)).astype(np.float32), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
YARD: Picture = np.asarray(
    np.clip(_coarse + cv2.resize(_rng.normal(0, 20, (120, 160)).astype(np.float32), (WIDTH, HEIGHT)), 10, 245)
)
"""A still picture with large and small structures."""
ROWS = np.arange(HEIGHT, dtype=np.float32)[:, None] / HEIGHT
LAMP: Picture = np.exp(
    -((ROWS - 0.2) ** 2 + (np.arange(WIDTH, dtype=np.float32)[None] / WIDTH - 0.2) ** 2) / 0.18
).astype(np.float32)


_noises = [_rng.normal(0, 1, (HEIGHT, WIDTH)).astype(np.float32) for _ in range(24)]


def noise(level: float) -> Picture:
    return level * _noises[int(_rng.integers(len(_noises)))]


def rain(time: float) -> Picture:
    picture = YARD + noise(4)
    for x, y, length in zip(
        _rng.integers(0, WIDTH, 600), _rng.integers(0, HEIGHT, 600), _rng.integers(10, 30, 600), strict=True
    ):
        cv2.line(picture, (int(x), int(y)), (int(x) + 2, int(y + length)), float(YARD[y, x]) + 60.0, 1)
    return picture


def leaves(time: float) -> Picture:
    picture = YARD + noise(4)
    picture[:120, :160] = np.roll(YARD, round(4 * np.sin(2.7 * time)), 1)[:120, :160]
    return picture


def step(factor: float | Picture) -> Film:
    """Return a film whose illumination changes every ten seconds."""
    return lambda time: YARD * (factor if int(time / 10) % 2 else 1.0) + noise(4)


def passing(share: float, brightness: float, speed: float, start: float = 10.0) -> Film:
    """Return a film with a uniform square of that share of the picture, moving by `speed` pixels per second."""
    side = round((share * WIDTH * HEIGHT) ** 0.5)

    def film(time: float) -> Picture:
        picture = YARD + noise(4)
        left = round((time - start) * speed) - side
        picture[200 : 200 + side, max(0, left) : max(0, left + side)] = brightness
        return picture

    return film


def to_luma(picture: Picture) -> Luma:
    return np.clip(picture, 0, 255).astype(np.uint8)


def analyse(film: Film, seconds: float, settings: MotionSettings | None = None, **zones: object) -> list[SceneState]:
    detector = MotionDetector(settings or MotionSettings(), zones)  # type: ignore[arg-type]
    lumas = (shrink(to_luma(film(number * INTERVAL_S))) for number in range(round(seconds / INTERVAL_S)))
    return [detector.update(luma, number) for number, luma in enumerate(lumas)]


def moving(scenes: list[SceneState], area: str = WHOLE) -> list[bool]:
    """Return whether each picture has motion."""
    return [scene.moved.get(area, -1) == number for number, scene in enumerate(scenes)]


def ticks(scenes: list[SceneState]) -> float:
    """Return the share of seconds with motion, after the warm-up."""
    found = moving(scenes)
    seconds = range(int(WARM_S), round(len(scenes) * INTERVAL_S))
    return sum(any(found[second * 10 : second * 10 + 10]) for second in seconds) / len(seconds)


def grey(scene: Scene) -> Picture:
    return np.asarray(cv2.cvtColor(scene.paint(WIDTH, HEIGHT), cv2.COLOR_BGR2GRAY), np.float32)
