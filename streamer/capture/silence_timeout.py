"""Longest silence of a live source before its connection counts as lost. Pure: measured gaps are passed in."""

from __future__ import annotations

from collections import deque
from threading import Lock

_MAX_GAPS = 500
_FACTOR = 3.0
"""Timeout as a multiple of the longest gap."""


class SilenceTimeout:
    """Three times the longest of the last 500 gaps between frames, over all connections. Thread-safe."""

    def __init__(self, start: float = 15.0, floor: float = 5.0, cap: float = 60.0) -> None:
        """Seconds. `start`: minimum until the source was observed for that long; `floor`: minimum afterwards."""
        self._start, self._floor, self._cap = start, floor, cap
        self._gaps: deque[float] = deque(maxlen=_MAX_GAPS)
        self._observed = 0.0
        self._silence: float | None = None
        self._lock = Lock()

    def observe_gap(self, seconds: float) -> None:
        """Record the time between two frames of one connection."""
        with self._lock:
            self._gaps.append(seconds)
            self._observed += seconds

    def observe_timeout(self, seconds: float) -> None:
        """Record the silence after which a connection was closed."""
        with self._lock:
            self._silence = seconds

    def connected(self) -> None:
        """Record that a new connection delivers frames. The source was slow, not dead, so the silence is a gap."""
        with self._lock:
            if self._silence is not None:
                self._gaps.append(self._silence)
            self._silence = None

    def seconds(self) -> float:
        """Return the timeout in seconds."""
        with self._lock:
            minimum = self._start if self._observed < self._start else self._floor
            return min(max(_FACTOR * max(self._gaps, default=0.0), minimum), max(self._cap, minimum))
