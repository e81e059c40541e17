"""Decides when a view shows which frame. Pure: the clock is passed in.

A frame is shown when it arrives, or after a fixed delay. While no frame arrives, the last one is repeated, so that the
output's clock never stops. Times are monotonic seconds.
"""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass

from streamer.types import Frame, FrameId

MIN_GAP_S = 0.2
GAP_INTERVALS = 3.0
"""The last frame is repeated after `MIN_GAP_S` or `GAP_INTERVALS` output intervals without a frame, the longer one."""
MIN_LOST_S, MAX_LOST_S = 2.0, 60.0
LOST_INTERVALS = 5.0
"""The camera counts as lost after `LOST_INTERVALS` of its intervals, within `MIN_LOST_S` and `MAX_LOST_S`."""
MAX_INTERVAL_S, MIN_INTERVAL_S = 1.0, 1 / 120
"""Limits of `FramePacer.interval`, at which frames are repeated."""
MEASURE_S, MEASUREMENTS = 0.5, 9
"""The camera's interval is the median of its last `MEASUREMENTS` means, each over `MEASURE_S`. Neither a late frame nor
a burst of frames changes it."""
FIRST_REPEAT_S = 1.0
"""Seconds from the start to the first output while no frame has ever arrived."""
MAX_BYTES = 512 << 20
"""Bytes of frames that wait for their delay. Beyond it the oldest are dropped."""
SYNC_START_S, SYNC_MARGIN_S, MAX_SYNC_S = 1.0, 0.15, 10.0
"""Delay of a synchronised view: at the start, its margin over the slowest answer so far, and its maximum."""


@dataclass(frozen=True, slots=True)
class PacedFrame:
    """The frame to show now."""

    frame: Frame | None
    """None: the camera has sent no frame yet."""
    at: float
    """Time on the output's clock; strictly increasing."""
    is_repeat: bool
    lost_s: float | None = None
    """Seconds since the camera's last frame, when the camera counts as lost."""


class FramePacer:
    """Orders one view's frames in time."""

    def __init__(self, now: float, delay: float = 0.0) -> None:
        """`delay`: seconds from capture to display."""
        self.delay = delay
        self.interval = 0.04
        """Seconds between two frames of the output: the camera's interval within the limits."""
        self._camera_interval = 0.04
        """Seconds between two frames of the camera, measured."""
        self._means = deque([0.04], maxlen=MEASUREMENTS)
        """Means of the last periods, after an assumed one: a slow first period counts only until the second."""
        self._measured_from: tuple[FrameId, float] | None = None
        """First frame of the current period, and its monotonic time."""
        self._queue: deque[Frame] = deque()
        self._last_shown: Frame | None = None
        self._newest: Frame | None = None
        self._at = now
        self._idle_since = now
        """Start, or the last `resume`: counts as the last frame while the camera has sent none."""
        self._is_repeating = False

    def put(self, frame: Frame) -> None:
        """Add the camera's newest frame."""
        self._measure(frame.id, frame.captured_mono)
        self._newest = frame
        self._queue.append(frame)
        while len(self._queue) * frame.image.nbytes > MAX_BYTES:
            self._queue.popleft()

    def observe_latency(self, seconds: float) -> None:
        """Extend the delay so that answers this late still meet their own frame. It never becomes shorter."""
        self.delay = max(self.delay, min(seconds + SYNC_MARGIN_S, MAX_SYNC_S))

    def resume(self, now: float) -> None:
        """Restart the output's clock after a time without viewers. The frames of that time are not missing."""
        self._at = self._idle_since = now
        self._is_repeating = False

    def take(self, now: float) -> PacedFrame | None:
        """Return the frame to show now, or None. Of several due frames only the newest is returned."""
        due = None
        while self._queue and self._queue[0].captured_mono + self.delay <= now:
            due = self._queue.popleft()
        if due is not None:
            self._last_shown, self._is_repeating = due, False
            self._at = max(self._at + 0.001, due.captured_mono + self.delay)
            return PacedFrame(due, self._at, is_repeat=False)
        if now < self._next_repeat():
            return None
        self._at = max(self._next_repeat(), now - self.interval)  # a constant rate, unless the view fell behind
        self._is_repeating = True
        silent_s = now - (self._newest.captured_mono if self._newest else self._idle_since)
        limit = min(MAX_LOST_S, max(MIN_LOST_S, LOST_INTERVALS * self._camera_interval))
        lost_s = silent_s if silent_s - self.delay > limit else None
        return PacedFrame(self._last_shown, self._at, is_repeat=True, lost_s=lost_s)

    def next_at(self) -> float:
        """Return the time of the next output if no further frame arrives."""
        repeat = self._next_repeat()
        return min(repeat, self._queue[0].captured_mono + self.delay) if self._queue else repeat

    @property
    def is_empty(self) -> bool:
        return not self._queue

    def _measure(self, frame: FrameId, captured_mono: float) -> None:
        start, started = self._measured_from or (frame, captured_mono)
        if start.epoch == frame.epoch and captured_mono - started < MEASURE_S:
            self._measured_from = start, started
            return
        self._measured_from = frame, captured_mono
        if start.epoch == frame.epoch:
            self._means.append((captured_mono - started) / max(1, frame.seq - start.seq))
            self._camera_interval = statistics.median_high(self._means)
            self.interval = min(MAX_INTERVAL_S, max(MIN_INTERVAL_S, self._camera_interval))

    def _next_repeat(self) -> float:
        if self._is_repeating:
            return self._at + self.interval
        gap = FIRST_REPEAT_S if self._last_shown is None else max(MIN_GAP_S, GAP_INTERVALS * self.interval)
        return self._at + gap
