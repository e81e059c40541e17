"""One connection through FFmpeg (PyAV). Everything that reads pictures with it goes through `AvSource`.

Two facts of libavformat shape this file. `timeout=(open, read)` of `av.open` is the only limit that works for every
protocol; after it ran out while reading, one last buffered packet may come before the error does. And a server that
went away just ends the packets, without an error.

While nobody wants pictures as often as a live source has key frames, only those are decoded. Each of them is then
flushed out of the decoder, which would hold it back for one that never comes. All pictures again: from the next one on.
"""

from __future__ import annotations

import errno
import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping

import av
import av.error
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from streamer.capture.motion_gate import shrink
from streamer.capture.sources._hardware import find_hardware
from streamer.core.errors import ConfigError, SourceLost, SourceRefused
from streamer.core.logs import RareLog
from streamer.types import MAX_PIXELS, Image, Luma

log = logging.getLogger(__name__)

OPEN_S = 10.0
FIRST_PICTURE_S, FIRST_PICTURE_PACKETS, FIRST_PICTURE_MOST_S = 15.0, 300, 300.0
"""A camera that was joined in the middle of a group of pictures shows nothing before its next key frame: it has both so
long and so many packets, but no longer than the last."""

_LUMA_FIRST = {"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "nv12", "nv21", "gray"}
"""Formats whose first plane is the brightness, a byte for each pixel."""

_FAILURES = (av.error.FFmpegError, OSError)


class AvPicture:
    """A decoded picture, turned upright when its display matrix says so. Not converted before `write_bgr`."""

    __slots__ = ("_frame", "_turns", "pts")

    def __init__(self, frame: av.VideoFrame, pts: float | None) -> None:
        self._frame = frame
        self._turns = round(frame.rotation / 90) % 4
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
        plane = frame.planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(frame.height, plane.line_size)  # padded at the right
        image = rows[:, : 3 * frame.width].reshape(frame.height, frame.width, 3)
        out[:] = np.rot90(image, self._turns)

    def luma(self) -> Luma:
        """A small copy of its brightness; of the usual formats that is the first plane, and nothing is converted."""
        frame = self._frame
        if frame.format.name not in _LUMA_FIRST:
            frame = frame.reformat(format="gray", threads=1)
        plane = frame.planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(frame.height, plane.line_size)
        return np.ascontiguousarray(np.rot90(shrink(rows[:, : frame.width]), self._turns))


class AvSource:
    """Pictures of one connection or file. `file` may hold credentials; no error text ever does."""

    def __init__(
        self,
        file: str,
        options: Mapping[str, str],
        *,
        read_limit: float | None,
        container_format: str | None = None,
        hwaccel: str = "none",
        may_ease: bool = False,
    ) -> None:
        """`read_limit`: seconds of silence after which a live source is lost; None for a file.

        `hwaccel`: what decodes, as in `Decoded`. `may_ease`: key frames are enough where nobody wants more.
        """
        self._limit = read_limit
        self._undecodable = RareLog(log, "packets that cannot be decoded: %d, last error: %s")
        self._key_frames = _KeyFrames() if may_ease else None
        self._interval = 0.0
        self._skips = False
        hardware, self.note = find_hardware(hwaccel)
        open_limit = None if read_limit is None else min(OPEN_S, read_limit)
        started = time.monotonic()
        try:
            self._container = av.open(
                file,
                format=container_format,
                options=dict(options),
                timeout=(open_limit, read_limit),
                hwaccel=hardware,
            )
        except _FAILURES as error:
            if open_limit is not None and time.monotonic() - started >= open_limit:
                raise SourceLost(f"no answer within {open_limit:g} s") from None
            raise _lost(error) from None  # not chained: the text of the cause holds the URL
        if not self._container.streams.video:
            self.close()
            raise SourceLost("has no video")
        self._stream = self._container.streams.video[0]
        # Threads that decode whole frames hold as many of them back, which a live picture cannot afford.
        self._stream.thread_type = "AUTO" if read_limit is None else "SLICE"
        self._stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        if hardware is not None and not self._stream.codec_context.is_hwaccel:
            self.note = f"decodes in software: {hwaccel} cannot decode {self._stream.codec_context.name}"

    def set_interval(self, every: float) -> bool:
        """Nobody wants a picture more often than every so many seconds; True while only key frames are decoded."""
        self._interval = every
        return self._skips

    def close(self) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[AvPicture | None]:
        """Pictures until the end of a file; None: data without one. Raises SourceLost at the end of anything live."""
        shown = time.monotonic()
        seen = 0
        for number, packet in enumerate(self._packets(), 1):
            if self._is_left_out(packet):
                yield None
                shown = time.monotonic()
                continue
            for frame in self._decode(packet):
                yield AvPicture(frame, self._guess(seen) if frame.pts is None else frame.time)
                seen += 1
                shown = time.monotonic()
            if self._limit is None:
                continue
            if not seen:
                yield None
            waited = time.monotonic() - shown
            if waited > (self._limit if seen else self._first_limit(number)):
                raise SourceLost(f"sends data, but no picture for {waited:.0f} s")
        if self._limit is not None:
            raise SourceLost("the stream ended")
        if not seen:
            raise ConfigError("holds no picture that can be decoded")

    def _first_limit(self, packets: int) -> float:
        """Seconds for the first picture, of which so many packets have come."""
        assert self._limit is not None
        return max(self._limit, FIRST_PICTURE_S) if packets >= FIRST_PICTURE_PACKETS else FIRST_PICTURE_MOST_S

    def _packets(self) -> Iterator[av.Packet[VideoStream]]:
        packets = self._container.demux(self._stream)
        while True:
            asked = time.monotonic()
            try:
                packet = next(packets, None)
            except _FAILURES as error:
                if self._limit is None:
                    log.warning("the file ends early: %s", _words(error))
                    return
                if time.monotonic() - asked >= self._limit:
                    raise SourceLost(f"silent for {self._limit:g} s") from None
                raise _lost(error) from None
            if packet is None:
                return
            if self._limit is not None and time.monotonic() - asked >= self._limit:
                raise SourceLost(f"silent for {self._limit:g} s")  # the last buffered packet, see above
            yield packet

    def _is_left_out(self, packet: av.Packet[VideoStream]) -> bool:
        """Whether nobody wants it. Looked at anew with each key frame: nothing else can be begun with."""
        if self._key_frames is None:
            return False
        if packet.is_keyframe:
            self._key_frames.came(time.monotonic())
            self._skips = self._key_frames.suffice(self._interval)
        else:
            self._key_frames.between += 1
        return self._skips and not packet.is_keyframe and packet.size > 0

    def _decode(self, packet: av.Packet[VideoStream]) -> list[av.VideoFrame]:
        try:
            frames = list(packet.decode())
            if self._skips:
                frames += _flushed(self._stream.codec_context)
            return frames
        except _FAILURES as error:
            self._undecodable.add(_words(error))
            return []

    def _guess(self, number: int) -> float | None:
        """Media time of a file's picture that has none of its own (a bare elementary stream)."""
        rate = self._stream.average_rate
        return float(number / rate) if self._limit is None and rate else None


class _KeyFrames:
    """How far a live source's key frames are apart."""

    def __init__(self) -> None:
        self.between = 0
        """Packets since the last one."""
        self._last: float | None = None
        self._gaps: deque[float] = deque(maxlen=4)

    def came(self, now: float) -> None:
        if self._last is not None and self.between:  # else every picture is one, and nothing can be left out
            self._gaps.append(now - self._last)
        self._last, self.between = now, 0

    def suffice(self, every: float) -> bool:
        return len(self._gaps) > 0 and every > max(self._gaps)


def _flushed(decoder: VideoCodecContext) -> list[av.VideoFrame]:
    """What a decoder holds back, which then begins anew."""
    frames = decoder.decode(None)
    decoder.flush_buffers()
    return frames


def _words(error: Exception) -> str:
    """What libav says, without the file name (a URL, perhaps with a password) that `str` would add."""
    return getattr(error, "strerror", None) or type(error).__name__


def _lost(error: Exception) -> SourceLost:
    if isinstance(error, (av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError)):
        return SourceRefused("refused the user or password")
    if isinstance(error, ConnectionRefusedError):
        return SourceLost("connection refused: nothing listens there")
    if getattr(error, "errno", None) == errno.EIO:
        return SourceLost("the connection broke off")
    return SourceLost(_words(error))
