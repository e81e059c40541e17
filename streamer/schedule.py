"""When each task of a stream is due. Pure: the clocks are passed in.

Intervals run on the monotonic clock for live streams and on media time for files, always on a fixed grid: a missed
tick is skipped, not made up for. `every_n_frames` counts the frames of one connection. `at` and `between` read the
wall clock of live streams; a clock that is set within three hours neither repeats a run nor loses one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from streamer.bus.messages import Want
from streamer.hours import Cron, Hours
from streamer.types import Due, Frame, FrameId, Pace, Priority, Zone

_ROUNDING = 1e-6
"""Seconds by which a media time may miss its tick."""
LOOK_S = 60.0
"""A window or a cron line is looked at this often at least, for clocks can be set."""
CLOCK_SET_S = 3 * 3600.0
"""A clock that is set further than this was wrong before: what it missed is not made up for."""
AT_WITHIN_S = 60.0
"""A run of a cron line should happen within this time."""


class Now(NamedTuple):
    """This moment."""

    mono: float
    """Seconds of CLOCK_MONOTONIC."""
    wall: float
    """Unix seconds, on a clock that may be set."""


class TaskSettings(Protocol):
    """What the schedule needs to know of a task. Of `every`, `every_n_frames` and `at` one is given."""

    @property
    def task(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def every(self) -> float | None: ...
    @property
    def every_n_frames(self) -> int | None: ...
    @property
    def at(self) -> Cron | None: ...
    @property
    def between(self) -> Hours | None: ...
    @property
    def priority(self) -> Priority: ...
    @property
    def max_age(self) -> float | None: ...
    @property
    def zone(self) -> Zone | None: ...
    @property
    def params(self) -> Any: ...


class Ticker:
    """One task and its next tick."""

    on_clock = False
    """A clock tells when it is due; else only a frame can."""
    rate = 0.0
    """Runs per second as configured, 0 where overload does not change it."""

    def __init__(self, settings: TaskSettings) -> None:
        self.settings = settings
        self.stretch = 1.0

    def is_open(self, now: Now) -> bool:
        """Its window is open, or it has none."""
        between = self.settings.between
        return between is None or between.is_open(now.wall)

    def is_ready(self, now: Now) -> bool:
        """It is due, or, where only a frame can tell, may be."""
        return self.is_open(now)

    def is_due(self, frame: Frame, now: Now) -> bool:
        """It is due on this frame."""
        raise NotImplementedError

    def advance(self, frame: Frame, now: Now) -> None:
        """Move on to the first tick after this one."""
        raise NotImplementedError

    def wait(self, now: Now) -> float:
        """Seconds after which to look again whether it is ready."""
        return 0.0 if self.settings.between is None else _to_next_look(now)

    def deadline(self, now: Now) -> float:
        """Monotonic second by which its tick should have run."""
        return math.inf

    def restart(self) -> None:
        """A new connection: its frames and its media time begin again."""


class _Interval(Ticker):
    """`every`, by the monotonic clock. A tick that falls outside the window waits for its opening."""

    on_clock = True

    def __init__(self, settings: TaskSettings, every: float, now: Now) -> None:
        super().__init__(settings)
        self.every = every
        self.rate = 1 / every
        self._last: float | None = None
        self._not_before = now.mono
        self._closed = False

    @property
    def tick(self) -> float:
        after = -math.inf if self._last is None else self._last + self.every * self.stretch
        return max(after, self._not_before)

    def is_open(self, now: Now) -> bool:
        open_now = super().is_open(now)
        if open_now and self._closed:
            self._not_before = now.mono - now.wall % 60  # windows open on a whole minute
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


class _At(Ticker):
    """A cron line, by the wall clock. Runs that were missed are made up for by one."""

    on_clock = True

    def __init__(self, settings: TaskSettings, cron: Cron, now: Now) -> None:
        super().__init__(settings)
        self._cron = cron
        self._set_by = now.wall - now.mono
        self._next = cron.after(now.wall)

    def is_ready(self, now: Now) -> bool:
        offset = now.wall - now.mono
        if abs(offset - self._set_by) > CLOCK_SET_S:
            self._next = self._cron.after(now.wall)
        self._set_by = offset
        between = self.settings.between
        while self._next <= now.wall and between is not None and not between.is_open(self._next):
            self._next = self._cron.after(self._next)
        return now.wall >= self._next

    def is_due(self, frame: Frame, now: Now) -> bool:
        return self.is_ready(now)

    def advance(self, frame: Frame, now: Now) -> None:
        self._next = self._cron.after(now.wall)

    def wait(self, now: Now) -> float:
        return min(LOOK_S, self._next - now.wall)

    def deadline(self, now: Now) -> float:
        return now.mono + (self._next - now.wall) + AT_WITHIN_S


class _Frames(Ticker):
    """`every_n_frames`: numbers of frames."""

    def __init__(self, settings: TaskSettings, count: int) -> None:
        super().__init__(settings)
        self._count = count
        self.tick = 0

    def is_due(self, frame: Frame, now: Now) -> bool:
        return self.is_open(now) and frame.seq >= self.tick

    def advance(self, frame: Frame, now: Now) -> None:
        step = max(1, round(self._count * self.stretch))
        self.tick += ((frame.seq - self.tick) // step + 1) * step

    def restart(self) -> None:
        self.tick = 0


class _Media(Ticker):
    """`every`, by a file's own time."""

    def __init__(self, settings: TaskSettings, every: float) -> None:
        super().__init__(settings)
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
    return LOOK_S - now.wall % LOOK_S


