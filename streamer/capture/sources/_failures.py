"""Failures of libav, and the reason that users get for each of them."""

from __future__ import annotations

import errno

import av.error

from streamer.core.errors import SourceLost, SourceRefused

FAILURES = (av.error.FFmpegError, OSError)
"""Exceptions of libav. Their texts hold the address of the source, possibly with a password: use `describe`."""


def describe(error: Exception) -> str:
    """Return libav's error text without the file name (a URL, possibly with a password) that `str` would add."""
    return getattr(error, "strerror", None) or type(error).__name__


def lost(error: Exception) -> SourceLost:
    """Return the error to raise for a failure of libav: SourceRefused for a rejected login, SourceLost for others."""
    if isinstance(error, (av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError)):
        return SourceRefused("refused the user or password")
    if isinstance(error, ConnectionRefusedError):
        return SourceLost("connection refused: nothing listens there")
    if getattr(error, "errno", None) == errno.EIO:
        return SourceLost("the connection broke off")
    return SourceLost(describe(error))
