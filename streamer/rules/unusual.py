"""A condition on what is usual at this hour of the day, learnt from the answers of the days before.

An hour of a day counts once its task has answered in it. Objects that were seen in this hour, or in the hour before or
after it, on at most a tenth of the days are unusual. The present day does not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import Field

from streamer.config.condition import Condition as Settings
from streamer.rules.condition import LeafState, ObjectLeaf, Truth, Zones
from streamer.rules.observation import Observation

LEARN_DAYS = 7
"""Days with answers in an hour that are needed before something can be unusual in it."""
KEPT_DAYS = 28
"""Days that count: so many of the newest days with answers in an hour, and what was seen in as many days."""
RARE = 0.1
"""Part of the days on which something unusual was seen, at most."""
_HOUR_S = 3600.0


Hours = Annotated[list[list[int]], Field(min_length=24, max_length=24)]


def _hours() -> list[list[int]]:
    return [[] for _ in range(24)]


@dataclass(slots=True)
class UnusualState(LeafState):
    answered: Hours = field(default_factory=_hours)
    """Days with an answer, as ordinal numbers of the Gregorian calendar, by hour of the day."""
    seen: Hours = field(default_factory=_hours)
    """Days on which the objects were seen in the hour, or in the one before or after it."""
    is_there: bool = False
    """The objects were seen in the newest answer."""


class UnusualLeaf(ObjectLeaf):
    """Objects at an hour at which they are rare. Without an answer until enough days are learnt."""

    def __init__(self, settings: Settings, task: str | None, zones: Zones, timezone: ZoneInfo) -> None:
        super().__init__(settings, task, zones)
        self.state: UnusualState = UnusualState()
        self._timezone = timezone

    @property
    def has_learnt(self) -> bool:
        """Return whether it has taken any answer."""
        return any(self.state.answered)

    def learn(self, seen: Observation) -> None:
        """Take an answer of the past: it changes what is usual, and nothing else."""
        state = self.state
        before, finding = (state.value, state.measured, state.score), self.finding
        self._record(seen)
        (state.value, state.measured, state.score), self.finding = before, finding

    def _look(self, seen: Observation) -> Truth:
        self._record(seen)
        return self._is_unusual(seen.moment.wall)

    def _look_again(self, seen: Observation) -> None:
        self._record(seen)
        self.state.value = self._is_unusual(seen.moment.wall)

    def _record(self, seen: Observation) -> None:
        state = self.state
        if seen.outcome == "answer":
            state.is_there = self._count.holds(len(self.select(seen)))
        if seen.outcome != "none":
            _add(state.answered, *self._hour_of(seen.moment.wall))
            for shift in (-_HOUR_S, 0.0, _HOUR_S) if state.is_there else ():
                _add(state.seen, *self._hour_of(seen.moment.wall + shift))

    def _is_unusual(self, wall: float) -> Truth:
        state = self.state
        hour, today = self._hour_of(wall)
        days = set(state.answered[hour]) - {today}
        self.state.measured = None
        if not state.is_there:
            return False
        if len(days) < LEARN_DAYS:
            return None
        often = len(days.intersection(state.seen[hour]))
        self.state.measured = often
        return often <= RARE * len(days)

    def _hour_of(self, wall: float) -> tuple[int, int]:
        """Return the hour of the day, and the day."""
        local = datetime.fromtimestamp(wall, self._timezone)
        return local.hour, local.toordinal()

    def _threshold(self) -> str | None:
        return f"<= {RARE:.0%} of the days at this hour"


def _add(days_by_hour: Sequence[list[int]], hour: int, day: int) -> None:
    days = days_by_hour[hour]
    if day not in days:
        days.append(day)
        days.sort()
        del days[:-KEPT_DAYS]
