"""Reasons of failures in words, for events, the log and the command line: never a library's text or a class name."""

from __future__ import annotations

import logging
import re
import traceback
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from zlib import crc32

from streamer.core.errors import StreamerError

log = logging.getLogger(__name__)

_SQLITE = {
    "BusyError": "the file is locked by another program",
    "CantOpenError": "the file cannot be opened",
    "CorruptError": "the file is damaged",
    "FullError": "the disk is full",
    "IOError": "the disk fails",
    "LockedError": "the file is locked by another program",
    "NotADBError": "the file is damaged",
    "ReadOnlyError": "the file can only be read",
}
"""Words for the errors of SQLite that tell of the disk or the file, by their class."""
_counts: Counter[str] = Counter()
"""Occurrences by id. The first is logged with its stack, then the 2nd, 4th, 8th … without."""


def reason_of(error: BaseException, where: str) -> str:
    """Return in one line why `where` failed: the text of our own errors, the operating system's words, or an id.

    `where`: the place of an internal error in the log, such as `sink mqtt`.
    """
    if isinstance(error, StreamerError):
        return str(error)
    if isinstance(error, MemoryError):
        return "not enough memory"
    return _words(error) or internal_error(error, where)


def internal_error(error: BaseException, where: str) -> str:
    """Log the stack of an unexpected error under a short id, and return a reason that names the id.

    The id is the same whenever the same code fails in the same way. A command without a log prints no stack.
    """
    name = error_id(error)
    words = _words(error)
    cause = f" ({words})" if words else ""
    if not logging.getLogger().hasHandlers():
        return f"internal error {name}{cause}: `streamer --debug ...` prints its stack"
    _counts[name] += 1
    count = _counts[name]
    if count == 1:
        log.error("%s: internal error %s%s", where, name, cause, exc_info=error)
    elif count.bit_count() == 1:
        log.error("%s: internal error %s%s, %d times so far", where, name, cause, count)
    return f"internal error {name}{cause}: the log has the details"


def continue_counts(counts: Mapping[str, int]) -> None:
    """Count on where an earlier process ended, by id: its stacks are in the log already."""
    _counts.update(counts)


def ids_in(reason: str | None) -> list[str]:
    """Return the ids of internal errors in a reason."""
    return re.findall(r"internal error ([0-9a-f]{6})\b", reason or "")


def error_id(error: BaseException) -> str:
    """Return six hexadecimal digits made of the kind of error and the places in the code that it passed."""
    places = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
    return f"{crc32(' '.join([type(error).__name__, *dict.fromkeys(places)]).encode()) & 0xFFFFFF:06x}"


def _words(error: BaseException) -> str | None:
    """Return the text of the C library or of FFmpeg for an error number, or ours for an error of SQLite."""
    if type(error).__module__ == "apsw":
        return _SQLITE.get(type(error).__name__)
    return getattr(error, "strerror", None) if isinstance(getattr(error, "errno", None), int) else None
