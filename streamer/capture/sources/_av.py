"""One connection or file through FFmpeg (PyAV), for all sources that decode video.

Behaviour of libavformat that this file handles: only `timeout=(open, read)` of `av.open` works for every protocol;
after a read timeout it may return one more buffered packet before the error. When a server closes the connection, the
packets end without an error.

While consumers need frames less often than a live source sends key frames, only key frames are decoded. Each of them is
flushed out of the decoder, which would otherwise hold it until the next frame. Full decoding restarts at a key frame.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Protocol

import av
import av.subtitles.stream  # by `av.open` otherwise, in each process
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from streamer.capture.interfaces import Picture
from streamer.capture.sources._allowed import MAX_THREADS, Allowed
from streamer.capture.sources._failures import FAILURES, UNDECODABLE, describe, lost
from streamer.capture.sources._hwaccel import find_hardware
from streamer.capture.sources._jpeg_intake import JpegIntake
from streamer.capture.sources._picture import INTERLACED, UNSPECIFIED, AvPicture, PixelAspect, is_convertible
from streamer.capture.sources._recording import Recording, to_seconds
from streamer.capture.sources._stream_choice import choose_stream
from streamer.core.errors import SourceEnded, SourceIncomplete, SourceLost
from streamer.core.memory_limit import allow_pictures, over_limit
from streamer.core.picture_limits import MAX_PIXELS

OPEN_S = 10.0
"""Longest time for opening a live source."""
FIRST_FRAME_S, FIRST_FRAME_PACKETS, MAX_FIRST_FRAME_S = 15.0, 300, 300.0
"""Time until the first frame. A connection that starts between two key frames delivers none before the next one, so it
is lost only after both 15 s and 300 packets without a frame, or after 300 s."""


class FileObject(Protocol):
    """A file in memory, or bytes that arrive."""

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes, b"" at the end."""


