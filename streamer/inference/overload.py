"""Overload control: stretches intervals while the device is too slow. Pure; the clock is passed in.

The load is measured in windows of some seconds. If tasks of live intervals were overdue in two consecutive windows,
the work done in the window is the capacity of the device. It is divided by priority: high first, then normal, then
low, but each class gets at least a twentieth of its demand. A class that gets less than its demand has its intervals
stretched by that factor. When the device becomes less busy than during the overload, the estimated capacity grows and
the factors fall back to 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from streamer.types import PRIORITIES, Priority

WINDOW_S = 5.0
MAX_WINDOW_S = 60.0
MIN_WINDOW_JOBS = 20
"""Jobs that a window needs to be representative: the window of a slow device is longer."""
MAX_OVERDUE_SHARE = 0.05
"""Share of a class's tasks that may be overdue at the end of a window without an overload."""
MARGIN = 0.9
"""Share of the capacity that is divided; the rest is for overdue work."""
MIN_SHARE = 0.05
"""Share of its demand that every class gets if possible: intervals are stretched 20 times at most."""
CALM = 0.8
"""Busy share, relative to that during the overload, below which the device has spare capacity."""
MAX_GROWTH = 2.0
"""Largest factor by which the estimated capacity grows in one window."""
MIN_CHANGE = 0.1
"""Smallest relative change of a factor that is applied."""

MIN_FOLLOW_UP_SHARE = 1 / 8
"""Smallest part of the follow-ups that runs under overload, before none does."""

Factors = dict[Priority, float]


@dataclass(slots=True)
class Window:
    """Work since `start`. Costs are device seconds, as far as they are known."""

    start: float
    done: int = 0
    served: float = 0.0
    """Cost of the finished interval jobs."""
    busy: float = 0.0
    """Seconds for which the device worked."""
    follow_ups: float = 0.0
    """Seconds of that for follow-ups."""


@dataclass(slots=True)
class Demand:
    """Demand of one priority class."""

    tasks: int = 0
    overdue: int = 0
    cost: float = 0.0
    """Device seconds per second at the configured intervals."""


class Overload:
    """The controller. Record every job and step, and call `update` when a window is complete."""

    def __init__(self, start: float) -> None:
        self.window = Window(start)
        self.factors: Factors = dict.fromkeys(PRIORITIES, 1.0)
        self.follow_up_share = 1.0
        """Part of the follow-ups that may run. It is reduced before any interval is stretched."""
        self._capacity: float | None = None
        """Device seconds of work per second that the device can do; None without an overload."""
        self._overload_busy = 1.0
        self._was_overloaded = False

    def record_served(self, cost: float) -> None:
        self.window.done += 1
        self.window.served += cost

    def record_busy(self, seconds: float) -> None:
        self.window.busy += seconds

    def record_follow_up(self, seconds: float) -> None:
        self.window.follow_ups += seconds

    def window_complete(self, now: float) -> bool:
        """Return whether `update` should be called."""
        age = now - self.window.start
        return age >= WINDOW_S and (self.window.done >= MIN_WINDOW_JOBS or age >= MAX_WINDOW_S)

    def update(self, now: float, demands: Mapping[Priority, Demand]) -> bool:
        """End the window and start the next. Return whether the factors have changed."""
        window, self.window = self.window, Window(now)
        seconds = max(now - window.start, 1e-9)
        served, busy = window.served / seconds, window.busy / seconds
        overloaded = any(demand.overdue > MAX_OVERDUE_SHARE * demand.tasks for demand in demands.values())
        if overloaded and window.follow_ups > 0:
            self.follow_up_share = self.follow_up_share / 2 if self.follow_up_share > MIN_FOLLOW_UP_SHARE else 0.0
            return True
        if overloaded and (self._capacity is not None or self._was_overloaded):
            self._capacity = served if self._capacity is None else min(served, self._capacity)
            self._overload_busy = max(busy, 0.01)
        elif not overloaded and self._capacity is not None:
            busy /= self._overload_busy
            if busy < CALM:
                possible = min(served / max(busy, 0.01), MAX_GROWTH * self._capacity)
                self._capacity = max(self._capacity, possible)
            if self._capacity * MARGIN >= sum(demand.cost for demand in demands.values()):
                self._capacity = None
        self._was_overloaded = overloaded
        grows = self.follow_up_share < 1 and self._capacity is None and not overloaded and busy < CALM
        if grows:
            self.follow_up_share = min(1.0, max(MIN_FOLLOW_UP_SHARE, 2 * self.follow_up_share))
        return self._apply(demands) or grows

    def _apply(self, demands: Mapping[Priority, Demand]) -> bool:
        factors = dict.fromkeys(PRIORITIES, 1.0) if self._capacity is None else shares(self._capacity, demands)
        changes = [abs(factors[key] / self.factors[key] - 1) for key in PRIORITIES]
        back_to_one = any(factors[key] == 1 < self.factors[key] for key in PRIORITIES)
        if not back_to_one and max(changes) < MIN_CHANGE:
            return False
        self.factors = factors
        return True


def shares(capacity: float, demands: Mapping[Priority, Demand]) -> Factors:
    """Return the factor of each class for `capacity` device seconds per second; higher classes have smaller factors."""
    capacity = max(capacity * MARGIN, 1e-9)
    total = sum(demand.cost for demand in demands.values())
    least = min(MIN_SHARE, capacity / max(total, 1e-9))
    left = capacity - least * total
    factors = dict.fromkeys(PRIORITIES, 1.0)
    for priority in PRIORITIES:
        cost = demands[priority].cost if priority in demands else 0.0
        more = max(0.0, min((1 - least) * cost, left))
        left -= more
        if cost > 1e-9:
            factors[priority] = max(1.0, cost / (least * cost + more))
    return factors
