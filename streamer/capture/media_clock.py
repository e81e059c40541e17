"""Media time of one connection, from the source's own timestamps. Pure: monotonic times are passed in."""

from __future__ import annotations

MAX_TIMESTAMP_S = 1e11
"""Largest valid timestamp of a source, 3,000 years. A larger one is damaged, and float loses its microseconds."""
_MAX_CONTINUATION_S = 1.0
"""Longest step of media time over a jump of the source's clock."""
_MAX_LEAD_S = 10.0
"""A live source's clock that advances this much more than the monotonic clock was set anew."""


class MediaClock:
    """Converts a source's timestamps to media time: 0 at the first frame, never decreasing."""

    def __init__(self, live: bool = True) -> None:
        self._live = live
        self._offset: float | None = None
        self._last: float | None = None
        self._last_mono = 0.0

    def stamp(self, pts: float | None, mono: float) -> float | None:
        """Return the media time in seconds of a frame with the source's timestamp `pts`, received at `mono`.

        The first frame of an RTSP stream has no pts and gets 0; a later frame without pts gets None. A pts that is not
        a number up to `MAX_TIMESTAMP_S` counts as none. When the source's clock jumps back (loop, reset), or a live
        source's clock jumps ahead, media time continues from its last value.
        """
        if pts is None or not abs(pts) <= MAX_TIMESTAMP_S:  # `not <=`: true for NaN
            if self._last is not None:
                return None
            self._last, self._last_mono = 0.0, mono
            return 0.0
        if self._offset is None or self._jumps(pts + self._offset, mono):
            self._offset = self._continuation(mono) - pts
        self._last, self._last_mono = pts + self._offset, mono
        return self._last

    def _jumps(self, time: float, mono: float) -> bool:
        if self._last is None:
            return False
        return time < self._last or (self._live and time - self._last > mono - self._last_mono + _MAX_LEAD_S)

    def _continuation(self, mono: float) -> float:
        if self._last is None:
            return 0.0
        return self._last + min(mono - self._last_mono, _MAX_CONTINUATION_S)
