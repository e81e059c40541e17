"""One connection or file through FFmpeg (PyAV), for all sources that decode video.

Behaviour of libavformat that this file handles: only `timeout=(open, read)` of `av.open` works for every protocol;
after a read timeout it may return one more buffered packet before the error. When a server closes the connection, the
packets end without an error.

While consumers need frames less often than a live source sends key frames, only key frames are decoded. Each of them is
flushed out of the decoder, which would otherwise hold it until the next frame. Full decoding restarts at a key frame.
"""

from __future__ import annotations

import errno
import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import cache
from typing import cast

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.codec.hwaccel import HWAccel, hwdevices_available
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from streamer.capture.motion_gate import shrink
from streamer.core.errors import ConfigError, SourceLost, SourceRefused
from streamer.core.logs import RareLog
from streamer.types import MAX_PIXELS, Image, Luma

log = logging.getLogger(__name__)

OPEN_S = 10.0
"""Longest time for opening a live source."""
FIRST_FRAME_S, FIRST_FRAME_PACKETS, MAX_FIRST_FRAME_S = 15.0, 300, 300.0
"""Time until the first frame. A connection that starts between two key frames delivers none before the next one, so it
is lost only after both 15 s and 300 packets without a frame, or after 300 s."""

_LUMA_FIRST = {"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "nv12", "nv21", "gray"}
"""Pixel formats whose first plane is the luma, one byte per pixel."""

_FAILURES = (av.error.FFmpegError, OSError)


class AvPicture:
    """A decoded picture, rotated by its display matrix. Converted to BGR by `write_bgr` only."""

    __slots__ = ("_frame", "_turns", "pts")

    def __init__(self, frame: av.VideoFrame, pts: float | None) -> None:
        self._frame = frame
        self._turns = _quarter_turns(frame.rotation)
        self.pts = pts

    @property
    def width(self) -> int:
        return self._frame.height if self._turns % 2 else self._frame.width

    @property
    def height(self) -> int:
        return self._frame.width if self._turns % 2 else self._frame.height

    def write_bgr(self, out: Image) -> None:
        """Fill `out`, uint8 (height, width, 3)."""
        frame = self._frame.reformat(format="bgr24", threads=1)
        image = _rows(frame)[:, : 3 * frame.width].reshape(frame.height, frame.width, 3)
        out[:] = np.rot90(image, self._turns)

    def luma(self) -> Luma:
        """Return a small luma image. For the usual formats this reads the first plane, without conversion."""
        frame = self._frame
        if frame.format.name not in _LUMA_FIRST:
            frame = frame.reformat(format="gray", threads=1)
        return np.ascontiguousarray(np.rot90(shrink(_rows(frame)[:, : frame.width]), self._turns))


def _quarter_turns(rotation: int) -> int:
    """Return the rotation of a display matrix in quarter turns, 0 for a damaged matrix, whose angle is no number."""
    return round(rotation / 90) % 4 if abs(rotation) <= 180 else 0


def _rows(frame: av.VideoFrame) -> npt.NDArray[np.uint8]:
    """Return the rows of the first plane from top to bottom, with padding. A negative line size: stored bottom-up."""
    plane = frame.planes[0]
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(frame.height, abs(plane.line_size))
    return rows if plane.line_size > 0 else rows[::-1]


class AvSource:
    """Frames of one connection or file. `file` may hold credentials; error texts never hold `file`."""

    def __init__(
        self,
        file: str,
        options: Mapping[str, str],
        *,
        read_limit: float | None,
        container_format: str | None = None,
        hwaccel: str = "none",
        may_skip_frames: bool = False,
    ) -> None:
        """Open the connection. Raises SourceLost.

        `read_limit`: seconds of silence after which a live source is lost; None for a file. `hwaccel`: an HwAccel.
        `may_skip_frames`: decode key frames only while `set_interval` allows it.
        """
        self._limit = read_limit
        self._undecodable = RareLog(log, "packets that cannot be decoded: %d, last error: %s")
        self._keyframes = _KeyframeInterval() if may_skip_frames else None
        self._interval = 0.0
        self._keyframes_only = False
        hardware, self.note = _find_hardware(hwaccel)
        open_limit = None if read_limit is None else min(OPEN_S, read_limit)
        started = time.monotonic()
        try:
            self._container = av.open(
                file,
                format=container_format,
                options=dict(options),
                timeout=(open_limit, read_limit),
                hwaccel=hardware,
                metadata_errors="replace",
            )
        except _FAILURES as error:
            if open_limit is not None and time.monotonic() - started >= open_limit:
                raise SourceLost(f"no answer within {open_limit:g} s") from None
            raise _lost(error) from None  # not chained: the text of the cause holds the URL
        try:
            self._stream = _choose_stream(self._container)
        except SourceLost:
            self.close()
            raise
        # Frame threads delay the output by one frame per thread, so live sources use slice threads.
        self._stream.thread_type = "AUTO" if read_limit is None else "SLICE"
        self._stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        if hardware is not None and not self._stream.codec_context.is_hwaccel:
            self.note = f"decodes in software: {hwaccel} cannot decode {self._stream.codec_context.name}"

    def set_interval(self, interval: float) -> bool:
        """Set the seconds between needed frames. Return True while only key frames are decoded."""
        self._interval = interval
        return self._keyframes_only

    def close(self) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[AvPicture | None]:
        """Yield frames, and None for data without one, until the end of a file. A live source ends with SourceLost."""
        last_frame = time.monotonic()
        count = 0
        for number, packet in enumerate(self._packets(), 1):
            if self._is_skipped(packet):
                yield None
                last_frame = time.monotonic()
                continue
            for frame in self._decode(packet):
                yield AvPicture(frame, self._time_of(frame, count))
                count += 1
                last_frame = time.monotonic()
            if self._limit is None:
                continue
            if not count:
                yield None
            waited = time.monotonic() - last_frame
            if waited > (self._limit if count else self._first_frame_limit(number)):
                raise SourceLost(f"sends data, but no frame for {waited:.0f} s")
        if self._limit is not None:
            raise SourceLost("the stream ended")
        if not count:
            raise ConfigError("holds no frame that can be decoded")

    def _first_frame_limit(self, packets: int) -> float:
        """Return the seconds allowed until the first frame after `packets` packets."""
        assert self._limit is not None
        return max(self._limit, FIRST_FRAME_S) if packets >= FIRST_FRAME_PACKETS else MAX_FIRST_FRAME_S

    def _packets(self) -> Iterator[av.Packet[VideoStream]]:
        packets = self._container.demux(self._stream)
        while True:
            started = time.monotonic()
            try:
                packet = next(packets, None)
            except _FAILURES as error:
                if self._limit is None:
                    log.warning("file damaged, reading stopped: %s", _describe(error))
                    return
                if time.monotonic() - started >= self._limit:
                    raise SourceLost(f"silent for {self._limit:g} s") from None
                raise _lost(error) from None
            if packet is None:
                return
            if self._limit is not None and time.monotonic() - started >= self._limit:
                raise SourceLost(f"silent for {self._limit:g} s")  # a buffered packet after the timeout, see above
            yield packet

    def _is_skipped(self, packet: av.Packet[VideoStream]) -> bool:
        """Return True when the packet is not needed. Decided at each key frame: decoding can only start there."""
        if self._keyframes is None:
            return False
        if packet.is_keyframe:
            self._keyframes.on_keyframe(time.monotonic())
            self._keyframes_only = self._keyframes.suffices(self._interval)
        else:
            self._keyframes.packets += 1
        return self._keyframes_only and not packet.is_keyframe and packet.size > 0

    def _decode(self, packet: av.Packet[VideoStream]) -> list[av.VideoFrame]:
        try:
            frames = list(packet.decode())
            if self._keyframes_only and packet.size:  # the packet at the end has flushed the decoder itself
                frames += _flush(self._stream.codec_context)
        except _FAILURES as error:
            self._undecodable.add(_describe(error))
            return []
        return [frame for frame in frames if self._can_convert(frame)]

    def _can_convert(self, frame: av.VideoFrame) -> bool:
        if self._stream.codec_context.is_hwaccel or _is_convertible(frame.format.name):
            return True
        self._undecodable.add(f"pixel format {frame.format.name} cannot be converted")
        return False

    def _time_of(self, frame: av.VideoFrame, number: int) -> float | None:
        """Return the frame's time in seconds. A file's frame without timestamp is timed by the frame rate.

        The time base is the stream's: frames flushed out of the decoder have none of their own.
        """
        if frame.pts is not None:
            return to_seconds(frame.pts, self._stream.time_base)
        rate = self._stream.guessed_rate  # `average_rate` is 25 for every file of bare H.264 or HEVC
        return to_seconds(number, 1 / rate) if self._limit is None and rate else None


class _KeyframeInterval:
    """Measures the time between a live source's key frames."""

    def __init__(self) -> None:
        self.packets = 0
        """Packets since the last key frame."""
        self._last: float | None = None
        self._gaps: deque[float] = deque(maxlen=4)

    def on_keyframe(self, now: float) -> None:
        if self._last is not None and self.packets:  # without packets in between there is nothing to skip
            self._gaps.append(now - self._last)
        self._last, self.packets = now, 0

    def suffices(self, interval: float) -> bool:
        """Return True when key frames arrive more often than one per `interval` seconds."""
        return len(self._gaps) > 0 and interval > max(self._gaps)


def _choose_stream(container: av.container.InputContainer) -> VideoStream:
    """Return the video stream that FFmpeg prefers. An attached picture is cover art, not video. Raises SourceLost."""
    videos = [one for one in container.streams.video if not one.disposition & Disposition.attached_pic]
    # PyAV's types do not say so: a stream has no codec context if there is no decoder for it.
    decodable = [one for one in videos if cast(VideoCodecContext | None, one.codec_context) is not None]
    if not decodable:
        raise SourceLost("has video of an unknown codec only" if videos else "has no video")
    best = container.streams.best("video")
    return best if isinstance(best, VideoStream) and best in decodable else decodable[0]


@cache
def _is_convertible(pixel_format: str) -> bool:
    """Return True if libswscale can convert pictures of this format in memory."""
    if pixel_format.startswith("yaf32"):
        return False  # libswscale aborts the process
    try:
        av.VideoFrame(16, 16, pixel_format).reformat(format="bgr24")
    except _FAILURES:
        return False
    return True


def to_seconds(timestamp: int, time_base: Fraction | None) -> float | None:
    """Return a timestamp in seconds, None without a valid time base."""
    return float(timestamp * time_base) if time_base is not None and time_base > 0 else None


def _find_hardware(setting: str) -> tuple[HWAccel | None, str | None]:
    """Return PyAV's decoder (None: decode in software) and a note for the user, if any.

    `setting`: an HwAccel. A device that cannot be used is not an error: the stream is decoded in software.
    """
    if setting == "none":
        return None, None
    for kind in hwdevices_available() if setting == "auto" else [setting]:
        if (problem := _hardware_problem(kind)) is None:
            return HWAccel(kind, allow_software_fallback=True), f"decodes with {kind}"
        if kind == setting:
            return None, f"decodes in software: {kind} cannot be used: {problem}"
    return None, "decodes in software: no hardware decoder found"


@cache
def _hardware_problem(kind: str) -> str | None:
    """Return why a kind of device cannot be used, or None. Opens the device, once per process."""
    if kind not in hwdevices_available():
        return "it is not in this build of FFmpeg"
    try:
        HWAccel(kind, allow_software_fallback=False).create(av.codec.Codec("h264", "r"))
    except (av.error.FFmpegError, OSError, NotImplementedError, RuntimeError) as error:
        return str(getattr(error, "strerror", None) or error).lower()
    return None


def _flush(decoder: VideoCodecContext) -> list[av.VideoFrame]:
    """Return the frames that the decoder holds, and reset it."""
    frames = decoder.decode(None)
    decoder.flush_buffers()
    return frames


def _describe(error: Exception) -> str:
    """Return libav's error text without the file name (a URL, possibly with a password) that `str` would add."""
    return getattr(error, "strerror", None) or type(error).__name__


def _lost(error: Exception) -> SourceLost:
    if isinstance(error, (av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError)):
        return SourceRefused("refused the user or password")
    if isinstance(error, ConnectionRefusedError):
        return SourceLost("connection refused: nothing listens there")
    if getattr(error, "errno", None) == errno.EIO:
        return SourceLost("the connection broke off")
    return SourceLost(_describe(error))
