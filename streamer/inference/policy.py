"""What is asked of the device next, over all streams. Pure; the clocks are passed in.

Strict priority. Within a class, streams take turns by deficit round robin over the device time their jobs need, and
of a stream's due tasks the one with the earliest deadline goes first. Only streams with something due are looked at.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from streamer.inference.overload import Demand, Overload
from streamer.inference.schedule import Now, Schedule, Trigger
from streamer.types import PRIORITIES, DueTask, Job, Priority

FIRST_COST_S = 0.05
"""Device seconds of a job of a task that was never run."""
_NEWEST = 0.1
"""Weight of the newest job in the cost of its task."""

Choice = dict[str, set[str]]
"""Names of tasks by stream."""


@dataclass(slots=True)
class _Class:
    """The streams of one priority that have something due, in turn."""

    turn: deque[str] = field(default_factory=deque)
    members: set[str] = field(default_factory=set)
    """The streams in `turn`."""
    deficit: dict[str, float] = field(default_factory=dict)
    """Device seconds that a stream may still use. It keeps them while it is held, but not while nothing is due."""

    def add(self, stream: str, first: bool = False) -> None:
        """It has something due; `first`: something that goes before all others."""
        if first:
            self.deficit.setdefault(stream, 0.0)
            if stream in self.members and self.turn[0] != stream:
                self.turn.remove(stream)
                self.turn.appendleft(stream)
        if stream in self.members:
            return
        self.members.add(stream)
        if stream in self.deficit:
            self.turn.appendleft(stream)  # its turn was not over
        else:
            self.deficit[stream] = 0.0
            self.turn.append(stream)

    def drop_first(self, held: bool) -> None:
        stream = self.turn.popleft()
        self.members.remove(stream)
        if not held:
            del self.deficit[stream]


class Policy:
    """Chooses due tasks. A stream that was chosen is left alone until `release`."""

    def __init__(self, schedules: Mapping[str, Schedule], now: Now) -> None:
        self.schedules = dict(schedules)
        self.overload = Overload(now.mono)
        self._classes: dict[Priority, _Class] = {priority: _Class() for priority in PRIORITIES}
        self._awaiting_frame: set[str] = set()
        self._costs: dict[str, float] = {}
        self._by_interval = {stream: _by_interval(schedule) for stream, schedule in schedules.items()}
        self._wakeups = [(now.mono, stream) for stream in self.schedules]
        self._wakeup_at = dict.fromkeys(self.schedules, now.mono)

    def choose(self, room: int, now: Now) -> Choice:
        """At most `room` tasks that are due now, or may be where only a frame can tell; the most urgent first."""
        self._run_wakeups(now)
        chosen: Choice = {}
        for priority in PRIORITIES:
            room -= self._choose_from(priority, room, now, chosen)
        self._awaiting_frame.update(chosen)
        return chosen

    def release(self, stream: str, now: Now, unused: Collection[str] = ()) -> None:
        """The stream can be asked for a frame (again); of what was chosen, these tasks did not run."""
        schedule = self.schedules.get(stream)
        if schedule is None:
            return
        for ticker in (ticker for ticker in schedule.triggers if ticker.name in unused):
            deficit = self._classes[_priority(ticker)].deficit
            deficit[stream] = deficit.get(stream, 0.0) + self.cost(ticker.task.task)
        self._awaiting_frame.discard(stream)
        self._refresh_stream(stream, now)

    def on_tasks_changed(self, stream: str, now: Now) -> None:
        """The stream has other tasks than before."""
        if stream in self.schedules:
            self._by_interval[stream] = _by_interval(self.schedules[stream])
            self.schedules[stream].stretch(self.overload.factors)
            self._refresh_stream(stream, now)

    def remove(self, stream: str) -> None:
        """The stream is over."""
        self._awaiting_frame.discard(stream)
        self.schedules.pop(stream, None)

    def wait(self, now: Now) -> float:
        """Seconds until something more may be due."""
        return max(0.0, self._wakeups[0][0] - now.mono) if self._wakeups else float("inf")

    def cost(self, task: str) -> float:
        """Device seconds of a job of that task, as far as it is known."""
        return self._costs.get(task, FIRST_COST_S)

    def record_job(self, due: DueTask, seconds: float) -> None:
        """A job took `seconds` of the device: its share of a batch."""
        known = self._costs.setdefault(due.task.task, seconds)
        self._costs[due.task.task] = max((1 - _NEWEST) * known + _NEWEST * seconds, 1e-6)
        if due.task.name in self._by_interval.get(due.stream, ()):
            self.overload.record_served(self._costs[due.task.task])

    def adapt(self, now: Now) -> bool:
        """Stretch intervals, or let them shrink, where it is time to. True when that should be told."""
        if not self.overload.window_complete(now.mono) or not self.overload.update(now.mono, self._demands(now)):
            return False
        for stream, schedule in self.schedules.items():
            schedule.stretch(self.overload.factors)
            self._refresh_stream(stream, now)
        return True

    def stretches(self) -> dict[str, dict[Priority, float]]:
        """The factor by stream and priority, of live streams only and where it is not 1."""
        factors = {key: round(value, 2) for key, value in self.overload.factors.items() if value > 1}
        found = {}
        for stream, schedule in self.schedules.items():
            has = {ticker.task.priority for ticker in schedule.triggers if ticker.stretch > 1}
            if has:
                found[stream] = {priority: factor for priority, factor in factors.items() if priority in has}
        return found

    def _run_wakeups(self, now: Now) -> None:
        while self._wakeups and self._wakeups[0][0] <= now.mono:
            at, stream = heapq.heappop(self._wakeups)
            if self._wakeup_at.get(stream) == at:
                self._refresh_stream(stream, now)

    def _refresh_stream(self, stream: str, now: Now) -> None:
        """Put the stream into the classes in which it has something due, and plan the next look."""
        schedule = self.schedules.get(stream)
        if schedule is None or stream in self._awaiting_frame:
            self._wakeup_at.pop(stream, None)
            return
        for ticker in schedule.ready(now):
            self._classes[_priority(ticker)].add(stream, first=ticker.is_urgent)
        self._wakeup_at[stream] = at = now.mono + max(schedule.wait(now), 0.001)
        heapq.heappush(self._wakeups, (at, stream))

    def _choose_from(self, priority: Priority, room: int, now: Now, chosen: Choice) -> int:
        here, count = self._classes[priority], 0
        quantum = max([FIRST_COST_S, *self._costs.values()])
        while count < room and here.turn:
            stream = here.turn[0]
            ticker = self._most_urgent(stream, priority, now, chosen.get(stream, set()))
            if ticker is None:
                here.drop_first(held=stream in self._awaiting_frame)
                continue
            cost = self.cost(ticker.task.task)
            if here.deficit[stream] < cost and not ticker.is_urgent:
                here.deficit[stream] += quantum
                here.turn.rotate(-1)
                continue
            here.deficit[stream] -= cost
            chosen.setdefault(stream, set()).add(ticker.name)
            count += 1
        return count

    def _most_urgent(self, stream: str, priority: Priority, now: Now, chosen: set[str]) -> Trigger | None:
        schedule = self.schedules.get(stream)
        if schedule is None or stream in self._awaiting_frame:
            return None
        found = [
            ticker for ticker in schedule.ready(now) if _priority(ticker) == priority and ticker.name not in chosen
        ]
        return min(found, key=lambda ticker: ticker.deadline(now), default=None)

    def _demands(self, now: Now) -> dict[Priority, Demand]:
        tasks, overdue = dict.fromkeys(PRIORITIES, 0), dict.fromkeys(PRIORITIES, 0)
        costs = dict.fromkeys(PRIORITIES, 0.0)
        for stream, schedule in self.schedules.items():
            # A stream that is waited for, because its camera is slow or down, says nothing about the device.
            waits_for_device = stream not in self._awaiting_frame
            for ticker in schedule.triggers:
                if ticker.rate and ticker.asks(now):
                    priority = ticker.task.priority
                    tasks[priority] += 1
                    costs[priority] += ticker.rate * self.cost(ticker.task.task)
                    overdue[priority] += waits_for_device and now.mono > ticker.deadline(now)
        return {key: Demand(tasks[key], overdue[key], costs[key]) for key in PRIORITIES}


def _priority(ticker: Trigger) -> Priority:
    return PRIORITIES[0] if ticker.is_urgent else ticker.task.priority


def _by_interval(schedule: Schedule) -> set[str]:
    """Names of the tasks that overload stretches."""
    return {ticker.name for ticker in schedule.triggers if ticker.rate}


def most_urgent_first(jobs: list[Job]) -> list[Job]:
    """The order in which jobs that wait with their frames are admitted."""
    return sorted(
        jobs, key=lambda job: (job.due.deadline > -math.inf, PRIORITIES.index(job.due.task.priority), job.due.deadline)
    )
