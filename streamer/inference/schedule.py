"""Schedule of one stream: the times at which its tasks are due. Pure: the clocks are passed in.

Intervals run on the monotonic clock for live streams and on media time for files, always on a fixed grid: a missed
tick is skipped. `every_n_frames` counts the frames of one connection. `at` and `between` use the wall clock of live
streams; a clock that is set by up to three hours neither repeats a run nor loses one.

The ticks of streams of other hosts are spread over their interval: if all asked for a frame at the same moment, each
would wait for the pictures of the others on the link.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from streamer.bus.frame_protocol import MAX_WAIT_S, FrameRequest
from streamer.bus.stream_state import ScheduleState
from streamer.capture.sources.remote import Remote
from streamer.config.model import Stream
from streamer.config.task import ScheduledTask
from streamer.inference.triggers import (
    CLOCK_CHECK_S,
    CRON_DEADLINE_S,
    FrameCountTrigger,
    Grid,
    IntervalTrigger,
    MediaTimeTrigger,
    MotionTrigger,
    Now,
    OneShotTrigger,
    Trigger,
    make_trigger,
)
from streamer.types import DueTask, Frame, FrameId, Pace, Priority

MAX_SPREAD_S = 1.0
"""Most seconds over which the ticks of streams of other hosts are spread: the first tick is so late at most."""
TURN_S = 0.125
"""Shortest time between two such ticks. With more streams, several have the same tick, and one batch."""
_ROUNDING = 1e-9


class Turn(NamedTuple):
    """The place of a stream among those of other hosts."""

    number: int
    """From 0, by position in the config."""
    total: int

    def grid(self, step: float) -> Grid:
        """Return the moments of its ticks within `step` seconds."""
        turns = min(self.total, max(1, math.floor(step / TURN_S + _ROUNDING)))
        return Grid(step, self.number * turns // self.total / turns)


class Schedule:
    """The tasks of one stream. Call `advance` before the questions about a moment, which change nothing."""

    def __init__(
        self, stream: str, tasks: Sequence[ScheduledTask], pace: Pace, now: Now, turn: Turn | None = None
    ) -> None:
        """`turn`: of a stream of another host. None: its ticks begin at once."""
        self.stream, self.pace = stream, pace
        self._turn = turn
        grid = self._grid(tasks)
        self.triggers = [make_trigger(task, pace, now, grid) for task in tasks]
        self._last: FrameId | None = None
        self._skipped: FrameId | None = None
        """A frame newer than `_last` that was too old for the tasks it was requested for."""
        self._age_limited = False
        """The last request had a `max_age`."""

    @property
    def takes_turns(self) -> bool:
        """True for streams of other hosts."""
        return self._turn is not None

    def advance(self, now: Now) -> None:
        """Bring all triggers up to `now`."""
        for trigger in self.triggers:
            trigger.advance(now)

    def ready(self, now: Now) -> list[Trigger]:
        """Return the triggers that are due by a clock, and those for which only a frame can decide."""
        return [trigger for trigger in self.triggers if trigger.is_ready(now)]

    def wait(self, now: Now) -> float:
        """Return the seconds after which more triggers may be ready, at most `CLOCK_CHECK_S` for the wall clock."""
        waits = [trigger.wait(now) for trigger in self.triggers if not trigger.is_ready(now)]
        return max(0.0, min(waits, default=CLOCK_CHECK_S))

    def next_request(self, now: Now, names: Collection[str] | None = None) -> FrameRequest | None:
        """Return the request for the next frame, None while no task needs one. Call `mark_requested` once it is sent.

        `names`: tasks of a live stream that need the frame now. Without it the request is for any task, at any time.
        """
        ready = [trigger for trigger in self.ready(now) if self._is_chosen(trigger, names)]
        if not ready:
            return None
        interval = min(MAX_WAIT_S, *(trigger.frame_interval for trigger in self.triggers))
        max_age = None if self._skipped or names is None else _max_age(ready)
        after = self._skipped or self._last
        gates = tuple(trigger.gate for trigger in ready if isinstance(trigger, MotionTrigger))
        any_frame = any(trigger.accepts_any_frame(now) for trigger in ready)
        numbers = [trigger.tick for trigger in ready if isinstance(trigger, FrameCountTrigger) and not any_frame]
        times = [trigger.tick for trigger in ready if isinstance(trigger, MediaTimeTrigger) and not any_frame]
        return FrameRequest(
            after=after,
            at_pts=min(times, default=None),
            at_seq=min(numbers, default=None),
            interval=interval,
            max_age=max_age,
            motion_gates=gates,
            on_trigger=bool(gates) and not any_frame,
        )

    def next_need(self, now: Now, names: Collection[str]) -> float:
        """Return the seconds until the next tick after those for which the tasks `names` get a frame now.

        At most `MAX_WAIT_S`. 0: another task is due already.
        """
        intervals = [one for one in self.triggers if isinstance(one, IntervalTrigger) and one.is_open(now)]
        ticks = [one.tick_after(now) if one.name in names and one.is_ready(now) else one.tick for one in intervals]
        return min(MAX_WAIT_S, max(0.0, min(ticks, default=math.inf) - now.mono))

    def mark_requested(self, request: FrameRequest, now: Now) -> None:
        """The request was sent to capture."""
        self._age_limited = request.max_age is not None
        for trigger in self.triggers:
            if isinstance(trigger, MotionTrigger) and trigger.gate in request.motion_gates:
                trigger.mark_requested(now)

    def skip_stale(self, newest: FrameId | None) -> None:
        """No frame was young enough for the last request: request the first one after `newest`, whatever its age."""
        if self._age_limited and newest is not None and (self._last is None or newest > self._last):
            self._skipped = newest

    def pop_due(self, frame: Frame, now: Now, names: Collection[str] | None = None) -> list[DueTask]:
        """Return the tasks that are due on this frame, newer than any before, and move them to their next tick.

        `names`: the only tasks of a live stream to return; the others wait for a later frame. A file has no later one.
        """
        self.advance(now)
        if self._last is not None and frame.epoch != self._last.epoch:
            for trigger in self.triggers:
                trigger.restart()
        self._last, self._skipped = frame.id, None
        due = [trigger for trigger in self.triggers if self._is_chosen(trigger, names) and trigger.is_due(frame, now)]
        for trigger in due:
            trigger.mark_done(frame, now)
        self.triggers = [trigger for trigger in self.triggers if not (trigger.is_urgent and trigger in due)]
        return [_due_task(self.stream, trigger, now) for trigger in due]

    def replace(self, tasks: Sequence[ScheduledTask], now: Now) -> None:
        """Schedule other tasks from now on. Tasks that stay the same keep their ticks; one-shot tasks stay."""
        old = [trigger for trigger in self.triggers if not trigger.is_urgent]
        one_shots = [trigger for trigger in self.triggers if trigger.is_urgent]
        kept = [next((trigger for trigger in old if trigger.task == task), None) for task in tasks]
        grid = self._grid(tasks)
        new = [trigger or make_trigger(task, self.pace, now, grid) for task, trigger in zip(tasks, kept, strict=True)]
        self.triggers = [*new, *one_shots]

    def add_one_shot(self, task: ScheduledTask) -> None:
        """Run this task once, on the next frame."""
        self.triggers = [*self.triggers, OneShotTrigger(task)]

    def drop(self, name: str) -> None:
        """Remove the task with this name, if it is still there."""
        self.triggers = [trigger for trigger in self.triggers if trigger.name != name]

    def stretch(self, factors: Mapping[Priority, float]) -> None:
        """Multiply the intervals of a live stream by these factors, counted from the last tick."""
        for trigger in self.triggers if self.pace == "live" else ():
            trigger.stretch = factors.get(trigger.task.priority, 1.0)

    def state(self, tasks: list[dict[str, Any]]) -> ScheduleState:
        """Return what another process needs to go on. `tasks`: the present ones as in the config."""
        triggers = {trigger.name: trigger.state() for trigger in self.triggers if not trigger.is_urgent}
        return ScheduleState(tasks=tasks, last=self._last, triggers=triggers)

    def restore(self, state: ScheduleState) -> None:
        """Go on from the `state` of another process with the same tasks."""
        self._last = None if state.last is None else FrameId(*state.last)
        for trigger in self.triggers:
            trigger.restore(state.triggers.get(trigger.name, {}))

    def _grid(self, tasks: Sequence[ScheduledTask]) -> Grid | None:
        """Return one grid for all tasks of the stream, so that they share frames."""
        if self._turn is None:
            return None
        return self._turn.grid(min([MAX_SPREAD_S, *(task.every for task in tasks if task.every)]))

    def _is_chosen(self, trigger: Trigger, names: Collection[str] | None) -> bool:
        return names is None or self.pace == "file" or trigger.name in names


def make_schedule(streams: Mapping[str, Stream], name: str, start: Now) -> Schedule:
    """Return the schedule of one of the streams of a config, which begins at `start`."""
    stream = streams[name]
    remote = [other for other, one in streams.items() if isinstance(one.source, Remote)]
    turn = Turn(remote.index(name), len(remote)) if name in remote else None
    return Schedule(name, stream.active, stream.source.pace, start, turn)


def _due_task(stream: str, trigger: Trigger, now: Now) -> DueTask:
    """The due task of the tick just done; its deadline is the next tick."""
    if trigger.is_urgent:
        return DueTask(stream, trigger.task, -math.inf, origin="request")
    if isinstance(trigger, IntervalTrigger):
        return DueTask(stream, trigger.task, trigger.tick, trigger.unchanged_since)
    return DueTask(stream, trigger.task, now.mono + CRON_DEADLINE_S if trigger.on_clock else math.inf)


def _max_age(triggers: Sequence[Trigger]) -> float | None:
    """Return the age in seconds from which a frame is too old for all of them."""
    ages = [trigger.task.max_age for trigger in triggers]
    return None if None in ages else max(age for age in ages if age is not None)
