"""The ticks of one task: by the monotonic clock, media time, frame numbers or the wall clock. Pure: clocks come in."""

from __future__ import annotations

import math
from typing import NamedTuple

from streamer.bus.frame_protocol import MotionGate
from streamer.capture.motion_gate import WHOLE
from streamer.config.calendar import Cron
from streamer.config.task import ScheduledTask
from streamer.types import Frame, FrameId, Pace

_ROUNDING = 1e-6
"""Seconds by which a media time may miss its tick."""
LOOK_S = 60.0
"""A window or a cron line is looked at this often at least, for clocks can be set."""
CLOCK_SET_S = 3 * 3600.0
"""A clock that is set further than this was wrong before: what it missed is not made up for."""
AT_WITHIN_S = 60.0
"""A run of a cron line should happen within this time."""
UNCHANGED_S = 60.0
"""A task that waits for something to happen says this often that nothing did."""
QUIET_S = 15.0
"""When nothing has happened for so long, it counts no more in what is asked of the device."""


class Now(NamedTuple):
    """This moment."""

    mono: float
    """Seconds of CLOCK_MONOTONIC."""
    unix_time: float
    """Unix seconds, on a clock that may be set."""


class Trigger:
    """One task and its next tick."""

    on_clock = False
    """A clock tells when it is due; else only a frame can."""
    rate = 0.0
    """Runs per second as configured, 0 where overload does not change it."""
    is_urgent = False
    """It goes before all others, of whatever stream and priority."""
    is_over = False
    """It has no further tick."""
    unchanged_since: float | None = None
    """Unix second of its last answer's frame, when the tick just taken was only to say that this still holds."""

    def __init__(self, task: ScheduledTask) -> None:
        self.task = task
        self.name = task.name
        self.stretch = 1.0

    def is_open(self, now: Now) -> bool:
        """Its window is open, or it has none."""
        between = self.task.between
        return between is None or between.is_open(now.unix_time)

    def is_ready(self, now: Now) -> bool:
        """It is due, or, where only a frame can tell, may be."""
        return self.is_open(now)

    def is_any_due(self, now: Now) -> bool:
        """It is ready, and any newer frame will do."""
        return self.on_clock

    def is_due(self, frame: Frame, now: Now) -> bool:
        """It is due on this frame."""
        raise NotImplementedError

    def advance(self, frame: Frame, now: Now) -> None:
        """Move on to the first tick after this one."""
        raise NotImplementedError

    @property
    def spacing(self) -> float:
        """Seconds between the frames that it may want, at least; 0: any frame."""
        return 0.0

    def wait(self, now: Now) -> float:
        """Seconds after which to look again whether it is ready."""
        return 0.0 if self.task.between is None else _to_next_look(now)

    def deadline(self, now: Now) -> float:
        """Monotonic second by which its tick should have run."""
        return math.inf

    def asks(self, now: Now) -> bool:
        """It counts in what is asked of the device."""
        return self.is_open(now)

    def restart(self) -> None:
        """A new connection: its frames and its media time begin again."""


class IntervalTrigger(Trigger):
    """`every`, by the monotonic clock. A tick that falls outside the window waits for its opening."""

    on_clock = True

    def __init__(self, task: ScheduledTask, every: float, now: Now) -> None:
        super().__init__(task)
        self.every = every
        self.rate = 1 / every
        self._last: float | None = None
        self._not_before = now.mono
        self._closed = False

    @property
    def spacing(self) -> float:
        return self.every * self.stretch

    @property
    def tick(self) -> float:
        after = -math.inf if self._last is None else self._last + self.every * self.stretch
        return max(after, self._not_before)

    def is_open(self, now: Now) -> bool:
        open_now = super().is_open(now)
        if open_now and self._closed:
            self._not_before = now.mono - now.unix_time % 60  # windows open on a whole minute
        self._closed = not open_now
        return open_now

    def is_ready(self, now: Now) -> bool:
        return self.is_open(now) and now.mono >= self.tick

    def is_due(self, frame: Frame, now: Now) -> bool:
        return self.is_ready(now)

    def advance(self, frame: Frame, now: Now) -> None:
        step = self.every * self.stretch
        passed = math.floor((now.mono - self.tick + _ROUNDING) / step)
        self._last = self.tick + max(0, passed) * step

    def wait(self, now: Now) -> float:
        return self.tick - now.mono if self.is_open(now) else _to_next_look(now)

    def deadline(self, now: Now) -> float:
        return self.tick + self.every * self.stretch


