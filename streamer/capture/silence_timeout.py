"""How long a live source may send nothing before it counts as lost. Pure: measured gaps are passed in."""

from __future__ import annotations

from collections import deque
from threading import Lock


class SilenceTimeout:
    """How long a live source may be silent before it is taken for dead: three times its longest gap.

    Knows the last 500 gaps over all connections. Thread-safe.
    """

    def __init__(self, start: float = 15.0, floor: float = 5.0, cap: float = 60.0) -> None:
        """Seconds: `start` is the least until it was watched for that long, `floor` the least afterwards."""
        self._start, self._floor, self._cap = start, floor, cap
        self._gaps: deque[float] = deque(maxlen=500)
        self._watched = 0.0
        self._silence: float | None = None
        self._lock = Lock()

    def observe_gap(self, seconds: float) -> None:
        """A picture came, so long after the one before it in the same connection."""
        with self._lock:
            self._gaps.append(seconds)
            self._watched += seconds

    def observe_timeout(self, seconds: float) -> None:
        """A connection was given up after this silence."""
        with self._lock:
            self._silence = seconds

    def connected(self) -> None:
        """A new connection gave its first picture, so the source was slow, not dead: the silence counts as a gap."""
        with self._lock:
            if self._silence is not None:
                self._gaps.append(self._silence)
            self._silence = None

    def seconds(self) -> float:
        """Seconds of silence from which on it is dead."""
        with self._lock:
            least = self._start if self._watched < self._start else self._floor
            return min(max(3 * max(self._gaps, default=0.0), least), max(self._cap, least))