def _ticker(task: TaskSettings, pace: Pace, now: Now) -> Ticker:
    if task.at is not None:
        return _At(task, task.at, now)
    if task.every_n_frames is not None:
        return _Frames(task, task.every_n_frames)
    every = task.every or 1.0
    return _Interval(task, every, now) if pace == "live" else _Media(task, every)


class Schedule:
    """The tasks of one stream."""

    def __init__(self, stream: str, tasks: Sequence[TaskSettings], pace: Pace, now: Now) -> None:
        self.stream, self.pace = stream, pace
        self.tickers = [_ticker(task, pace, now) for task in tasks]
        self._last: FrameId | None = None

    def ready(self, now: Now) -> list[Ticker]:
        """What is due by the clock, and what only a frame can tell of."""
        return [ticker for ticker in self.tickers if ticker.is_ready(now)]

    def wait(self, now: Now) -> float:
        """Seconds after which more may be ready; at most a minute where the wall clock counts."""
        waits = [ticker.wait(now) for ticker in self.tickers if not ticker.is_ready(now)]
        return max(0.0, min(waits, default=LOOK_S))

    def want(self, now: Now, names: Collection[str] | None = None) -> Want | None:
        """The frame to ask for, None while nothing is due. `names`: of a live stream for these tasks only."""
        ready = [ticker for ticker in self.ready(now) if self._is_chosen(ticker, names)]
        if not ready:
            return None
        if any(ticker.on_clock for ticker in ready):
            return Want(after=self._last)
        frames = [ticker.tick for ticker in ready if isinstance(ticker, _Frames)]
        media = [ticker.tick for ticker in ready if isinstance(ticker, _Media)]
        return Want(after=self._last, at_pts=min(media, default=None), at_seq=min(frames, default=None))

    def take(self, frame: Frame, now: Now, names: Collection[str] | None = None) -> list[Due]:
        """What is due on this frame, newer than any before; moves those tasks on.

        `names`: of a live stream only these, the others wait for a later frame. A file has no later one.
        """
        if self._last is not None and frame.epoch != self._last.epoch:
            for ticker in self.tickers:
                ticker.restart()
        self._last = frame.id
        due = []
        for ticker in self.tickers:
            if self._is_chosen(ticker, names) and ticker.is_due(frame, now):
                ticker.advance(frame, now)
                due.append(_due(self.stream, ticker, now))
        return due

    def _is_chosen(self, ticker: Ticker, names: Collection[str] | None) -> bool:
        return names is None or self.pace == "file" or ticker.settings.name in names

    def stretch(self, factors: Mapping[Priority, float]) -> None:
        """Make the intervals of a live stream that many times longer, from their last tick on."""
        for ticker in self.tickers if self.pace == "live" else ():
            ticker.stretch = factors.get(ticker.settings.priority, 1.0)


def _due(stream: str, ticker: Ticker, now: Now) -> Due:
    task = ticker.settings
    return Due(
        stream=stream,
        name=task.name,
        task=task.task,
        params=task.params,
        deadline=_next_tick(ticker, now),
        priority=task.priority,
        max_age=task.max_age,
        zone=task.zone,
    )


def _next_tick(ticker: Ticker, now: Now) -> float:
    """Monotonic second of the tick after the one just taken."""
    if isinstance(ticker, _Interval):
        return ticker.tick
    return now.mono + AT_WITHIN_S if ticker.on_clock else math.inf
