"""How long to wait before trying again, and how long a silence may be. Pure: clocks and chance are passed in."""

from __future__ import annotations

import random
from collections import deque
from threading import Lock

SOON_S = 60.0
"""For so long after something that worked, no wait is longer than `SOON_WAIT_S`."""
SOON_WAIT_S = 2.0
LATER_WAIT_S = 30.0
REFUSED_WAIT_S = (30.0, 60.0)

_FIRST_WAIT_S = 0.5


class Backoff:
    """Waits that double, with jitter so that cameras behind one switch do not come back in step."""

    def __init__(self, chance: random.Random | None = None) -> None:
        self._chance = chance or random.Random()
        self._since: float | None = None
        self._tries = 0

    def failed(self, now: float, refused: bool = False) -> float:
        """Seconds to wait after a failure at `now`: at most 2 in the first minute, then up to 30.

        After a refused password 30 to 60, whenever it was.
        """
        if self._since is None:
            self._since, self._tries = now, 0
        if refused:
            return self._chance.uniform(*REFUSED_WAIT_S)
        longest = SOON_WAIT_S if now - self._since < SOON_S else LATER_WAIT_S
        wait = min(longest, _FIRST_WAIT_S * 2.0**self._tries)
        if wait < longest or longest == LATER_WAIT_S:
            self._tries = min(self._tries + 1, 10)
        return wait * self._chance.uniform(0.5, 1.0)

    def answered(self, now: float) -> None:
        """It worked, if not for long: no long waits for another minute."""
        if self._since is not None:
            self._since = now

    def worked(self) -> None:
        """It works for good: the next failure is a first one."""
        self._since = None


class Rhythm:
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

    def gap(self, seconds: float) -> None:
        """A picture came, so long after the one before it in the same connection."""
        with self._lock:
            self._gaps.append(seconds)
            self._watched += seconds

    def went_silent(self, seconds: float) -> None:
        """A connection was given up after this silence."""
        with self._lock:
            self._silence = seconds

    def connected(self) -> None:
        """A new connection gave its first picture, so the source was slow, not dead: the silence counts as a gap."""
        with self._lock:
            if self._silence is not None:
                self._gaps.append(self._silence)
            self._silence = None

    def limit(self) -> float:
        """Seconds of silence from which on it is dead."""
        with self._lock:
            least = self._start if self._watched < self._start else self._floor
            return min(max(3 * max(self._gaps, default=0.0), least), max(self._cap, least))
