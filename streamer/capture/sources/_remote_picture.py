"""A picture from another host, kept as it was encoded. It is decoded when a consumer fetches it.

FFmpeg decodes JPEG in half the time of OpenCV, and nearer to the picture that was encoded.
"""

from __future__ import annotations

import struct

import av
from av.video.codeccontext import VideoCodecContext

from streamer.capture.sources._failures import FAILURES, describe
from streamer.capture.sources._picture import AvPicture
from streamer.core.errors import FrameError
from streamer.core.memory_limit import over_limit
from streamer.core.picture_limits import MAX_PIXELS
from streamer.types import Image, Luma

_PNG = b"\x89PNG\r\n\x1a\n"
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""JPEG markers of the segment that holds the size."""
_OPTIONS = {"max_pixels": str(MAX_PIXELS), "err_detect": "explode"}
"""`explode`: a damaged picture is an error, not a picture with grey parts."""


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
        self._decode().write_bgr(out)

    def luma(self) -> Luma:
        """Return a small luma image. Raises FrameError."""
        return self._decode().luma()

    def _decode(self) -> AvPicture:
        if picture_size(self._data) != (self.width, self.height):  # before memory is taken for its pixels
            raise FrameError("a picture of another size than its sender states")
        decoder = av.CodecContext.create("png" if self._data.startswith(_PNG) else "mjpeg", "r")
        assert isinstance(decoder, VideoCodecContext)
        decoder.thread_count = 1
        decoder.options = dict(_OPTIONS)
        try:
            frames = decoder.decode(av.Packet(self._data))
        except MemoryError:  # also one of FFmpeg's errors
            raise FrameError(over_limit()) from None
        except FAILURES as error:
            raise FrameError(f"a damaged picture of another host: {describe(error)}") from None
        picture = AvPicture(frames[0], self.pts) if frames else None
        if picture is None or (picture.width, picture.height) != (self.width, self.height):
            raise FrameError("a damaged picture of another host")
        return picture


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
