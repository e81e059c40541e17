"""Reasons of failures in words, for events, the log and the command line: never a library's text or a class name."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path
from zlib import crc32

from streamer.core.errors import StreamerError

log = logging.getLogger(__name__)

_logged: set[str] = set()
"""Ids whose stack this process has logged: a repeated error logs one line."""


def reason_of(error: BaseException, where: str) -> str:
    """Return in one line why `where` failed: the text of our own errors, the operating system's words, or an id.

    `where`: the place of an internal error in the log, such as `sink mqtt`.
    """
    if isinstance(error, StreamerError):
        return str(error)
    if isinstance(error, MemoryError):
        return "not enough memory"
    return _strerror(error) or internal_error(error, where)


def internal_error(error: BaseException, where: str) -> str:
    """Log the stack of an unexpected error under a short id, and return a reason that names the id.

    The id is the same whenever the same code fails in the same way. A command without a log prints no stack.
    """
    name = error_id(error)
    words = _strerror(error)
    cause = f" ({words})" if words else ""
    if not logging.getLogger().hasHandlers():
        return f"internal error {name}{cause}: `streamer --debug ...` prints its stack"
    stack = None if name in _logged else error
    _logged.add(name)
    log.error("%s: internal error %s%s", where, name, cause, exc_info=stack)
    return f"internal error {name}{cause}: the log has the details"


def error_id(error: BaseException) -> str:
    """Return six hexadecimal digits made of the kind of error and the places in the code that it passed."""
    places = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
    return f"{crc32(' '.join([type(error).__name__, *places]).encode()) & 0xFFFFFF:06x}"


def _strerror(error: BaseException) -> str | None:
    """Return the text of the C library or of FFmpeg for an error number."""
    return getattr(error, "strerror", None) if isinstance(getattr(error, "errno", None), int) else None
