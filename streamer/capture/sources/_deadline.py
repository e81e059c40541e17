"""Time limit for the other side of a connection."""

from __future__ import annotations

import time

from streamer.core.deadline import Deadline
from streamer.core.errors import SourceLost


class SourceDeadline:
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
        self._deadline, self._has_data = Deadline(seconds), False

    def on_data(self) -> None:
        self._has_data = True

    def left(self) -> float:
        """Return the seconds left. Raises SourceLost when there are none."""
        try:
            return self._deadline.remaining()
        except TimeoutError:
            limit = f"{self._deadline.seconds:g} s"
        if not self._is_open:
            raise SourceLost(f"no answer within {limit}")
        if self._has_data:
            raise SourceLost(f"sends data, but no frame for {limit}")
        raise SourceLost(f"silent for {limit}")

    def sleep(self, seconds: float) -> None:
        """Wait. Raises SourceLost at the deadline."""
        time.sleep(min(seconds, self.left()))
        self.left()