class AvSource:
    """Frames of one connection or file. `file` may hold credentials; error texts never hold `file`."""

    def __init__(
        self,
        file: str | FileObject,
        options: Mapping[str, str],
        *,
        read_limit: float | None,
        container_format: str | None = None,
        allowed: Allowed,
        hwaccel: str = "none",
        may_skip_frames: bool = False,
        stream: int | None = None,
        unstated_matrix: int = UNSPECIFIED,
        keeps_jpegs: bool = False,
    ) -> None:
        """Open the connection. Raises SourceLost.

        `read_limit`: seconds of silence after which a live source is lost; None for a file. `hwaccel`: an HwAccel.
        `may_skip_frames`: decode key frames only while `set_interval` allows it. `stream`: index of the video stream;
        None: the largest.
        `unstated_matrix`: colour matrix (AVColorSpace) of pictures that state none; default: by their size.
        `keeps_jpegs`: JPEG pictures are decoded when they are fetched. Only for containers that neither turn nor scale.
        """
        self._limit = read_limit
        self._undecodable = self._damaged = 0
        self._keyframes = _KeyframeInterval() if may_skip_frames else None
        self._interval = 0.0
        self._keyframes_only = False
        hardware, hardware_note = find_hardware(hwaccel)
        open_limit = None if read_limit is None else min(OPEN_S, read_limit)
        started = time.monotonic()
        try:
            self._container = av.open(
                file,
                "r",
                format=container_format,
                options={**allowed.options(), **options},
                timeout=(open_limit, read_limit),
                hwaccel=hardware,
                metadata_errors="replace",
            )
        except FAILURES as error:
            if open_limit is not None and time.monotonic() - started >= open_limit:
                raise SourceLost(f"no answer within {open_limit:g} s") from None
            raise lost(error, opening=container_format is None) from None  # unchained: the cause's text holds the URL
        try:
            self._stream, choice_note = choose_stream(self._container, allowed, stream)
            allowed.check_codec(self._stream.codec_context.codec.canonical_name)
        except SourceLost:
            self.close()
            raise
        # Frame threads delay the output by one frame per thread, so live sources use slice threads.
        self._stream.thread_type = "AUTO" if read_limit is None else "SLICE"
        self._stream.codec_context.thread_count = min(MAX_THREADS, os.cpu_count() or 1)
        self._stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        allow_pictures(self._stream.codec_context.width * self._stream.codec_context.height)
        if hardware is not None and not self._stream.codec_context.is_hwaccel:
            hardware_note = f"decodes in software: {hwaccel} cannot decode {self._stream.codec_context.name}"
        self._notes = [note for note in (hardware_note, choice_note) if note is not None]
        self._pixel_aspect = PixelAspect(self._stream)
        keeps_jpegs = keeps_jpegs and hardware is None and self._stream.codec_context.name == "mjpeg"
        self._jpegs = JpegIntake() if keeps_jpegs else None
        self._recording = Recording.of(self._container, self._stream) if read_limit is None else None
        self._unstated_matrix = unstated_matrix

    @property
    def note(self) -> str | None:
        return "; ".join(self._notes) or None

    def set_interval(self, interval: float) -> bool:
        """Set the seconds between needed frames. Return True while only key frames are decoded."""
        self._interval = interval
        return self._keyframes_only

    def close(self) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[Picture | None]:
        """Yield frames, and None for data without one, until the end of a file. A live source ends with SourceLost.

        A file of which a part was missing or damaged ends with SourceEnded.
        """
        last_frame = time.monotonic()
        count = 0
        for number, packet in enumerate(self._packets(), 1):
            if self._is_skipped(packet):
                yield None
                last_frame = time.monotonic()
                continue
            for picture in self._pictures(packet):
                yield picture
                count += 1
                last_frame = time.monotonic()
            if self._limit is None:
                continue
            if not count:
                yield None
            waited = time.monotonic() - last_frame
            if waited > (self._limit if count else self._first_frame_limit(number)):
                raise SourceLost(f"sends data, but no frame for {waited:.0f} s")
        if self._recording is None:
            raise SourceLost("the stream ended" if count else "the stream ended without a picture that can be decoded")
        if not count:
            raise SourceLost("holds no frame that can be decoded")
        self._check_whole(self._recording.missing)

    def _check_whole(self, missing: str | None) -> None:
        """Raise SourceIncomplete if the file ended early, SourceEnded if a part of it was damaged."""
        reasons = [missing] if missing else []
        if self._undecodable:
            reasons.append(f"packets that could not be decoded: {self._undecodable}")
        if self._damaged:
            reasons.append(f"damaged frames: {self._damaged}")
        if reasons:
            raise (SourceIncomplete if missing else SourceEnded)("; ".join(reasons))

    def _first_frame_limit(self, packets: int) -> float:
        """Return the seconds allowed until the first frame after `packets` packets."""
        assert self._limit is not None
        return max(self._limit, FIRST_FRAME_S) if packets >= FIRST_FRAME_PACKETS else MAX_FIRST_FRAME_S

    def _packets(self) -> Iterator[av.Packet[VideoStream]]:
        packets = _demux(self._container, self._stream)
        if self._recording is not None:
            return self._recording.read(packets)
        assert self._limit is not None
        return self._live_packets(packets, self._limit)

    def _live_packets(
        self, packets: Iterator[av.Packet[VideoStream]], limit: float
    ) -> Iterator[av.Packet[VideoStream]]:
        while True:
            started = time.monotonic()
            try:
                packet = next(packets, None)
            except FAILURES as error:
                if time.monotonic() - started >= limit:
                    raise SourceLost(f"silent for {limit:g} s") from None
                raise lost(error) from None
            if packet is None:
                return
            if time.monotonic() - started >= limit:
                raise SourceLost(f"silent for {limit:g} s")  # a buffered packet after the timeout, see above
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

    def _pictures(self, packet: av.Packet[VideoStream]) -> Iterator[Picture]:
        if self._jpegs is not None and packet.size:
            picture = self._jpegs.take(bytes(packet), self._time_of(packet), time.monotonic())
            if picture is not None:
                yield picture
            return
        for frame in self._decode(packet):
            self._damaged += frame.is_corrupt
            if frame.colorspace == UNSPECIFIED:
                frame.colorspace = self._unstated_matrix
            if frame.interlaced_frame and INTERLACED not in self._notes:
                self._notes.append(INTERLACED)
            yield AvPicture(frame, self._time_of(frame), self._pixel_aspect.current())

    def _decode(self, packet: av.Packet[VideoStream]) -> list[av.VideoFrame]:
        try:
            frames = list(packet.decode())
            if self._keyframes_only and packet.size:  # the packet at the end has flushed the decoder itself
                frames += _flush(self._stream.codec_context)
        except (MemoryError, BlockingIOError):  # no memory, or none for a thread of the decoder
            raise SourceLost(over_limit()) from None
        except FAILURES as error:
            self._undecodable += 1
            UNDECODABLE.add(describe(error))
            return []
        return [frame for frame in frames if self._can_convert(frame)]

    def _can_convert(self, frame: av.VideoFrame) -> bool:
        if self._stream.codec_context.is_hwaccel or is_convertible(frame.format.name):
            return True
        self._undecodable += 1
        UNDECODABLE.add(f"pixel format {frame.format.name} cannot be converted")
        return False

    def _time_of(self, frame: av.VideoFrame | av.Packet[VideoStream]) -> float | None:
        """Return the time in seconds of a frame or packet.

        The time base is the stream's: frames flushed out of the decoder have none of their own.
        """
        seconds = to_seconds(frame.pts, self._stream.time_base)
        return seconds if self._recording is None else self._recording.time_of(seconds)


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


def _demux(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet[VideoStream]]:
    try:
        yield from container.demux(stream)
    except IndexError:
        return  # raised by PyAV after the last packet if streams have appeared since the start, as in damaged MPEG-TS


def _flush(decoder: VideoCodecContext) -> list[av.VideoFrame]:
    """Return the frames that the decoder holds, and reset it."""
    frames = decoder.decode(None)
    decoder.flush_buffers()
    return frames
