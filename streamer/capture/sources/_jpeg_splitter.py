"""JPEG pictures in a stream of bytes, found by the markers inside them. Pure.

Cameras put each picture into an HTTP part with a boundary, a type and a length. In some cameras one of these is wrong
or missing; the markers are always there, so everything between two pictures is skipped unread.
"""

from __future__ import annotations

import re

from streamer.core.errors import SourceLost
from streamer.core.picture_limits import MAX_PIXELS

MAX_PICTURE_BYTES = 32 << 20
"""Largest picture. An 8K picture of the best quality has about 20 MiB."""
MAX_GAP_BYTES = 1 << 20
"""Most bytes between two pictures. Headers have about 100; some cameras send other parts in between."""
MAX_SCANS = 100
"""Most scans of one picture; a decoder goes through the whole picture for each. Encoders write about 10."""

_START, _END = b"\xff\xd8\xff", b"\xff\xd9"
_MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd7]", re.DOTALL)
"""A marker that ends compressed data."""
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


class JpegSplitter:
    """Takes bytes as they arrive and returns the pictures in them."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._position: int | None = None
        """Index of `_data` from which the next marker is searched. None: `_data` does not begin with a picture."""
        self._scans = 0
        self._gap = 0
        self.pixels = 0
        """Pixels of the largest picture so far."""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the pictures that end in `data`. Raises SourceLost for data that no camera sends."""
        self._data += data
        pictures = []
        while (picture := self._next()) is not None:
            if self._scans:  # FFmpeg returns a picture without a scan, with whatever the memory held before
                pictures.append(picture)
        return pictures

    def finish(self) -> bytes | None:
        """Return the last picture if its end is missing, at the end of the data."""
        return self._take(len(self._data)) + _END if self._position is not None and self._scans else None

    def _next(self) -> bytes | None:
        if self._position is None and not self._find_start():
            return None
        while (found := self._find_marker()) is not None:
            code, begin = found
            if code == _EOI:
                return self._take(begin + 2)
            if code == _SOI:  # the picture has no end
                return self._take(begin) + _END
            length = int.from_bytes(self._data[begin + 2 : begin + 4])
            if code in _FRAME_HEADERS:
                self.pixels = max(self.pixels, _pixels(bytes(self._data[begin + 5 : begin + 9])))
            self._scans += code == _SOS
            if self._scans > MAX_SCANS:
                raise SourceLost(f"picture with more than {MAX_SCANS} scans refused")
            self._position = begin + 2 + max(2, length)
        if len(self._data) > MAX_PICTURE_BYTES:
            raise SourceLost(f"picture of more than {MAX_PICTURE_BYTES >> 20} MiB refused")
        return None

    def _find_start(self) -> bool:
        """Remove what is before the next picture; return whether there is one."""
        start = self._data.find(_START)
        skipped = start if start >= 0 else max(0, len(self._data) - len(_START) + 1)
        del self._data[:skipped]
        self._gap += skipped
        if self._gap > MAX_GAP_BYTES:
            raise SourceLost(f"sends no JPEG picture in {MAX_GAP_BYTES >> 20} MiB of data")
        if start < 0:
            return False
        self._position, self._scans, self._gap = 2, 0, 0
        return True

    def _find_marker(self) -> tuple[int, int] | None:
        """Return code and index of the next marker, None while it has not arrived with the start of its segment."""
        assert self._position is not None
        match = _MARKER.search(self._data, self._position)
        if match is None:
            self._position = max(self._position, len(self._data) - 1)  # the last byte may begin a marker
            return None
        code, begin = self._data[match.start() + 1], match.start()
        self._position = begin
        needed = 2 if code in (_SOI, _EOI) else 9 if code in _FRAME_HEADERS else 4
        return (code, begin) if len(self._data) >= begin + needed else None

    def _take(self, size: int) -> bytes:
        picture = bytes(self._data[:size])
        del self._data[:size]
        self._position = None
        return picture


def _pixels(sides: bytes) -> int:
    """Return the number of pixels. Raises SourceLost if a picture has too many."""
    height, width = int.from_bytes(sides[:2]), int.from_bytes(sides[2:])
    if width * height > MAX_PIXELS:
        raise SourceLost(f"frame of {width}x{height} pixels refused: the limit is {MAX_PIXELS} pixels")
    return width * height