class MotionTrigger(IntervalTrigger):
    """`every` with `when`: a tick waits until something happens, or until it is time to ask in any case.

    Once in `UNCHANGED_S` it takes a frame only to say that nothing has.
    """

    spacing = 0.0

    def __init__(self, task: ScheduledTask, every: float, now: Now) -> None:
        super().__init__(task, every, now)
        self._answered: FrameId | None = None
        self._answered_at = 0.0
        self._refresh_at = self._tell_at = now.mono
        self._quiet_at = -math.inf
        """When it was last asked whether something has happened, which then had not."""

    def is_any_due(self, now: Now) -> bool:
        return self._answered is None or now.mono >= min(self._refresh_at, self._tell_at)

    def gate(self, now: Now) -> MotionGate:
        """What is asked of capture."""
        self._quiet_at = now.mono
        zone, task = self.task.zone, self.task
        return MotionGate(task=task.name, when=task.when, area=zone.name if zone else WHOLE, since=self._answered)

    def is_due(self, frame: Frame, now: Now) -> bool:
        return self.is_ready(now) and (self.is_any_due(now) or self.task.name in frame.triggered)

    def advance(self, frame: Frame, now: Now) -> None:
        super().advance(frame, now)
        self._tell_at = now.mono + UNCHANGED_S
        happened = self._answered is None or self.task.name in frame.triggered
        if happened or now.mono >= self._refresh_at:
            self._answered, self._answered_at = frame.id, frame.captured_at
            self._refresh_at = now.mono + self.task.refresh
            self.unchanged_since = None
        else:
            self.unchanged_since = self._answered_at

    def deadline(self, now: Now) -> float:
        return max(super().deadline(now), self._quiet_at + self.every * self.stretch)

    def asks(self, now: Now) -> bool:
        return super().asks(now) and now.mono < super().deadline(now) + QUIET_S

    def restart(self) -> None:
        self._answered = None


class OneShotTrigger(Trigger):
    """A question that is asked one time, of the next frame, before anything else."""

    on_clock = True
    is_urgent = True

    def __init__(self, task: ScheduledTask) -> None:
        super().__init__(task)
        self.is_over = False

    def is_ready(self, now: Now) -> bool:
        return not self.is_over

    def is_due(self, frame: Frame, now: Now) -> bool:
        return not self.is_over

    def advance(self, frame: Frame, now: Now) -> None:
        self.is_over = True

    def deadline(self, now: Now) -> float:
        return -math.inf


class CronTrigger(Trigger):
    """A cron line, by the wall clock. Runs that were missed are made up for by one."""

    on_clock = True

    def __init__(self, task: ScheduledTask, cron: Cron, now: Now) -> None:
        super().__init__(task)
        self._cron = cron
        self._set_by = now.unix_time - now.mono
        self._next = cron.after(now.unix_time)

    @property
    def spacing(self) -> float:
        return LOOK_S

    def is_ready(self, now: Now) -> bool:
        offset = now.unix_time - now.mono
        if abs(offset - self._set_by) > CLOCK_SET_S:
            self._next = self._cron.after(now.unix_time)
        self._set_by = offset
        between = self.task.between
        while self._next <= now.unix_time and between is not None and not between.is_open(self._next):
            self._next = self._cron.after(self._next)
        return now.unix_time >= self._next

    def is_due(self, frame: Frame, now: Now) -> bool:
        return self.is_ready(now)

    def advance(self, frame: Frame, now: Now) -> None:
        self._next = self._cron.after(now.unix_time)

    def wait(self, now: Now) -> float:
        return min(LOOK_S, self._next - now.unix_time)

    def deadline(self, now: Now) -> float:
        return now.mono + (self._next - now.unix_time) + AT_WITHIN_S


class FrameCountTrigger(Trigger):
    """`every_n_frames`: numbers of frames."""

    def __init__(self, task: ScheduledTask, count: int) -> None:
        super().__init__(task)
        self._count = count
        self.tick = 0

    def is_due(self, frame: Frame, now: Now) -> bool:
        return self.is_open(now) and frame.seq >= self.tick

    def advance(self, frame: Frame, now: Now) -> None:
        step = max(1, round(self._count * self.stretch))
        self.tick += ((frame.seq - self.tick) // step + 1) * step

    def restart(self) -> None:
        self.tick = 0


class MediaTimeTrigger(Trigger):
    """`every`, by a file's own time."""

    def __init__(self, task: ScheduledTask, every: float) -> None:
        super().__init__(task)
        self._every = every
        self.tick = 0.0

    def is_due(self, frame: Frame, now: Now) -> bool:
        return frame.pts is None or frame.pts >= self.tick - _ROUNDING

    def advance(self, frame: Frame, now: Now) -> None:
        at = self.tick if frame.pts is None else frame.pts
        passed = math.floor((at - self.tick + _ROUNDING) / self._every)
        self.tick += (max(0, passed) + 1) * self._every

    def restart(self) -> None:
        self.tick = 0.0


def _to_next_look(now: Now) -> float:
    """Seconds to the next whole minute: windows open and close on one."""
    return LOOK_S - now.unix_time % LOOK_S


def make_trigger(task: ScheduledTask, pace: Pace, now: Now) -> Trigger:
    if task.at is not None:
        return CronTrigger(task, task.at, now)
    if task.every_n_frames is not None:
        return FrameCountTrigger(task, task.every_n_frames)
    every = task.every or 1.0
    if pace == "file":
        return MediaTimeTrigger(task, every)
    return IntervalTrigger(task, every, now) if task.when == "always" else MotionTrigger(task, every, now)
