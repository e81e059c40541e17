"""Delays between attempts after failures: one exponential rule with jitter, and the reconnect policy built on it.

Pure: the clock and the random source are passed in.
"""

from __future__ import annotations

import random

FIRST_DELAY_S, MAX_SHORT_DELAY_S, MAX_DELAY_S = 0.5, 2.0, 30.0
"""Reconnect delay: the first, the longest in the short phase, the longest afterwards."""
SHORT_PHASE_S = 60.0
"""Length of the short phase, from the first failure or from the last response."""
MAX_RENEWALS = 60
"""Responses after which the short phase is no longer prolonged, unless a connection was stable: a camera that answers
and fails for hours is asked less often."""
FREE_DOWNS = 3
"""Reports of a failure after which a success is still reported at once."""
FIRST_SETTLING_S, MAX_SETTLING_S = 2.0, 60.0
"""Time for which something that failed more often must work before that is reported: the first, and the longest."""
MAX_REPORT_GAP_S = 300.0
"""Longest time between two reports of a state that keeps changing."""
CALM_S = 600.0
"""Time without a failure after which earlier ones are forgotten."""
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

    def __init__(self, rng: random.Random | None = None, max_delay_s: float = MAX_DELAY_S) -> None:
        """`max_delay_s`: longest delay of all, except after a refusal."""
        self._rng = rng or random.Random()
        self._max_delay_s = max_delay_s
        self._short = Backoff(FIRST_DELAY_S, MAX_SHORT_DELAY_S, self._rng)
        self._long = Backoff(2 * MAX_SHORT_DELAY_S, MAX_DELAY_S, self._rng)
        self._since: float | None = None
        self._renewals = 0

    def next_delay(self, now: float, refused: bool = False) -> float:
        """Count a failure at monotonic second `now` and return the seconds to wait."""
        if self._since is None:
            self._since = now
        if refused:
            return self._rng.uniform(*REFUSED_DELAY_S)
        delay = (self._short if now - self._since < SHORT_PHASE_S else self._long).next_delay()
        return min(delay, self._max_delay_s)

    def on_response(self, now: float) -> None:
        """The other side answered, then failed: keep delays short for another minute."""
        if self._since is not None and self._renewals < MAX_RENEWALS:
            self._since = now
            self._renewals += 1

    def reset(self) -> None:
        """The connection is stable: the next failure counts as the first one."""
        self._since = None
        self._renewals = 0
        self._short.reset()
        self._long.reset()


class Settling:
    """Decides when something that fails again and again is reported as up, so that such reports become rarer.

    Pure: the clock is passed in. While it is reported as down, further failures are not reported.
    """

    def __init__(self) -> None:
        self._downs = 0
        self._failed_at = -CALM_S

    def on_failure(self, now: float, is_reported: bool) -> None:
        """It failed at monotonic second `now`. `is_reported`: that is a change of the reported state."""
        if is_reported:
            self._downs = 1 if now - self._failed_at > CALM_S else self._downs + 1
        self._failed_at = now

    def is_over(self, now: float) -> bool:
        """Return whether it has worked for long enough since the last failure."""
        if self._downs <= FREE_DOWNS:
            return True
        return now - self._failed_at >= exponential(FIRST_SETTLING_S, MAX_SETTLING_S, self._downs - FREE_DOWNS)


class ReportRate:
    """Decides when a state that keeps changing is reported: the first changes at once, later ones at a falling rate.

    Pure: the clock is passed in.
    """

    def __init__(self) -> None:
        self._is_changed = False
        self._reports = 0
        self._reported_at = -CALM_S

    def on_change(self) -> None:
        """The state has changed since the last report."""
        self._is_changed = True

    def take(self, now: float) -> bool:
        """Return whether the state is to be reported at monotonic second `now`; then it counts as reported."""
        if not self._is_changed:
            return False
        since = now - self._reported_at
        if since > CALM_S:
            self._reports = 0
        later = self._reports - FREE_DOWNS + 1
        if later > 0 and since < exponential(FIRST_SETTLING_S, MAX_REPORT_GAP_S, later):
            return False
        self._is_changed, self._reported_at = False, now
        self._reports += 1
        return True
