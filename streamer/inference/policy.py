"""Choice of the tasks that run next, over all streams. Pure; the clocks are passed in.

Priority is strict. Within a class, streams take turns by deficit round robin over the device time of their jobs. Of a
stream's due tasks the one with the earliest deadline runs first. Only streams with a due task are examined.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from streamer.inference.overload import Demand, Overload
from streamer.inference.schedule import Now, Schedule, Trigger
from streamer.types import PRIORITIES, DueTask, Job, Priority

FIRST_COST_S = 0.05
"""Assumed device seconds of a job of a task that has never run."""
_NEWEST_WEIGHT = 0.1
"""Weight of the newest job in the moving average of its task's cost."""
_MIN_WAIT_S = 0.001

Choice = dict[str, set[str]]
"""Names of tasks by stream."""


@dataclass(slots=True)
class _Class:
    """The streams of one priority that have something due."""

    queue: deque[str] = field(default_factory=deque)
    """Streams in the order of their turns."""
    members: set[str] = field(default_factory=set)
    """The streams in `queue`."""
    deficit: dict[str, float] = field(default_factory=dict)
    """Device seconds that a stream may still use. Kept while the stream awaits a frame, not while nothing is due."""

    def add(self, stream: str, urgent: bool = False) -> None:
        """The stream has something due; `urgent`: it gets the next turn."""
        if urgent:
            self.deficit.setdefault(stream, 0.0)
            if stream in self.members and self.queue[0] != stream:
                self.queue.remove(stream)
                self.queue.appendleft(stream)
        if stream in self.members:
            return
        self.members.add(stream)
        if stream in self.deficit:
            self.queue.appendleft(stream)  # its turn was not over
        else:
            self.deficit[stream] = 0.0
            self.queue.append(stream)

    def drop_first(self, keep_deficit: bool) -> None:
        stream = self.queue.popleft()
        self.members.remove(stream)
        if not keep_deficit:
            del self.deficit[stream]


