"""The end of a time that several steps share."""

from __future__ import annotations

import time


class Deadline:
    """The end of a time that several steps share."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def remaining(self) -> float:
        """Return the seconds that are left. Raises TimeoutError at the end."""
        if (left := self._end - time.monotonic()) <= 0:
            raise TimeoutError
        return left
