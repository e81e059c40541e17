"""Which picture a view shows when: each as it comes (or so much later), and the last one again when none comes. Pure.

Times are monotonic seconds.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from streamer.types import FrameId, Image

GAP_S = 0.2
GAP = 3.0
"""Seconds, and intervals of the camera, without a picture, after which the last one is shown again."""
LOST_S, LOST_MOST_S = 2.0, 60.0
"""Seconds without a picture after which the camera counts as lost; slow ones have `LOST` of their intervals,
but no more than the last."""
LOST = 5.0
SLOWEST_S, FASTEST_S = 1.0, 1 / 120
"""A lost camera's picture is repeated as often as it came, within these."""
START_S = 1.0
MAX_BYTES = 512 << 20
"""Of pictures that wait for their delay to pass."""


@dataclass(frozen=True, slots=True)
class QueuedFrame:
    """A picture on its way to the viewers."""

    id: FrameId
    captured_at: float
    captured_mono: float
    pts: float | None
    image: Image


@dataclass(frozen=True, slots=True)
class PacedFrame:
    shown: QueuedFrame | None
    """None: no picture has ever come."""
    at: float
    """Its second in the output."""
    is_repeat: bool
    lost: float | None = None
    """Seconds since the last picture, when the camera counts as lost."""


class FramePacer:
    """The pictures of one view, in the order they are shown."""

    def __init__(self, now: float, delay: float = 0.0) -> None:
        """`delay`: seconds after its capture that a picture is shown; 0: at once."""
        self.delay = delay
        self.interval = 0.04
        """Seconds between two pictures of the output: as of the camera, within `FASTEST_S` and `SLOWEST_S`."""
        self._gap = 0.04
        """Seconds between two pictures of the camera, measured."""
        self._waiting: deque[QueuedFrame] = deque()
        self._last: QueuedFrame | None = None
        self._came: QueuedFrame | None = None
        self._at = now
        self._since = now
        self._intervals = 0
        self._repeats = False

    def put(self, shown: QueuedFrame) -> None:
        """The camera's newest picture."""
        if self._came is not None and self._came.id.epoch == shown.id.epoch:
            pictures = shown.id.seq - self._came.id.seq
            interval = (shown.captured_mono - self._came.captured_mono) / max(1, pictures)
            self._intervals += 1
            self._gap += max(0.05, 1 / self._intervals) * (interval - self._gap)
            self.interval = min(SLOWEST_S, max(FASTEST_S, self._gap))
        self._came = shown
        self._waiting.append(shown)
        while len(self._waiting) * shown.image.nbytes > MAX_BYTES:
            self._waiting.popleft()

    def resume(self, now: float) -> None:
        """Nobody looked until now: what was not shown is not missing."""
        self._at = self._since = now
        self._repeats = False

    def take(self, now: float) -> PacedFrame | None:
        """What is to be shown now, if anything. Of several pictures whose time has come, the newest."""
        ready = None
        while self._waiting and self._waiting[0].captured_mono + self.delay <= now:
            ready = self._waiting.popleft()
        if ready is not None:
            self._last, self._since, self._repeats = ready, ready.captured_mono + self.delay, False
            self._at = max(self._at + 0.001, ready.captured_mono + self.delay)
            return PacedFrame(ready, self._at, is_repeat=False)
        if now < self._next_repeat():
            return None
        self._at = max(self._next_repeat(), now - self.interval)  # keeps the beat, unless it fell behind
        self._repeats = True
        silent = now - (self._came.captured_mono if self._came else self._since)
        lost = silent if silent - self.delay > min(LOST_MOST_S, max(LOST_S, LOST * self._gap)) else None
        return PacedFrame(self._last, self._at, is_repeat=True, lost=lost)

    def next_at(self) -> float:
        """When `take` has something again, should no picture come."""
        return min([self._next_repeat(), *(shown.captured_mono + self.delay for shown in list(self._waiting)[:1])])

    @property
    def empty(self) -> bool:
        return not self._waiting

    def _next_repeat(self) -> float:
        if self._repeats:
            return self._at + self.interval
        return self._at + (START_S if self._last is None else max(GAP_S, GAP * self.interval))
