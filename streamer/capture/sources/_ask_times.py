"""The moments at which a source asks another host for a frame. Pure: the clock is passed in.

A frame is asked for once for each need of the consumers, so early that it arrives just before: by the median time that
the last ones took. It is then the newest one that can be there. Where the camera is about to give the next one, within
`NEXT_S`, that one is awaited. A frame that is not taken, because the model is busy, is replaced every `REPLACE_S`.
"""

from __future__ import annotations

import math
import statistics
from collections import deque

from streamer.bus.remote_protocol import NEXT_S
from streamer.types import FrameId

REPLACE_S = 0.1
"""Seconds after which a frame on this host is old, and replaced if it is still needed."""
_TRANSFERS = 16
"""Number of transfers of which the median is taken."""
_ROUNDING_S = 0.001
"""Seconds by which a need may differ when it is stated again."""


class AskTimes:
    """Set `needed_at`, and call `on_ask` and `on_frame` when these happen. All times are monotonic seconds."""

    def __init__(self) -> None:
        self.needed_at = math.inf
        """Moment at which a consumer needs the next frame. -inf: all frames are needed, inf: none."""
        self._met = self._frame_at = -math.inf
        """Last need for which a frame was asked for, and arrival of the last frame."""
        self._transfers: deque[float] = deque(maxlen=_TRANSFERS)
        self._newest: tuple[FrameId, float] | None = None
        """The last frame, and the second of its capture."""
        self._period: float | None = None
        """Seconds between two frames of the camera."""

    @property
    def next_ask(self) -> float:
        """Moment to ask for the next frame, if no request is on its way. The first one shows that the camera is up."""
        if self._frame_at == -math.inf or self.needed_at == -math.inf:
            return -math.inf
        return self._start if self.needed_at > self._met + _ROUNDING_S else self.old_at

    @property
    def old_at(self) -> float:
        """Moment at which the newest frame becomes old."""
        return self._frame_at + REPLACE_S

    @property
    def max_age(self) -> float | None:
        """Age in seconds from which a frame is so old that the camera gives the next one within `NEXT_S`. None: any."""
        if self._period is None or self.needed_at == -math.inf:
            return None
        return max(self._period / 2, self._period - NEXT_S)

    def on_ask(self, now: float) -> None:
        """A frame was asked for."""
        if now >= self._start - _ROUNDING_S:
            self._met = self.needed_at

    def on_frame(self, now: float, took: float, frame: FrameId, captured: float) -> None:
        """A frame has arrived, `took` seconds after it was asked for. `captured`: second of its capture."""
        if self._newest is not None and self._newest[0].epoch == frame.epoch:
            earlier, at = self._newest
            self._period = max(captured - at, 0.001) / (frame.seq - earlier.seq)
        self._newest = frame, captured
        self._frame_at = now
        self._met = max(self._met, now)
        self._transfers.append(took)

    @property
    def _start(self) -> float:
        return self.needed_at - statistics.median(self._transfers or [0.0])
