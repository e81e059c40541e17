"""How much longer intervals get while the device cannot do everything. Pure; the clock is passed in.

The load is looked at in windows of some seconds. When tasks of live intervals were overdue in two windows one after
the other, what was done in the window is what the device can do, and it is given out from the top: high priority
first, then normal, then low, but to each class at least a twentieth of what it asks for, so that none stands still. A
class that gets less than it asks for has its intervals stretched by that factor. When the device is less busy than it
was while overloaded, it can do more, and the factors shrink again until they are 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from streamer.types import PRIORITIES, Priority

WINDOW_S = 5.0
MAX_WINDOW_S = 60.0
ENOUGH = 20
"""Jobs that make a window tell something; a slow device gets a longer window."""
OVERDUE = 0.05
"""Share of a class's tasks that may be overdue at the end of a window, which is no overload yet."""
MARGIN = 0.9
"""Share of the device that is given out: the rest catches up."""
MIN_SHARE = 0.05
"""Share of its demand that every class gets, as long as that is possible: no interval is longer than 20 times."""
CALM = 0.8
"""Less busy than this, compared with when it was overloaded, the device can do more."""
GROWTH = 2.0
"""Most by which the estimate of what it can do grows in one window."""
WORTH_TELLING = 0.1
"""A smaller change of a factor is left alone."""

Factors = dict[Priority, float]


@dataclass(slots=True)
class Window:
    """What happened since `start`. Costs are device seconds, as far as they are known."""

    start: float
    done: int = 0
    served: float = 0.0
    """Cost of the interval jobs that were done."""
    busy: float = 0.0
    """Seconds in which the device worked."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What one class asks for now."""

    tasks: int = 0
    overdue: int = 0
    cost: float = 0.0
    """Per second, by the configured intervals."""


@dataclass(slots=True)
class Overload:
    """The controller. Tell it of every job, and ask it for new factors from time to time."""

    start: float
    factors: Factors = field(default_factory=lambda: dict.fromkeys(PRIORITIES, 1.0))
    window: Window = field(init=False)
    _capacity: float | None = None
    """Cost per second that the device can do; None while that is enough."""
    _busy_at_most: float = 1.0
    _overloaded_before: bool = False

    def __post_init__(self) -> None:
        self.window = Window(self.start)

    @property
    def is_stretched(self) -> bool:
        return self._capacity is not None

    def record_served(self, cost: float) -> None:
        self.window.done += 1
        self.window.served += cost

    def record_busy(self, seconds: float) -> None:
        self.window.busy += seconds

    def window_complete(self, now: float) -> bool:
        """The window has seen enough: call `update`."""
        age = now - self.window.start
        return age >= WINDOW_S and (self.window.done >= ENOUGH or age >= MAX_WINDOW_S)

    def update(self, now: float, demands: Mapping[Priority, Demand]) -> bool:
        """End the window. True when the factors changed enough to be told."""
        window, self.window = self.window, Window(now)
        seconds = max(now - window.start, 1e-9)
        overloaded = any(demand.overdue > OVERDUE * demand.tasks for demand in demands.values())
        if overloaded and (self.is_stretched or self._overloaded_before):
            self._reduce_capacity(window, seconds)
        elif not overloaded and self.is_stretched:
            self._raise_capacity(window, seconds, demands)
        self._overloaded_before = overloaded
        return self._apply(demands)

    def _reduce_capacity(self, window: Window, seconds: float) -> None:
        did = window.served / seconds
        self._capacity = did if self._capacity is None else min(did, self._capacity)
        self._busy_at_most = max(window.busy / seconds, 0.01)

    def _raise_capacity(self, window: Window, seconds: float, demands: Mapping[Priority, Demand]) -> None:
        assert self._capacity is not None
        busy = window.busy / seconds / self._busy_at_most
        if busy < CALM:
            could = window.served / seconds / max(busy, 0.01)
            self._capacity = max(self._capacity, min(could, GROWTH * self._capacity))
        if self._capacity * MARGIN >= sum(demand.cost for demand in demands.values()):
            self._capacity = None

    def _apply(self, demands: Mapping[Priority, Demand]) -> bool:
        wanted = dict.fromkeys(PRIORITIES, 1.0) if self._capacity is None else shares(self._capacity, demands)
        changes = [abs(wanted[key] / self.factors[key] - 1) for key in PRIORITIES]
        back = any(wanted[key] == 1 < self.factors[key] for key in PRIORITIES)
        if not back and max(changes) < WORTH_TELLING:
            return False
        self.factors = wanted
        return True


def shares(capacity: float, demands: Mapping[Priority, Demand]) -> Factors:
    """The factor of each class when that much cost per second can be done in all; a higher class has no larger one."""
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
