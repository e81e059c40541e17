"""Failures of libav, and the reason that users get for each of them."""

from __future__ import annotations

import errno
import logging

import av.error

from streamer.capture.sources._allowed import MAX_STREAMS
from streamer.core.errors import SourceLost
from streamer.core.logs import RareLog
from streamer.core.memory_limit import over_limit
from streamer.core.network_failures import BROKEN_OFF

FAILURES = (av.error.FFmpegError, OSError)
"""Exceptions of libav. Their texts hold the address of the source, possibly with a password: use `describe`."""


UNDECODABLE = RareLog(logging.getLogger(__name__), "packets or pictures that cannot be decoded: %d, last error: %s")
"""Counts over all connections of this process: a camera that sends damaged data each time is logged ever less."""


def describe(error: Exception) -> str:
    """Return libav's error text without the file name (a URL, possibly with a password) that `str` would add."""
    return getattr(error, "strerror", None) or "failure without a text"


def lost(error: Exception, opening: bool = False) -> SourceLost:
    """Return the error to raise for a failure of libav.

    `opening`: it was opening data of any container.
    """
    if isinstance(error, MemoryError):
        return SourceLost(f"{over_limit()}, or has more than {MAX_STREAMS} streams")  # FFmpeg does not tell them apart
    if opening and getattr(error, "errno", None) == errno.EINVAL:
        return SourceLost(
            "its container is not allowed by default, or damaged: if you trust the source, set `allow: [NAME]` "
            "with the name that `ffprobe` prints"
        )
    if getattr(error, "errno", None) == errno.EIO:
        return SourceLost(BROKEN_OFF)
    if isinstance(error, av.error.InvalidDataError):
        return SourceLost("damaged, or not in a format that streamer knows")
    return SourceLost(describe(error))
