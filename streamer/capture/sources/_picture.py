"""A picture decoded by FFmpeg: its orientation, and its conversion to BGR and luma."""

from __future__ import annotations

from functools import cache

import av
import numpy as np
import numpy.typing as npt

from streamer.capture.motion_gate import shrink
from streamer.capture.sources._failures import FAILURES
from streamer.types import Image, Luma

_LUMA_FIRST = {"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "nv12", "nv21", "gray"}
"""Pixel formats whose first plane is the luma, one byte per pixel."""


class AvPicture:
    """A decoded picture, rotated by its display matrix. Converted to BGR by `write_bgr` only."""

    __slots__ = ("_frame", "_turns", "pts")

    def __init__(self, frame: av.VideoFrame, pts: float | None) -> None:
        self._frame = frame
        self._turns = _quarter_turns(frame.rotation)
        self.pts = pts

    @property
    def width(self) -> int:
        return self._frame.height if self._turns % 2 else self._frame.width

    @property
    def height(self) -> int:
        return self._frame.width if self._turns % 2 else self._frame.height

    def write_bgr(self, out: Image) -> None:
        """Fill `out`, uint8 (height, width, 3)."""
        frame = self._frame.reformat(format="bgr24", threads=1)
        image = _rows(frame)[:, : 3 * frame.width].reshape(frame.height, frame.width, 3)
        out[:] = np.rot90(image, self._turns)

    def luma(self) -> Luma:
        """Return a small luma image. For the usual formats this reads the first plane, without conversion."""
        frame = self._frame
        if frame.format.name not in _LUMA_FIRST:
            frame = frame.reformat(format="gray", threads=1)
        return np.ascontiguousarray(np.rot90(shrink(_rows(frame)[:, : frame.width]), self._turns))


def _quarter_turns(rotation: int) -> int:
    """Return the rotation of a display matrix in quarter turns, 0 for a damaged matrix, whose angle is no number."""
    return round(rotation / 90) % 4 if abs(rotation) <= 180 else 0


def _rows(frame: av.VideoFrame) -> npt.NDArray[np.uint8]:
    """Return the rows of the first plane from top to bottom, with padding. A negative line size: stored bottom-up."""
    plane = frame.planes[0]
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(frame.height, abs(plane.line_size))
    return rows if plane.line_size > 0 else rows[::-1]


@cache
def is_convertible(pixel_format: str) -> bool:
    """Return True if libswscale can convert pictures of this format in memory."""
    if pixel_format.startswith("yaf32"):
        return False  # libswscale aborts the process
    try:
        av.VideoFrame(16, 16, pixel_format).reformat(format="bgr24")
    except FAILURES:
        return False
    return True
