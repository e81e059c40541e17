"""Exclusive right to capture a stream, and the source of its epochs."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from streamer.core.errors import ProcessBroken

_TIMEOUT_S = 2.0
"""A killed process releases its lock as soon as the kernel has cleaned it up, which takes far less."""
_RETRY_S = 0.02
MAX_EPOCH = 1 << 52
"""A larger number in the file is not of this program."""


class StreamLock:
    """Guarantees one capture process per stream and strictly increasing epochs.

    The kernel releases the lock when its process dies, so the holder knows that its predecessor is dead. The lock file
    stores the last epoch, because the system clock may be set back.
    """

    def __init__(self, runtime: Path, stream: str) -> None:
        """Raises ProcessBroken when another process holds the lock for more than 2 s."""
        path = runtime / f"frames-{stream}.lock"
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + _TIMEOUT_S
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(self._descriptor)
                    raise ProcessBroken(f"another process captures {stream}: it holds {path}") from None
            time.sleep(_RETRY_S)
        stored = os.pread(self._descriptor, 32, 0)
        self._epoch = int(stored) if stored.isdigit() and int(stored) < MAX_EPOCH else 0

    def next_epoch(self) -> int:
        """Return the unix time in milliseconds, or the last epoch plus one when the clock says less."""
        self._epoch = max(self._epoch + 1, int(time.time() * 1000))
        with suppress(OSError):  # no room: epochs could only decrease if the clock is set back and capture restarts
            os.pwrite(self._descriptor, b"%d" % self._epoch, 0)
        return self._epoch

    def close(self) -> None:
        os.close(self._descriptor)
