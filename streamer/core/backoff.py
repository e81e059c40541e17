"""Wait before the next attempt after a failure. Pure: the clock and the random source are passed in."""

from __future__ import annotations

import random

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

    def next_delay(self, now: float, refused: bool = False) -> float:
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

    def on_response(self, now: float) -> None:
        """It worked, if not for long: no long waits for another minute."""
        if self._since is not None:
            self._since = now

    def reset(self) -> None:
        """It works for good: the next failure is a first one."""
        self._since = None
