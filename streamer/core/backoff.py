"""Delays between attempts after failures: one exponential rule with jitter, and the reconnect policy built on it.

Pure: the clock and the random source are passed in.
"""

from __future__ import annotations

import random

FIRST_DELAY_S, MAX_SHORT_DELAY_S, MAX_DELAY_S = 0.5, 2.0, 30.0
"""Reconnect delay: the first, the longest in the short phase, the longest afterwards."""
SHORT_PHASE_S = 60.0
"""Length of the short phase, from the first failure or from the last response."""
REFUSED_DELAY_S = (30.0, 60.0)
"""Range of the delay after a refused login: many cameras lock an account after a few attempts."""


def exponential(first_s: float, max_s: float, failures: int) -> float:
    """Return `first_s` doubled once per failure after the first, at most `max_s`. Without jitter."""
    return min(max_s, first_s * 2.0 ** min(max(0, failures - 1), 30))


class Backoff:
    """Exponential delay with jitter (50 to 100 %), so that clients of one server do not retry at the same moment."""

    def __init__(self, first_s: float, max_s: float, rng: random.Random | None = None) -> None:
        self._first_s, self._max_s = first_s, max_s
        self._rng = rng or random.Random()
        self.failures = 0

    def next_delay(self) -> float:
        """Count one more failure and return the seconds to wait."""
        self.failures += 1
        return exponential(self._first_s, self._max_s, self.failures) * self._rng.uniform(0.5, 1.0)

    def reset(self) -> None:
        """The operation succeeded: the next failure counts as the first one."""
        self.failures = 0


class ReconnectBackoff:
    """Delay before the next connection attempt: short in the first minute, then up to 30 s; 30 to 60 s when refused."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()
        self._short = Backoff(FIRST_DELAY_S, MAX_SHORT_DELAY_S, self._rng)
        self._long = Backoff(2 * MAX_SHORT_DELAY_S, MAX_DELAY_S, self._rng)
        self._since: float | None = None

    def next_delay(self, now: float, refused: bool = False) -> float:
        """Count a failure at monotonic second `now` and return the seconds to wait."""
        if self._since is None:
            self._since = now
        if refused:
            return self._rng.uniform(*REFUSED_DELAY_S)
        return (self._short if now - self._since < SHORT_PHASE_S else self._long).next_delay()

    def on_response(self, now: float) -> None:
        """The other side answered, then failed: keep delays short for another minute."""
        if self._since is not None:
            self._since = now

    def reset(self) -> None:
        """The connection is stable: the next failure counts as the first one."""
        self._since = None
        self._short.reset()
        self._long.reset()
