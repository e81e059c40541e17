"""Decides which JPEG pictures of a camera are decoded when they arrive, and which ones only when they are fetched."""

from __future__ import annotations

import math

from streamer.capture.interfaces import Picture
from streamer.capture.sources._encoded_picture import MAX_SCANS, EncodedPicture, decode, picture_size, scans
from streamer.capture.sources._failures import UNDECODABLE
from streamer.core.errors import FrameError, SourceLost
from streamer.core.memory_limit import over_limit

CHECK_S = 1.0
"""Seconds between pictures that show whether the camera's pictures are still sound."""


class JpegIntake:
    """Takes the pictures of one connection in order.

    Once in `CHECK_S` a picture is decoded strictly, as kept ones are later, here or on another host. While it has no
    fault and few scans, and is upright with square pixels, so that its header states the size that consumers get,
    those of the same size are kept.
    """

    def __init__(self) -> None:
        self._size: tuple[int, int] | None = None
        """Size of pictures that are kept."""
        self._check_at = -math.inf

    def take(self, jpeg: bytes, pts: float | None, arrived: float) -> Picture | None:
        """Return the picture, None if it cannot be decoded. Raises SourceLost for lack of memory.

        `pts`: media time in seconds. `arrived`: monotonic second.
        """
        size = picture_size(jpeg)
        try:
            if arrived >= self._check_at:
                self._check_at = arrived + CHECK_S
                self._size = size if size is not None and _may_be_kept(jpeg, size) else None
            if size is not None and size == self._size:
                return EncodedPicture(jpeg, size, pts, arrived)
            return decode(jpeg, pts, strict=False)
        except MemoryError:
            raise SourceLost(over_limit()) from None
        except FrameError as error:
            UNDECODABLE.add(str(error))
            return None


def _may_be_kept(jpeg: bytes, size: tuple[int, int]) -> bool:
    """Raises MemoryError."""
    try:
        picture = decode(jpeg, None, strict=True)
    except FrameError:
        return False
    return (picture.width, picture.height) == size and scans(jpeg) <= MAX_SCANS
