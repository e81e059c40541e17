"""A picture from another host, kept as it was encoded. It is decoded when a consumer fetches it."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import numpy.typing as npt

from streamer.capture.motion_gate import shrink
from streamer.core.errors import FrameError
from streamer.types import Image, Luma

_PNG = b"\x89PNG\r\n\x1a\n"
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""JPEG markers of the segment that holds the size."""
_COLOR = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
_GRAY = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION


class RemotePicture:
    """An encoded picture with the size that its sender stated."""

    __slots__ = ("_data", "captured_mono", "height", "pts", "width")

    def __init__(self, data: bytes, size: tuple[int, int], pts: float | None, captured_mono: float) -> None:
        self._data = data
        self.width, self.height = size
        self.pts = pts
        self.captured_mono = captured_mono
        """Monotonic second of the capture, estimated on the clock of this host."""

    def write_bgr(self, out: Image) -> None:
        """Fill `out`, uint8 (height, width, 3). Raises FrameError."""
        out[:] = self._decode(_COLOR)

    def luma(self) -> Luma:
        """Return a small luma image. Raises FrameError."""
        return shrink(self._decode(_GRAY))

    def _decode(self, flags: int) -> npt.NDArray[np.uint8]:
        if picture_size(self._data) != (self.width, self.height):  # before memory is taken for its pixels
            raise FrameError("a picture of another size than its sender states")
        try:
            decoded = cv2.imdecode(np.frombuffer(self._data, np.uint8), flags)
        except cv2.error:
            decoded = None
        if decoded is None or decoded.shape[:2] != (self.height, self.width):
            raise FrameError("a damaged picture of another host")
        return decoded.astype(np.uint8, copy=False)


def picture_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height from the header of a JPEG or PNG, None if it has none."""
    if data.startswith(_PNG):
        return struct.unpack_from(">II", data, 16) if data[12:16] == b"IHDR" and len(data) >= 24 else None
    place = 2
    while data[:2] == b"\xff\xd8" and place + 9 <= len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if marker in _START_OF_FRAME:
            height, width = struct.unpack_from(">HH", data, place + 5)
            return width, height
        place += 2 + length
    return None
