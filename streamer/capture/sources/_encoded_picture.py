"""A picture kept as its sender encoded it, and decoded when a consumer fetches it: most of a camera's never are.

FFmpeg decodes JPEG in half the time of OpenCV, and nearer to the picture that was encoded.
"""

from __future__ import annotations

import struct

import av
from av.video.codeccontext import VideoCodecContext

from streamer.capture.jpeg_header import jpeg_size
from streamer.capture.sources._failures import FAILURES, describe
from streamer.capture.sources._picture import AvPicture
from streamer.core.errors import FrameError
from streamer.core.memory_limit import over_limit
from streamer.core.picture_limits import MAX_PIXELS
from streamer.types import Image, Luma

MAX_SCANS = 3
"""Most scans of a JPEG: the decoder goes through the whole picture for each, and the thread that serves frames waits.
Cameras send one."""
_PNG = b"\x89PNG\r\n\x1a\n"


class EncodedPicture:
    """An encoded picture with the size that its sender stated."""

    __slots__ = ("_data", "_decoded", "captured_mono", "height", "pts", "width")

    def __init__(self, data: bytes, size: tuple[int, int], pts: float | None, captured_mono: float) -> None:
        self._data = data
        self._decoded: AvPicture | None = None
        self.width, self.height = size
        self.pts = pts
        self.captured_mono = captured_mono
        """Monotonic second of the capture, on the clock of this host."""

    @property
    def encoded(self) -> bytes:
        """The picture as its sender encoded it."""
        return self._data

    def write_bgr(self, out: Image) -> None:
        """Fill `out`, uint8 (height, width, 3). Raises FrameError."""
        self._picture().write_bgr(out)

    def luma(self) -> Luma:
        """Return a small luma image. Raises FrameError."""
        return self._picture().luma()

    def _picture(self) -> AvPicture:
        if self._decoded is not None:
            return self._decoded
        size = self.width, self.height
        if picture_size(self._data) != size:  # before memory is taken for its pixels
            raise FrameError("a picture of another size than its sender states")
        if scans(self._data) > MAX_SCANS:
            raise FrameError(f"a picture with more than {MAX_SCANS} scans")
        try:
            picture = decode(self._data, self.pts, strict=True)
        except MemoryError:
            raise FrameError(over_limit()) from None
        if (picture.width, picture.height) != size:
            raise FrameError("a damaged picture")
        self._decoded = picture
        return picture


def decode(data: bytes, pts: float | None, strict: bool) -> AvPicture:
    """Decode a JPEG or PNG. Raises FrameError, or MemoryError.

    `strict`: a damaged picture is an error, not a picture with grey parts.
    """
    decoder = av.CodecContext.create("png" if data.startswith(_PNG) else "mjpeg", "r")
    assert isinstance(decoder, VideoCodecContext)
    decoder.thread_count = 1
    decoder.options = {"max_pixels": str(MAX_PIXELS), **({"err_detect": "explode"} if strict else {})}
    try:
        frames = decoder.decode(av.Packet(data))
    except MemoryError:  # also one of FFmpeg's errors
        raise
    except FAILURES as error:
        raise FrameError(f"a damaged picture: {describe(error)}") from None
    if not frames:
        raise FrameError("a damaged picture")
    return AvPicture(frames[0], pts, decoder.sample_aspect_ratio)


def scans(data: bytes) -> int:
    """Return the number of scans of a JPEG, or more; 0 for a PNG."""
    return 0 if data.startswith(_PNG) else data.count(b"\xff\xda")


def picture_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height from the header of a JPEG or PNG, None if it has none."""
    if data.startswith(_PNG):
        return struct.unpack_from(">II", data, 16) if data[12:16] == b"IHDR" and len(data) >= 24 else None
    return jpeg_size(data)
