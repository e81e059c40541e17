"""Space in the runtime folder for the frames of one kind of consumer: full or not, and when to try again."""

from __future__ import annotations

import errno
import logging
import shutil
from contextlib import suppress
from pathlib import Path

from streamer.core.backoff import exponential
from streamer.core.logs import RareLog

log = logging.getLogger(__name__)

FIRST_RETRY_S, MAX_RETRY_S = 0.5, 5.0
"""Delay before the next attempt to store a frame: the first, and the longest."""
FIRST_HOLD_S, MAX_HOLD_S = 10.0, 600.0
"""Time without a failure after which a shortage is over. It doubles with each shortage, so that a folder that is now
full and now not is reported at a falling rate."""
MEGABYTE = 1e6


class Room:
    """Decides when a frame may be stored. Pure but for the log and the size of the file system."""

    def __init__(self, runtime: Path, role: str) -> None:
        self.problem: str | None = None
        """Cause and remedy, from the first failure until the shortage is over."""
        self._runtime = runtime
        self._failures = 0
        """Failures in a row."""
        self._shortages = 0
        self._failed_at = self._retry_at = 0.0
        self._log = RareLog(log, f"frame for {role} not stored, %s: %s", logging.ERROR, noun="time")

    def may_store(self, now: float) -> bool:
        """Return whether the delay after the last failure is over. `now`: monotonic second, as in all methods."""
        return now >= self._retry_at

    def on_failure(self, now: float, error: OSError, width: int, height: int) -> None:
        """A frame of this size could not be stored."""
        self._failures += 1
        self._failed_at, self._retry_at = now, now + exponential(FIRST_RETRY_S, MAX_RETRY_S, self._failures)
        if self.problem is None:
            self._shortages += 1
            self.problem = self._describe(error, width, height)
            self._log.add(self.problem)

    def on_success(self, now: float) -> None:
        """A frame was stored."""
        self._failures, self._retry_at = 0, 0.0
        if self.problem and now - self._failed_at >= exponential(FIRST_HOLD_S, MAX_HOLD_S, self._shortages):
            self.problem = None

    def _describe(self, error: OSError, width: int, height: int) -> str:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return f"frames cannot be stored ({error.strerror}): raise the limit of open files (`ulimit -n`)"
        free = 0.0
        with suppress(OSError):
            free = shutil.disk_usage(self._runtime).free / MEGABYTE
        needed = 3 * width * height / MEGABYTE
        return (
            f"no room for frames in the runtime folder {self._runtime} ({error.strerror}): {needed:.1f} MB needed for "
            f"one of {width}x{height}, {free:.1f} MB free; enlarge its file system or set $XDG_RUNTIME_DIR"
        )
