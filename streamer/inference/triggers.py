"""Triggers of one task: the monotonic clock, media time, frame numbers or the wall clock. Pure: clocks are passed in.

`advance(now)` brings a trigger up to the present; call it before the questions about that moment, which change
nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from streamer.bus.frame_protocol import MotionGate
from streamer.capture.motion_gate import WHOLE
from streamer.config.calendar import Cron
from streamer.config.task import DEFAULT_EVERY_S, ScheduledTask
from streamer.types import Frame, FrameId, Pace

_ROUNDING_S = 1e-6
"""Seconds by which a media time may miss its tick."""
CLOCK_CHECK_S = 60.0
"""Longest time between two checks of a window or a cron line, because the wall clock can be set."""
CLOCK_SET_S = 3 * 3600.0
"""If the wall clock is set by more seconds than this, it was wrong before: missed cron runs are dropped."""
CRON_DEADLINE_S = 60.0
"""Seconds after its time at which a cron run counts as overdue."""
UNCHANGED_S = 60.0
"""Interval in seconds of the outcome `unchanged` while a task with `when` has nothing to run on."""
QUIET_S = 15.0
"""A task with `when` that had nothing to run on for this many seconds after its deadline is no demand."""


class Now(NamedTuple):
    """One moment on both clocks."""

    mono: float
    """Seconds of CLOCK_MONOTONIC."""
    unix_time: float
    """Unix seconds, on a clock that may be set."""


class Grid(NamedTuple):
    """The moments at which ticks may begin: each `step` seconds of the monotonic clock, `phase` of a step later."""

    step: float
    phase: float
    """0 to 1."""

    def first(self, mono: float) -> float:
        """Return the first moment that is not before `mono`."""
        return mono + (self.phase - mono / self.step) % 1.0 * self.step


class Trigger:
    """One task and its next tick."""

    on_clock = False
    """A clock decides when it is due; else only a frame can."""
    rate = 0.0
    """Runs per second as configured, 0 where overload does not stretch it."""
    is_urgent = False
    """It runs before all others, of whatever stream and priority."""
    unchanged_since: float | None = None
    """Unix second of its last answer's frame, if the tick just done only reports that this answer still holds."""
    STATE: tuple[str, ...] = ()
    """Attributes with which another process goes on. Without `stretch`: that is of the device."""

    def __init__(self, task: ScheduledTask) -> None:
        self.task = task
        self.name = task.name
        self.stretch = 1.0

    def state(self) -> dict[str, Any]:
        """Return the attributes of `STATE` as JSON data."""
        return {name: getattr(self, name) for name in self.STATE}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from the `state` of a trigger of the same task in another process."""
        for name in self.STATE if state.keys() == set(self.STATE) else ():
            value = state[name]
            setattr(self, name, FrameId(*value) if isinstance(value, tuple | list) else value)

    def advance(self, now: Now) -> None:
        """Bring the state up to `now`. Call it before `is_ready`, `wait` and the other questions about `now`."""

    def is_open(self, now: Now) -> bool:
        """Return whether its window is open, or it has none."""
        between = self.task.between
        return between is None or between.is_open(now.unix_time)

    def is_ready(self, now: Now) -> bool:
        """Return whether it is due, or may be where only a frame can decide."""
        return self.is_open(now)

    def accepts_any_frame(self, now: Now) -> bool:
        """Return whether a ready trigger is due on any newer frame."""
        return self.on_clock

    def is_due(self, frame: Frame, now: Now) -> bool:
        """Return whether it is due on this frame."""
        return self.is_ready(now)

    def mark_done(self, frame: Frame, now: Now) -> None:
        """The task runs on this frame: move on to the next tick."""

    @property
    def frame_interval(self) -> float:
        """Shortest time in seconds between two frames that it needs; 0: it may need any frame."""
        return 0.0

    def wait(self, now: Now) -> float:
        """Return the seconds after which to check again whether it is ready."""
        return 0.0 if self.task.between is None else _to_next_minute(now)

    def deadline(self, now: Now) -> float:
        """Return the monotonic second from which its tick is overdue."""
        return math.inf

    def is_demand(self, now: Now) -> bool:
        """Return whether it counts in the load of the device, if it has a `rate`."""
        return self.is_open(now)

    def restart(self) -> None:
        """A new connection: frame numbers and media time start again."""


class IntervalTrigger(Trigger):
    """`every`, by the monotonic clock. A tick that falls outside the window waits until the window opens."""

    STATE: tuple[str, ...] = ("_last", "_not_before", "_was_open")
    on_clock = True

    def __init__(self, task: ScheduledTask, every: float, now: Now, grid: Grid | None = None) -> None:
        """`grid`: its ticks begin on it. None: at once."""
        super().__init__(task)
        self.every = every
        self.rate = 1 / every
        self._grid = grid
        self._last = -math.inf
        self._not_before = self._begin(now.mono)
        self._was_open = True

    @property
    def frame_interval(self) -> float:
        return self.every * self.stretch

    @property
    def tick(self) -> float:
        return max(self._last + self.every * self.stretch, self._not_before)

    def advance(self, now: Now) -> None:
        is_open = self.is_open(now)
        if is_open and not self._was_open:
            self._not_before = self._begin(now.mono - now.unix_time % 60)  # windows open on a whole minute
        self._was_open = is_open

    def is_ready(self, now: Now) -> bool:
        return now.mono >= self.tick and self.is_open(now)

    def mark_done(self, frame: Frame, now: Now) -> None:
        self._last = self._present_tick(now)

    def tick_after(self, now: Now) -> float:
        """Return the monotonic second of the next tick if the task runs now."""
        return self._present_tick(now) + self.every * self.stretch

    def wait(self, now: Now) -> float:
        return self.tick - now.mono if self.is_open(now) else _to_next_minute(now)

    def deadline(self, now: Now) -> float:
        return self.tick + self.every * self.stretch

    def _present_tick(self, now: Now) -> float:
        """Return the last tick that has passed, or the next one if none has."""
        step = self.every * self.stretch
        passed = math.floor((now.mono - self.tick + _ROUNDING_S) / step)
        return self.tick + max(0, passed) * step

    def _begin(self, mono: float) -> float:
        return mono if self._grid is None else self._grid.first(mono)


class MotionTrigger(IntervalTrigger):
    """`every` with `when`: a tick waits for motion or change, or until the refresh is due.

    Once in `UNCHANGED_S` it takes a frame only to report that the last answer still holds.
    """

    STATE = (*IntervalTrigger.STATE, "_answered", "_answered_at", "_refresh_at", "_report_at", "_requested_at")
    frame_interval = 0.0

    def __init__(self, task: ScheduledTask, every: float, now: Now, grid: Grid | None = None) -> None:
        super().__init__(task, every, now, grid)
        self._answered: FrameId | None = None
        self._answered_at = 0.0
        self._refresh_at = self._report_at = now.mono
        self._requested_at = -math.inf
        """Monotonic second of the last request to capture: until then nothing had happened."""

    def accepts_any_frame(self, now: Now) -> bool:
        return self._answered is None or now.mono >= min(self._refresh_at, self._report_at)

    @property
    def gate(self) -> MotionGate:
        """The condition that capture checks."""
        zone, task = self.task.zone, self.task
        return MotionGate(task=task.name, when=task.when, area=zone.name if zone else WHOLE, since=self._answered)

    def mark_requested(self, now: Now) -> None:
        """Capture was asked to check `gate`."""
        self._requested_at = now.mono

    def is_due(self, frame: Frame, now: Now) -> bool:
        return self.is_ready(now) and (self.accepts_any_frame(now) or self.task.name in frame.triggered)

    def mark_done(self, frame: Frame, now: Now) -> None:
        super().mark_done(frame, now)
        self._report_at = now.mono + UNCHANGED_S
        triggered = self._answered is None or self.task.name in frame.triggered
        if triggered or now.mono >= self._refresh_at:
            self._answered, self._answered_at = frame.id, frame.captured_at
            self._refresh_at = now.mono + self.task.refresh
            self.unchanged_since = None
        else:
            self.unchanged_since = self._answered_at

    def deadline(self, now: Now) -> float:
        return max(super().deadline(now), self._requested_at + self.every * self.stretch)

    def is_demand(self, now: Now) -> bool:
        return super().is_demand(now) and now.mono < super().deadline(now) + QUIET_S

    def run_again(self) -> None:
        """Run at the next tick even if nothing happens until then."""
        self._answered = None

    def restart(self) -> None:
        self.run_again()


class OneShotTrigger(Trigger):
    """Runs once, on the next frame, before everything else."""

    on_clock = True
    is_urgent = True

    def is_ready(self, now: Now) -> bool:
        return True

    def deadline(self, now: Now) -> float:
        return -math.inf


class CronTrigger(Trigger):
    """A cron line, by the wall clock. Any number of missed runs is made up for by one."""

    STATE = ("_clock_offset", "_next")
    on_clock = True
    frame_interval = CLOCK_CHECK_S

    def __init__(self, task: ScheduledTask, cron: Cron, now: Now) -> None:
        super().__init__(task)
        self._cron = cron
        self._clock_offset = now.unix_time - now.mono
        self._next = cron.after(now.unix_time)

    def advance(self, now: Now) -> None:
        offset = now.unix_time - now.mono
        if abs(offset - self._clock_offset) > CLOCK_SET_S:
            self._next = self._cron.after(now.unix_time)
        self._clock_offset = offset
        while self._next <= now.unix_time and not self.is_open(now._replace(unix_time=self._next)):
            self._next = self._cron.after(self._next)

    def is_ready(self, now: Now) -> bool:
        return now.unix_time >= self._next

    def mark_done(self, frame: Frame, now: Now) -> None:
        self._next = self._cron.after(now.unix_time)

    def wait(self, now: Now) -> float:
        return min(CLOCK_CHECK_S, self._next - now.unix_time)

    def deadline(self, now: Now) -> float:
        return now.mono + (self._next - now.unix_time) + CRON_DEADLINE_S


class FrameCountTrigger(Trigger):
    """`every_n_frames`: numbers of frames."""

    STATE = ("tick",)

    def __init__(self, task: ScheduledTask, count: int) -> None:
        super().__init__(task)
        self._count = count
        self.tick = 0

    def is_due(self, frame: Frame, now: Now) -> bool:
        return super().is_due(frame, now) and frame.seq >= self.tick

    def mark_done(self, frame: Frame, now: Now) -> None:
        step = max(1, round(self._count * self.stretch))
        self.tick += ((frame.seq - self.tick) // step + 1) * step

    def restart(self) -> None:
        self.tick = 0


class MediaTimeTrigger(Trigger):
    """`every`, by the media time of a file."""

    STATE = ("tick",)

    def __init__(self, task: ScheduledTask, every: float) -> None:
        super().__init__(task)
        self._every = every
        self.tick = 0.0

    def is_due(self, frame: Frame, now: Now) -> bool:
        return frame.pts is None or frame.pts >= self.tick - _ROUNDING_S

    def mark_done(self, frame: Frame, now: Now) -> None:
        at = self.tick if frame.pts is None else frame.pts
        passed = math.floor((at - self.tick + _ROUNDING_S) / self._every)
        self.tick += (max(0, passed) + 1) * self._every

    def restart(self) -> None:
        self.tick = 0.0


def _to_next_minute(now: Now) -> float:
    """Return the seconds to the next whole minute, on which windows open and close."""
    return 60.0 - now.unix_time % 60.0


def make_trigger(task: ScheduledTask, pace: Pace, now: Now, grid: Grid | None = None) -> Trigger:
    """Return the trigger of a task. `grid`: of the ticks of live intervals."""
    if task.at is not None:
        return CronTrigger(task, task.at, now)
    if task.every_n_frames is not None:
        return FrameCountTrigger(task, task.every_n_frames)
    every = task.every or DEFAULT_EVERY_S
    if pace == "file":
        return MediaTimeTrigger(task, every)
    kind = IntervalTrigger if task.when == "always" else MotionTrigger
    return kind(task, every, now, grid)
