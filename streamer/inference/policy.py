"""Choice of the tasks that run next, over all streams. Pure; the clocks are passed in.

Priority is strict. Within a class, streams take turns by deficit round robin over the device time of their jobs. Of a
stream's due tasks the one with the earliest deadline runs first. Only streams with a due task are examined.
"""

from __future__ import annotations

import math
from collections import OrderedDict, defaultdict
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass, field

from streamer.inference.overload import Demand, Overload
from streamer.inference.schedule import Schedule
from streamer.inference.triggers import MotionTrigger, Now, Trigger
from streamer.types import PRIORITIES, DueTask, Job, Priority, Task

FIRST_COST_S = 0.05
"""Assumed device seconds of a job of a task that has never run."""
_NEWEST_WEIGHT = 0.1
"""Weight of the newest job in the moving average of its task's cost."""
_MIN_WAIT_S = 0.001
MAX_DEBT_S = 5.0
"""Most device seconds of follow-ups for which a stream waits later."""

Choice = dict[str, set[str]]
"""Names of tasks by stream."""


@dataclass(slots=True)
class _Class:
    """The streams of one priority that have something due."""

    queue: OrderedDict[str, None] = field(default_factory=OrderedDict)
    """Streams in the order of their turns."""
    deficit: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Device seconds that a stream may still use. Kept while the stream awaits a frame, not while nothing is due."""

    def add(self, stream: str, urgent: bool = False) -> None:
        """The stream has something due; `urgent`: it gets the next turn."""
        turn_not_over = self.deficit.get(stream, -1.0) >= 0 and stream not in self.queue
        self.queue.setdefault(stream)
        self.deficit.setdefault(stream, 0.0)
        if urgent or turn_not_over:
            self.queue.move_to_end(stream, last=False)

    def charge(self, stream: str, seconds: float) -> None:
        """The stream has used device time for which it was not chosen: it waits so much longer for its next turns."""
        self.deficit[stream] = max(self.deficit[stream] - seconds, -MAX_DEBT_S)

    def end_turn(self, stream: str) -> None:
        """Nothing of the stream is due: what it may still use is lost, a debt is kept."""
        if self.deficit[stream] >= 0:
            del self.deficit[stream]


class Policy:
    """Chooses due tasks. A chosen stream awaits its frame and is not chosen again until `release`."""

    def __init__(self, schedules: Mapping[str, Schedule], now: Now) -> None:
        self.schedules = dict(schedules)
        self.overload = Overload(now.mono)
        self._classes: dict[Priority, _Class] = {priority: _Class() for priority in PRIORITIES}
        self._costs: dict[Hashable, float] = {}
        self._wakeups = dict.fromkeys(self.schedules, now.mono)
        """Monotonic second at which more of a stream may be ready; infinity while the stream awaits a frame."""

    def choose(self, room: int, now: Now) -> Choice:
        """Return at most `room` tasks that are due, or may be where only a frame can decide; the most urgent first."""
        for stream in [stream for stream, at in self._wakeups.items() if at <= now.mono]:
            self._refresh_stream(stream, now)
        chosen: Choice = {}
        for priority in PRIORITIES:
            room -= self._choose_from(priority, room, now, chosen)
        self._wakeups.update(dict.fromkeys(chosen, math.inf))
        return chosen

    def release(self, stream: str, now: Now, unserved: Collection[str] = ()) -> None:
        """The stream can be chosen again; the tasks `unserved` were chosen and did not run."""
        if stream not in self.schedules:
            return
        for trigger in self.schedules[stream].triggers:
            if trigger.name in unserved:
                self._classes[_priority(trigger)].deficit[stream] += self.cost(trigger.task)
        self._refresh_stream(stream, now)

    def on_tasks_changed(self, stream: str, now: Now) -> None:
        """The schedule of the stream has other tasks than before, or other factors apply to them."""
        self.schedules[stream].stretch(self.overload.factors)
        if not self._awaits_frame(stream):
            self._refresh_stream(stream, now)

    def run_again(self, stream: str, name: str, now: Now) -> None:
        """Let the next tick of a task run whatever its `when`."""
        for trigger in self.schedules[stream].triggers if stream in self.schedules else ():
            if isinstance(trigger, MotionTrigger) and trigger.name == name:
                trigger.run_again()
                self.on_tasks_changed(stream, now)

    def add(self, stream: str, schedule: Schedule, now: Now, awaits_frame: bool = False) -> None:
        """Choose tasks of this stream too; if it awaits a frame, after its `release`."""
        self.schedules[stream] = schedule
        if awaits_frame:
            self._wakeups[stream] = math.inf
        self.on_tasks_changed(stream, now)

    def remove(self, stream: str) -> None:
        """The stream has ended, or another process serves it."""
        self._wakeups.pop(stream, None)
        self.schedules.pop(stream, None)

    def wait(self, now: Now) -> float:
        """Return the seconds until more may be due."""
        return max(0.0, min(self._wakeups.values(), default=math.inf) - now.mono)

    def cost(self, task: Task) -> float:
        """Return the device seconds of a job of that task, as far as they are known."""
        return self._costs.get(task.work, FIRST_COST_S)

    def record_job(self, due: DueTask, seconds: float) -> None:
        """A job took `seconds` of the device: its share of a batch."""
        if due.origin == "follow_up":
            self.overload.record_follow_up(seconds)
            if due.stream in self.schedules:
                self._classes[due.task.priority].charge(due.stream, seconds)
        work = due.task.work
        known = self._costs.setdefault(work, seconds)
        self._costs[work] = max((1 - _NEWEST_WEIGHT) * known + _NEWEST_WEIGHT * seconds, 1e-6)
        triggers = self.schedules[due.stream].triggers if due.stream in self.schedules else ()
        if any(trigger.name == due.task.name and trigger.rate for trigger in triggers):
            self.overload.record_served(self._costs[work])

    def adapt(self, now: Now) -> bool:
        """Stretch intervals, or shorten them again, once per window. True when that should be reported."""
        if not self.overload.window_complete(now.mono) or not self.overload.update(now.mono, self._demands(now)):
            return False
        for stream in self.schedules:
            self.on_tasks_changed(stream, now)
        return True

    @property
    def stretched(self) -> bool:
        """True while intervals are longer than configured."""
        return max(self.overload.factors.values()) > 1

    def stretches(self) -> dict[str, dict[Priority, float]]:
        """Return the factors over 1 by stream and priority, of live streams."""
        found = {}
        for stream, schedule in self.schedules.items():
            stretched = [trigger for trigger in schedule.triggers if trigger.stretch > 1]
            if stretched:
                found[stream] = {trigger.task.priority: round(trigger.stretch, 2) for trigger in stretched}
        return found

    def _awaits_frame(self, stream: str) -> bool:
        return self._wakeups.get(stream) == math.inf

    def _refresh_stream(self, stream: str, now: Now) -> None:
        """Put the stream into the classes in which it has something due, and set its next wakeup."""
        schedule = self.schedules[stream]
        schedule.advance(now)
        for trigger in schedule.ready(now):
            self._classes[_priority(trigger)].add(stream, urgent=trigger.is_urgent)
        self._wakeups[stream] = now.mono + max(schedule.wait(now), _MIN_WAIT_S)

    def _choose_from(self, priority: Priority, room: int, now: Now, chosen: Choice) -> int:
        candidates, count = self._classes[priority], 0
        quantum = max([FIRST_COST_S, *self._costs.values()])
        while count < room and candidates.queue:
            stream = next(iter(candidates.queue))
            trigger = self._most_urgent(stream, priority, now, chosen.get(stream, set()))
            if trigger is None:
                del candidates.queue[stream]
                if not self._awaits_frame(stream):
                    candidates.end_turn(stream)
                continue
            cost = self.cost(trigger.task)
            if candidates.deficit[stream] < cost and not trigger.is_urgent:
                candidates.deficit[stream] += quantum
                candidates.queue.move_to_end(stream)
                continue
            candidates.deficit[stream] -= cost
            chosen.setdefault(stream, set()).add(trigger.name)
            count += 1
        return count

    def _most_urgent(self, stream: str, priority: Priority, now: Now, chosen: set[str]) -> Trigger | None:
        if stream not in self.schedules or self._awaits_frame(stream):
            return None
        ready = self.schedules[stream].ready(now)
        found = [trigger for trigger in ready if _priority(trigger) == priority and trigger.name not in chosen]
        return min(found, key=lambda trigger: trigger.deadline(now), default=None)

    def _demands(self, now: Now) -> dict[Priority, Demand]:
        demands = {priority: Demand() for priority in PRIORITIES}
        for stream, schedule in self.schedules.items():
            # A stream that awaits a frame, because its camera is slow or down, says nothing about the device.
            waits_for_device = not self._awaits_frame(stream)
            for trigger in schedule.triggers:
                if trigger.rate and trigger.is_demand(now):
                    demand = demands[trigger.task.priority]
                    demand.tasks += 1
                    demand.cost += trigger.rate * self.cost(trigger.task)
                    demand.overdue += waits_for_device and now.mono > trigger.deadline(now)
        return demands


def _priority(trigger: Trigger) -> Priority:
    return PRIORITIES[0] if trigger.is_urgent else trigger.task.priority


def most_urgent_first(jobs: list[Job]) -> list[Job]:
    """Return jobs in the order in which the engine should get them."""

    def key(job: Job) -> tuple[bool, int, bool, float]:
        due = job.due
        return (
            due.deadline > -math.inf,
            PRIORITIES.index(due.task.priority),
            due.origin == "follow_up",
            due.deadline,
        )

    return sorted(jobs, key=key)