class Policy:
    """Chooses due tasks. A chosen stream awaits its frame and is not chosen again until `release`."""

    def __init__(self, schedules: Mapping[str, Schedule], now: Now) -> None:
        self.schedules = dict(schedules)
        self.overload = Overload(now.mono)
        self._classes: dict[Priority, _Class] = {priority: _Class() for priority in PRIORITIES}
        self._awaiting_frame: set[str] = set()
        self._costs: dict[str, float] = {}
        self._by_interval = {stream: _by_interval(schedule) for stream, schedule in schedules.items()}
        self._wakeups = dict.fromkeys(self.schedules, now.mono)
        """Monotonic second at which more of a stream may be ready, of streams that await no frame."""

    def choose(self, room: int, now: Now) -> Choice:
        """Return at most `room` tasks that are due, or may be where only a frame can decide; the most urgent first."""
        for stream in [stream for stream, at in self._wakeups.items() if at <= now.mono]:
            self._refresh_stream(stream, now)
        chosen: Choice = {}
        for priority in PRIORITIES:
            room -= self._choose_from(priority, room, now, chosen)
        self._awaiting_frame.update(chosen)
        return chosen

    def release(self, stream: str, now: Now, unserved: Collection[str] = ()) -> None:
        """The stream can be chosen again; the tasks `unserved` were chosen and did not run."""
        schedule = self.schedules.get(stream)
        if schedule is None:
            return
        for trigger in (trigger for trigger in schedule.triggers if trigger.name in unserved):
            deficit = self._classes[_priority(trigger)].deficit
            deficit[stream] = deficit.get(stream, 0.0) + self.cost(trigger.task.task)
        self._awaiting_frame.discard(stream)
        self._refresh_stream(stream, now)

    def on_tasks_changed(self, stream: str, now: Now) -> None:
        """The schedule of the stream has other tasks than before."""
        if stream in self.schedules:
            self._by_interval[stream] = _by_interval(self.schedules[stream])
            self.schedules[stream].stretch(self.overload.factors)
            self._refresh_stream(stream, now)

    def remove(self, stream: str) -> None:
        """The stream has ended."""
        self._awaiting_frame.discard(stream)
        self._wakeups.pop(stream, None)
        self.schedules.pop(stream, None)

    def wait(self, now: Now) -> float:
        """Return the seconds until more may be due."""
        return max(0.0, min(self._wakeups.values(), default=math.inf) - now.mono)

    def cost(self, task: str) -> float:
        """Return the device seconds of a job of that task, as far as they are known."""
        return self._costs.get(task, FIRST_COST_S)

    def record_job(self, due: DueTask, seconds: float) -> None:
        """A job took `seconds` of the device: its share of a batch."""
        known = self._costs.setdefault(due.task.task, seconds)
        self._costs[due.task.task] = max((1 - _NEWEST_WEIGHT) * known + _NEWEST_WEIGHT * seconds, 1e-6)
        if due.task.name in self._by_interval.get(due.stream, ()):
            self.overload.record_served(self._costs[due.task.task])

    def adapt(self, now: Now) -> bool:
        """Stretch intervals, or shorten them again, once per window. True when that should be reported."""
        if not self.overload.window_complete(now.mono) or not self.overload.update(now.mono, self._demands(now)):
            return False
        for stream, schedule in self.schedules.items():
            schedule.stretch(self.overload.factors)
            self._refresh_stream(stream, now)
        return True

    def stretches(self) -> dict[str, dict[Priority, float]]:
        """Return the factors over 1 by stream and priority, of live streams."""
        factors = {key: round(value, 2) for key, value in self.overload.factors.items() if value > 1}
        found = {}
        for stream, schedule in self.schedules.items():
            has = {trigger.task.priority for trigger in schedule.triggers if trigger.stretch > 1}
            if has:
                found[stream] = {priority: factor for priority, factor in factors.items() if priority in has}
        return found

    def _refresh_stream(self, stream: str, now: Now) -> None:
        """Put the stream into the classes in which it has something due, and set its next wakeup."""
        schedule = self.schedules.get(stream)
        if schedule is None or stream in self._awaiting_frame:
            self._wakeups.pop(stream, None)
            return
        schedule.advance(now)
        for trigger in schedule.ready(now):
            self._classes[_priority(trigger)].add(stream, urgent=trigger.is_urgent)
        self._wakeups[stream] = now.mono + max(schedule.wait(now), _MIN_WAIT_S)

    def _choose_from(self, priority: Priority, room: int, now: Now, chosen: Choice) -> int:
        candidates, count = self._classes[priority], 0
        quantum = max([FIRST_COST_S, *self._costs.values()])
        while count < room and candidates.queue:
            stream = candidates.queue[0]
            trigger = self._most_urgent(stream, priority, now, chosen.get(stream, set()))
            if trigger is None:
                candidates.drop_first(keep_deficit=stream in self._awaiting_frame)
                continue
            cost = self.cost(trigger.task.task)
            if candidates.deficit[stream] < cost and not trigger.is_urgent:
                candidates.deficit[stream] += quantum
                candidates.queue.rotate(-1)
                continue
            candidates.deficit[stream] -= cost
            chosen.setdefault(stream, set()).add(trigger.name)
            count += 1
        return count

    def _most_urgent(self, stream: str, priority: Priority, now: Now, chosen: set[str]) -> Trigger | None:
        schedule = self.schedules.get(stream)
        if schedule is None or stream in self._awaiting_frame:
            return None
        found = [
            trigger for trigger in schedule.ready(now) if _priority(trigger) == priority and trigger.name not in chosen
        ]
        return min(found, key=lambda trigger: trigger.deadline(now), default=None)

    def _demands(self, now: Now) -> dict[Priority, Demand]:
        tasks, overdue = dict.fromkeys(PRIORITIES, 0), dict.fromkeys(PRIORITIES, 0)
        costs = dict.fromkeys(PRIORITIES, 0.0)
        for stream, schedule in self.schedules.items():
            # A stream that awaits a frame, because its camera is slow or down, says nothing about the device.
            waits_for_device = stream not in self._awaiting_frame
            for trigger in schedule.triggers:
                if trigger.rate and trigger.is_demand(now):
                    priority = trigger.task.priority
                    tasks[priority] += 1
                    costs[priority] += trigger.rate * self.cost(trigger.task.task)
                    overdue[priority] += waits_for_device and now.mono > trigger.deadline(now)
        return {key: Demand(tasks[key], overdue[key], costs[key]) for key in PRIORITIES}


def _priority(trigger: Trigger) -> Priority:
    return PRIORITIES[0] if trigger.is_urgent else trigger.task.priority


def _by_interval(schedule: Schedule) -> set[str]:
    """Return the names of the tasks whose intervals overload stretches."""
    return {trigger.name for trigger in schedule.triggers if trigger.rate}


def most_urgent_first(jobs: list[Job]) -> list[Job]:
    """Return jobs in the order in which the engine should get them."""
    return sorted(
        jobs, key=lambda job: (job.due.deadline > -math.inf, PRIORITIES.index(job.due.task.priority), job.due.deadline)
    )
