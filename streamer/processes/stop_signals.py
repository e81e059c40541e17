"""SIGTERM and SIGINT as a flag and a file descriptor that a poll can wait for."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Self


class StopSignals:
    """Handles SIGTERM and SIGINT while its `with` block runs. Both may be blocked before; they are unblocked then."""

    NUMBERS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.received = False
        self.wakeup_fd, self._write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        """Readable once a signal has come; `clear` empties it."""

    def __enter__(self) -> Self:
        self._previous_wakeup = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        self._previous = {number: signal.signal(number, self._on_signal) for number in self.NUMBERS}
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self.NUMBERS)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_wakeup)
        os.close(self.wakeup_fd)
        os.close(self._write_fd)

    def clear(self) -> None:
        """Empty the pipe, so that the next poll waits again."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.wakeup_fd, 4096)

    def _on_signal(self, *_: object) -> None:
        self.received = True
