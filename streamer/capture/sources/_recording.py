"""A video file while it is read: the times of its frames, and whether it ends where it says."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import cast

import av
from av.container import InputContainer
from av.format import Flags
from av.video.stream import VideoStream

from streamer.capture.media_clock import MAX_TIMESTAMP_S
from streamer.capture.sources._failures import FAILURES, describe

log = logging.getLogger(__name__)

MAX_LEAP_S = 30 * 3600.0
"""Timestamps that leap further ahead are damaged. `ffmpeg` has the same limit."""
MAX_BROADCAST_LEAP_S = 10.0
"""The same for formats whose clock may be set anew within a file, such as MPEG-TS. `ffmpeg` has the same limit."""
MIN_FPS, MAX_FPS = 1 / 3600, 1000
"""Range of valid frame rates. Any other one is damaged."""
_MAX_STEP_S = 1.0
"""Longest step of media time over such a leap, and over a jump back."""
_END_TOLERANCE_S = 1.0
"""A video that ends this much before its stated end is whole: sound and video seldom end together."""
_DURATION = re.compile(r"(\d{1,6}):(\d\d):(\d\d(?:\.\d{1,9})?)")


class Recording:
    """Follows one reading of a file. All times are in seconds."""

    def __init__(self, frame_s: float | None, duration: float | None, max_leap: float = MAX_LEAP_S) -> None:
        """`frame_s`: usual time from frame to frame. `duration`: length that the file states; None: unknown."""
        self._is_broken = False
        """Reading failed, or the last packet is cut off."""
        self._frame_s = frame_s
        self._duration = duration
        self._max_leap = max_leap
        self._offset = 0.0
        self._step = min(frame_s or 0.0, _MAX_STEP_S)
        self._pts: float | None = None
        self._time: float | None = None
        self._begin, self._end = math.inf, -math.inf

    @classmethod
    def of(cls, container: InputContainer, stream: VideoStream) -> Recording:
        """Return the recording of an opened file."""
        rate = stream.guessed_rate
        if _has_flag(container, Flags.no_timestamps):  # FFmpeg's guess is then often 25
            rate = stream.codec_context.framerate or rate
        frame_s = float(1 / rate) if rate is not None and MIN_FPS <= rate <= MAX_FPS else None
        leap = MAX_BROADCAST_LEAP_S if _has_flag(container, Flags.ts_discont) else MAX_LEAP_S
        return cls(frame_s, _stated_duration(container, stream), leap)

    def time_of(self, pts: float | None) -> float | None:
        """Return the time of the next frame. One without a valid timestamp is timed by the frame rate, if known.

        Where the timestamps jump back or leap ahead, time continues by the step before.
        """
        if pts is None or not abs(pts) <= MAX_TIMESTAMP_S:  # `not <=`: true for NaN
            if self._frame_s is None:
                return None
            pts = 0.0 if self._pts is None else self._pts + self._frame_s
        time = pts + self._offset
        if self._time is not None:
            step = time - self._time
            if not 0 <= step <= self._max_leap:
                self._offset += self._step - step
                time = self._time + self._step
            elif step > 0:
                self._step = min(step, _MAX_STEP_S)
        self._pts, self._time = pts, time
        return time

    def read(self, packets: Iterator[av.Packet[VideoStream]]) -> Iterator[av.Packet[VideoStream]]:
        """Yield the packets of the file until its end or its first damage. The last packet empties the decoder.

        A packet that is cut off at the end is omitted: its error would keep the frames before it in the decoder.
        """
        cut, stream = None, None
        try:
            for packet in packets:
                stream = packet.stream
                if cut is not None:
                    if packet.size:
                        yield cut
                    else:
                        self._is_broken = True
                cut = packet if packet.is_corrupt and packet.size else None
                if cut is None:
                    self._on_packet(packet)
                    yield packet
        except FAILURES as error:
            log.warning("file damaged, reading stopped: %s", describe(error))
            self._is_broken = True
            if stream is not None:
                last = cast("av.Packet[VideoStream]", av.Packet())  # its class cannot be subscripted at run time
                last.stream = stream
                yield last

    def _on_packet(self, packet: av.Packet[VideoStream]) -> None:
        base = packet.stream.time_base
        pts = to_seconds(packet.pts, base)
        if pts is not None:
            self._begin = min(self._begin, pts)
            self._end = max(self._end, pts + (to_seconds(packet.duration, base) or 0.0))

    @property
    def missing(self) -> str | None:
        """Part of an incomplete file that was read, such as `ends early: 3.1 s of 6.0 s`; None for a whole one."""
        read = max(0.0, self._end - self._begin)
        if self._duration is None:
            return f"ends early: damaged or cut off after {read:.1f} s" if self._is_broken else None
        if self._duration - read <= _END_TOLERANCE_S:
            return None
        return f"ends early: {read:.1f} s of {self._duration:.1f} s"


def _has_flag(container: InputContainer, flag: Flags) -> bool:
    return bool(container.format.flags & cast(int, flag.value))


def to_seconds(timestamp: int | None, time_base: Fraction | None) -> float | None:
    """Return a timestamp in seconds, None without a timestamp or a valid time base."""
    return float(timestamp * time_base) if timestamp is not None and time_base is not None and time_base > 0 else None


def _stated_duration(container: InputContainer, stream: VideoStream) -> float | None:
    """Return the length of the video by the file's own index or header, None if it has none.

    For all other formats, and for files without an index, FFmpeg gives an estimate from size and bit rate.
    """
    if stream.frames and container.format.name == "avi":
        return float(stream.frames / stream.average_rate) if stream.average_rate else None
    if stream.frames and "mp4" in container.format.name:
        return to_seconds(stream.duration, stream.time_base)
    if (written := _DURATION.match(stream.metadata.get("DURATION", ""))) is not None:  # Matroska
        return int(written[1]) * 3600 + int(written[2]) * 60 + float(written[3])
    if "matroska" in container.format.name and container.duration is not None and len(container.streams) == 1:
        return container.duration / av.time_base
    return None
