"""When each task of a stream is due. Pure: the clock is passed in.

Intervals run on the monotonic clock for live streams and on media time for files, always on a fixed grid: a missed
tick is skipped, not made up for. `every_n_frames` counts the frames of one connection.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

from streamer.bus.messages import Want
from streamer.types import Due, Frame, FrameId, Pace

_ROUNDING = 1e-6
"""Seconds by which a media time may miss its tick."""


class TaskSettings(Protocol):
    """What the schedule needs to know of a task."""

    @property
    def task(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def every(self) -> float | None: ...
    @property
    def every_n_frames(self) -> int | None: ...
    @property
    def params(self) -> Any: ...


class _Ticker:
    """One task and its next tick: a monotonic second, a media time, or a frame number."""

    def __init__(self, settings: TaskSettings, pace: Pace, now: float) -> None:
        self.settings = settings
        self.counts_frames = settings.every_n_frames is not None
        self.on_clock = not self.counts_frames and pace == "live"
        self.step = float(settings.every_n_frames or settings.every or 1.0)
        self.next = now if self.on_clock else 0.0

    def is_due(self, frame: Frame, now: float) -> bool:
        if self.counts_frames:
            return frame.seq >= self.next
        if self.on_clock:
            return now >= self.next
        return frame.pts is None or frame.pts >= self.next - _ROUNDING

    def advance(self, frame: Frame, now: float) -> None:
        """Move on to the first tick after this one."""
        if self.counts_frames:
            at = float(frame.seq)
        elif self.on_clock:
            at = now
        else:
            at = self.next if frame.pts is None else frame.pts
        passed = math.floor((at - self.next + _ROUNDING) / self.step) + 1
        self.next += max(1, passed) * self.step

    def restart(self) -> None:
        """A new connection: its frames and its media time begin again."""
        if not self.on_clock:
            self.next = 0.0


class Schedule:
    """The tasks of one stream."""

    def __init__(self, stream: str, tasks: Sequence[TaskSettings], pace: Pace, now: float) -> None:
        self.stream = stream
        self._pace = pace
        self._tickers = [_Ticker(task, pace, now) for task in tasks]
        self._last: FrameId | None = None

    def next_due(self) -> float:
        """Monotonic second of the next tick that is known now; minus infinity when only a frame can tell."""
        if any(not ticker.on_clock for ticker in self._tickers):
            return -math.inf
        return min(ticker.next for ticker in self._tickers)

    def want(self, now: float) -> Want | None:
        """The frame to ask for at `now`, None while nothing is due."""
        if any(ticker.on_clock and now >= ticker.next for ticker in self._tickers):
            return Want(after=self._last)
        frames = [int(ticker.next) for ticker in self._tickers if ticker.counts_frames]
        media = [ticker.next for ticker in self._tickers if not ticker.counts_frames and not ticker.on_clock]
        if not frames and not media:
            return None
        return Want(after=self._last, at_pts=min(media, default=None), at_seq=min(frames, default=None))

    def take(self, frame: Frame, now: float) -> list[Due]:
        """What is due on this frame, newer than any before; moves those tasks on."""
        if self._last is not None and frame.epoch != self._last.epoch:
            for ticker in self._tickers:
                ticker.restart()
        self._last = frame.id
        due = []
        for ticker in self._tickers:
            if ticker.is_due(frame, now):
                ticker.advance(frame, now)
                deadline = ticker.next if ticker.on_clock else math.inf
                task = ticker.settings
                due.append(Due(self.stream, task.name, task.task, task.params, deadline))
        return due
