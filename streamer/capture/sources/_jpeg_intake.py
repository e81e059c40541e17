"""Decides which JPEG pictures of a camera are decoded when they arrive, and which ones only when they are fetched."""

from __future__ import annotations

import math

from streamer.capture.interfaces import Picture
from streamer.capture.sources._encoded_picture import MAX_SCANS, EncodedPicture, decode, picture_size, scans
from streamer.capture.sources._failures import UNDECODABLE
from streamer.core.errors import FrameError, SourceLost
from streamer.core.memory_limit import over_limit

CHECK_S = 1.0
"""Longest time without a decoded picture: then the next one shows whether the camera's pictures are still sound."""


class JpegIntake:
    """Takes the pictures of one connection in order.

    A picture is decoded later if the last decoded one had the same size, was upright with square pixels, so that its
    header states the size that consumers get, and had few scans.
    """

    def __init__(self) -> None:
        self._size: tuple[int, int] | None = None
        self._check_at = -math.inf

    def take(self, jpeg: bytes, pts: float | None, arrived: float) -> Picture | None:
        """Return the picture, None if it cannot be decoded. Raises SourceLost for lack of memory.

        `pts`: media time in seconds. `arrived`: monotonic second.
        """
        size = picture_size(jpeg)
        if size is not None and size == self._size and arrived < self._check_at:
            return EncodedPicture(jpeg, size, pts, arrived, strict=False)
        self._size = None
        try:
            picture = decode(jpeg, pts, strict=False)
        except MemoryError:
            raise SourceLost(over_limit()) from None
        except FrameError as error:
            UNDECODABLE.add(str(error))
            return None
        if (picture.width, picture.height) == size and scans(jpeg) <= MAX_SCANS:
            self._size, self._check_at = size, arrived + CHECK_S
        return picture
