"""The toy world as a camera: frames drawn by the program, with known content."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import field_validator

from streamer.capture.interfaces import Source
from streamer.capture.sources._fields import Fps, Size, width_and_height
from streamer.core.memory_limit import allow_pictures
from streamer.core.settings import Seconds, Settings
from streamer.types import Image, Luma, Pace

if TYPE_CHECKING:
    from streamer.toyworld.world import Scene


class Synthetic(Settings):
    """A moving toy world drawn by the program. Seed and media time determine the content of a frame."""

    kind: Literal["synthetic"] = "synthetic"
    seed: int = 1
    """Number of the world."""
    fps: Fps = 25.0
    """Frames per second."""
    size: Size = "640x480"
    """Width and height of the frames."""
    pace: Pace = "live"
    """`live`: in real time, like a camera. `file`: as fast as its tasks run, like a file."""
    seconds: Seconds | None = None
    """Length in media time. Default: endless."""

    @field_validator("seed")
    @classmethod
    def _bounded(cls, seed: int) -> int:
        if abs(seed) >= 1 << 63:  # painting converts it to a float
            raise ValueError("must have at most 18 digits")
        return seed

    modules: ClassVar[tuple[str, ...]] = ("streamer.toyworld.world", "numpy.random")

    def open(self, read_limit: float = 15.0) -> Source:
        return _ToyCamera(self)


class ToyPicture:
    """The world at one moment, painted on demand."""

    __slots__ = ("_scene", "height", "pts", "width")

    def __init__(self, scene: Scene, pts: float, size: tuple[int, int]) -> None:
        self._scene = scene
        self.pts: float | None = pts
        self.width, self.height = size

    def write_bgr(self, out: Image) -> None:
        out[:] = self._scene.paint(self.width, self.height)

    def luma(self) -> Luma:
        """Return a luma image, painted at its final size."""
        import cv2

        from streamer.capture.motion_gate import WIDTH

        width = min(WIDTH, self.width)
        painted = self._scene.paint(width, max(1, round(self.height * width / self.width)))
        return np.asarray(cv2.cvtColor(painted, cv2.COLOR_BGR2GRAY), np.uint8)


class _ToyCamera:
    note = None

    def __init__(self, settings: Synthetic) -> None:
        self._settings = settings
        self._size = width_and_height(settings.size)
        allow_pictures(math.prod(self._size))

    def __iter__(self) -> Iterator[ToyPicture]:
        from streamer.toyworld.world import World

        world = World(self._settings.seed)
        settings, size = self._settings, self._size
        started, number = time.monotonic(), 0
        while settings.seconds is None or number / settings.fps < settings.seconds:
            pts = number / settings.fps
            if settings.pace == "live":
                time.sleep(max(0.0, started + pts - time.monotonic()))
            yield ToyPicture(world.scene(pts), pts, size)
            number += 1
            if settings.pace == "live":  # skip the frames missed while the reader was blocked
                number = max(number, int((time.monotonic() - started) * settings.fps))

    def set_interval(self, interval: float) -> bool:
        """Return False: frames are painted on demand, so none need to be skipped."""
        return False

    def close(self) -> None:
        """Nothing to close."""
