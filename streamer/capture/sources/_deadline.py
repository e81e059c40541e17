"""Time limit for the other side of a connection."""

from __future__ import annotations

import time

from streamer.core.errors import SourceLost


class Deadline:
    """The second until which the other side must have sent what is awaited. Reads block no longer."""

    def __init__(self, seconds: float) -> None:
        """Start the time for opening."""
        self._is_open = False
        self._start(seconds)

    def restart(self, seconds: float) -> None:
        """Start the time for the next frame."""
        self._is_open = True
        self._start(seconds)

    def _start(self, seconds: float) -> None:
        self._seconds, self._has_data = seconds, False
        self._at = time.monotonic() + seconds

    def on_data(self) -> None:
        self._has_data = True

    def left(self) -> float:
        """Return the seconds left. Raises SourceLost when there are none."""
        left = self._at - time.monotonic()
        if left > 0:
            return left
        if not self._is_open:
            raise SourceLost(f"no answer within {self._seconds:g} s")
        if self._has_data:
            raise SourceLost(f"sends data, but no frame for {self._seconds:g} s")
        raise SourceLost(f"silent for {self._seconds:g} s")

    def sleep(self, seconds: float) -> None:
        """Wait. Raises SourceLost at the deadline."""
        time.sleep(min(seconds, self.left()))
        self.left()
