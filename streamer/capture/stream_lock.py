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

MAX_DEATHS = 2
"""Deaths after which a recording is not read again: it crashes its reader."""


class StreamLock:
    """Guarantees one capture process per stream and strictly increasing epochs.

    The kernel releases the lock when its process dies, so the holder knows that its predecessor is dead. The lock file
    stores the last epoch, because the system clock may be set back, and how many processes died reading a recording.
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
        stored = [int(word) for word in os.pread(self._descriptor, 64, 0).split() if word.isdigit()]
        self._epoch = stored[0] if stored and stored[0] < MAX_EPOCH else 0
        self.deaths = min(stored[1], MAX_DEATHS) if len(stored) > 1 else 0
        """Processes in a row that died while they read the recording of this stream."""

    def next_epoch(self) -> int:
        """Return the unix time in milliseconds, or the last epoch plus one when the clock says less."""
        self._epoch = max(self._epoch + 1, int(time.time() * 1000))
        self._store(self.deaths)
        return self._epoch

    def set_reading(self, reading: bool) -> None:
        """Store whether a recording is being read: if this process dies meanwhile, that counts as one more death."""
        self.deaths = self.deaths if reading else 0
        self._store(self.deaths + reading)

    def _store(self, deaths: int) -> None:
        with suppress(OSError):  # no room: epochs could only decrease if the clock is set back and capture restarts
            os.pwrite(self._descriptor, b"%d %d" % (self._epoch, deaths), 0)

    def close(self) -> None:
        os.close(self._descriptor)
