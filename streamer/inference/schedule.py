"""When each task of a stream is due. Pure: the clocks are passed in.

Intervals run on the monotonic clock for live streams and on media time for files, always on a fixed grid: a missed
tick is skipped, not made up for. `every_n_frames` counts the frames of one connection. `at` and `between` read the
wall clock of live streams; a clock that is set within three hours neither repeats a run nor loses one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from streamer.bus.frame_protocol import MAX_WAIT_S, FrameRequest
from streamer.config.task import ScheduledTask
from streamer.inference.triggers import (
    AT_WITHIN_S,
    LOOK_S,
    UNCHANGED_S,
    FrameCountTrigger,
    IntervalTrigger,
    MediaTimeTrigger,
    MotionTrigger,
    Now,
    OneShotTrigger,
    Trigger,
    make_trigger,
)
from streamer.types import DueTask, Frame, FrameId, Origin, Pace, Priority

__all__ = ["UNCHANGED_S", "Now", "Schedule", "Trigger"]


class Schedule:
    """The tasks of one stream."""

    def __init__(self, stream: str, tasks: Sequence[ScheduledTask], pace: Pace, now: Now) -> None:
        self.stream, self.pace = stream, pace
        self.triggers = [make_trigger(task, pace, now) for task in tasks]
        self._last: FrameId | None = None
        self._skipped: FrameId | None = None
        """Newer than `_last`, and too old when it could have been asked about."""
        self._age_limited = False

    def ready(self, now: Now) -> list[Trigger]:
        """What is due by the clock, and what only a frame can tell of."""
        return [ticker for ticker in self.triggers if ticker.is_ready(now)]

    def wait(self, now: Now) -> float:
        """Seconds after which more may be ready; at most a minute where the wall clock counts."""
        waits = [ticker.wait(now) for ticker in self.triggers if not ticker.is_ready(now)]
        return max(0.0, min(waits, default=LOOK_S))

    def next_request(self, now: Now, names: Collection[str] | None = None) -> FrameRequest | None:
        """The frame to ask for, None while nothing is due.

        `names`: of a live stream for these tasks only, now; without, whichever comes.
        """
        ready = [ticker for ticker in self.ready(now) if self._is_chosen(ticker, names)]
        if not ready:
            return None
        every = min(MAX_WAIT_S, *(ticker.spacing for ticker in self.triggers))
        max_age = None if self._skipped or names is None else _max_age(ready)
        after, self._age_limited = self._skipped or self._last, max_age is not None
        gates = tuple(ticker.gate(now) for ticker in ready if isinstance(ticker, MotionTrigger))
        if any(ticker.is_any_due(now) for ticker in ready):
            return FrameRequest(after=after, interval=every, max_age=max_age, motion_gates=gates)
        frames = [ticker.tick for ticker in ready if isinstance(ticker, FrameCountTrigger)]
        media = [ticker.tick for ticker in ready if isinstance(ticker, MediaTimeTrigger)]
        return FrameRequest(
            after=after,
            at_pts=min(media, default=None),
            at_seq=min(frames, default=None),
            interval=every,
            max_age=max_age,
            motion_gates=gates,
            on_trigger=bool(gates),
        )

    def skip_stale(self, newest: FrameId | None) -> None:
        """There was no frame young enough for what is due: the first one after `newest` will do, whatever its age."""
        if self._age_limited and newest is not None and (self._last is None or newest > self._last):
            self._skipped = newest

    def pop_due(self, frame: Frame, now: Now, names: Collection[str] | None = None) -> list[DueTask]:
        """What is due on this frame, newer than any before; moves those tasks on.

        `names`: of a live stream only these, the others wait for a later frame. A file has no later one.
        """
        if self._last is not None and frame.epoch != self._last.epoch:
            for ticker in self.triggers:
                ticker.restart()
        self._last, self._skipped = frame.id, None
        due = []
        for ticker in self.triggers:
            if self._is_chosen(ticker, names) and ticker.is_due(frame, now):
                ticker.advance(frame, now)
                due.append(_due(self.stream, ticker, now))
        self.triggers = [ticker for ticker in self.triggers if not ticker.is_over]
        return due

    def replace(self, tasks: Sequence[ScheduledTask], now: Now) -> None:
        """Other tasks from now on; those that stay the same keep their ticks."""
        same = {id(ticker.task): ticker for ticker in self.triggers}
        known = [ticker.task for ticker in self.triggers if not ticker.is_urgent]
        asked = [ticker for ticker in self.triggers if ticker.is_urgent]
        tickers = []
        for task in tasks:
            old = next((settings for settings in known if settings == task), None)
            tickers.append(make_trigger(task, self.pace, now) if old is None else same[id(old)])
        self.triggers = [*tickers, *asked]

    def add_one_shot(self, task: ScheduledTask) -> None:
        """Run this task on the next frame, once."""
        self.triggers = [*self.triggers, OneShotTrigger(task)]

    def drop(self, name: str) -> None:
        """Ask this no more."""
        self.triggers = [ticker for ticker in self.triggers if ticker.name != name]

    def _is_chosen(self, ticker: Trigger, names: Collection[str] | None) -> bool:
        return names is None or self.pace == "file" or ticker.name in names

    def stretch(self, factors: Mapping[Priority, float]) -> None:
        """Make the intervals of a live stream that many times longer, from their last tick on."""
        for ticker in self.triggers if self.pace == "live" else ():
            ticker.stretch = factors.get(ticker.task.priority, 1.0)


def _due(stream: str, trigger: Trigger, now: Now) -> DueTask:
    origin: Origin = "request" if trigger.is_urgent else "schedule"
    return DueTask(stream, trigger.task, _next_tick(trigger, now), trigger.unchanged_since, origin)


def _max_age(tickers: Sequence[Trigger]) -> float | None:
    """Seconds beyond which a frame is too old for all of them."""
    ages = [ticker.task.max_age for ticker in tickers]
    return None if None in ages else max(age for age in ages if age is not None)


def _next_tick(ticker: Trigger, now: Now) -> float:
    """Monotonic second of the tick after the one just taken."""
    if ticker.is_urgent:
        return -math.inf
    if isinstance(ticker, IntervalTrigger):
        return ticker.tick
    return now.mono + AT_WITHIN_S if ticker.on_clock else math.inf
