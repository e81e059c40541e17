"""H.264 encoder, one per view, shared by all its outputs."""

from __future__ import annotations

import os
from fractions import Fraction

import av
from av.codec.context import Flags
from av.video.frame import PictureType
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter
from av.video.stream import VideoStream

from streamer.core.errors import OutputError
from streamer.core.picture_limits import HD_LINES
from streamer.types import Image
from streamer.video.outputs.base import CLOCK_HZ, EncodedFrame

KEY_INTERVAL_S = 1.0
"""Interval of key frames. It limits the wait of a new viewer and the loss when a writer is killed."""
MAX_SIDE = 16_384
"""Largest width and height that encoders of H.264 take."""
ENCODER_OPTIONS = {
    "libx264": {
        "preset": "veryfast",
        "tune": "zerolatency",
        "crf": "23",
        "forced-idr": "1",
        "x264-params": "scenecut=0:keyint=infinite",
    },
    "h264_nvenc": {"preset": "p4", "tune": "ll", "rc": "vbr", "cq": "23", "forced-idr": "1", "g": "9999"},
}
"""FFmpeg options by encoder: low delay, constant quality, key frames only where `encode` requests them."""

_STATED_MATRIX = {Colorspace.ITU709: 1, Colorspace.ITU601: 6}
"""Number of a colour matrix in H.264 (AVCOL_SPC_BT709, AVCOL_SPC_SMPTE170M); libswscale has numbers of its own."""


class Encoder:
    """Encodes images of one size as H.264 without delay: no frame waits for a later one."""

    def __init__(self, codec: str, width: int, height: int, fps: float) -> None:
        """`width`, `height`: even. `fps`: approximate frame rate. Raises OutputError when it cannot be opened."""
        if max(width, height) > MAX_SIDE:
            raise OutputError(f"pictures of {width}x{height} pixels: H.264 has at most {MAX_SIDE} pixels a side")
        self._matrix = Colorspace.ITU709 if height >= HD_LINES else Colorspace.ITU601
        self._to_yuv = VideoReformatter()
        # A container without a file: only a container can create the stream that is the template for the real ones.
        self._container = av.open(os.devnull, "w", format="null")
        self.codec = codec
        try:
            stream = self._container.add_stream(codec, max(1, round(fps)), ENCODER_OPTIONS.get(codec, {}))
            assert isinstance(stream, VideoStream)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.codec_context.time_base = stream.time_base = Fraction(1, CLOCK_HZ)
            stream.codec_context.max_b_frames = 0
            self._state_colours(stream)
            stream.codec_context.flags |= Flags.global_header  # codec parameters in the header, not in each key frame
            self._container.start_encoding()
        except (av.FFmpegError, OSError, ValueError) as error:
            self._container.close()
            raise OutputError(
                f"encoder `{codec}` cannot be opened for pictures of {width}x{height} pixels{_cause(error)}"
            ) from None
        self.template: VideoStream = stream
        """Codec parameters, for the containers."""
        self.size = width, height
        self._last_pts = -1
        self._key_at: float | None = None
        """Time of the next key frame; None before the first frame, from which the interval counts."""

    def _state_colours(self, stream: VideoStream) -> None:
        """Write into the video how its colours are coded. A player that does not read it assumes the same by size."""
        codec = stream.codec_context
        codec.colorspace = _STATED_MATRIX[self._matrix]
        codec.color_range = ColorRange.MPEG
        codec.color_primaries = ColorPrimaries.BT709
        codec.color_trc = ColorTrc.BT709

    def encode(self, image: Image, at: float) -> list[EncodedFrame]:
        """Encode one image, uint8 (height, width, 3) BGR, shown at second `at` of the output's clock.

        Raises OutputError.
        """
        try:
            frame = self._to_yuv.reformat(
                av.VideoFrame.from_ndarray(image, format="bgr24"),
                format="yuv420p",
                dst_colorspace=self._matrix,
                dst_color_range=ColorRange.MPEG,
                threads=self.template.codec_context.thread_count,
            )
            frame.pts = self._last_pts = max(self._last_pts + 1, round(at * CLOCK_HZ))
            frame.time_base = Fraction(1, CLOCK_HZ)
            if self._key_at is None or at >= self._key_at:
                frame.pict_type = PictureType.I
                due = at if self._key_at is None else max(self._key_at, at - KEY_INTERVAL_S)
                self._key_at = due + KEY_INTERVAL_S
            packets = self.template.encode(frame)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise OutputError(f"encoder `{self.codec}` failed{_cause(error)}") from None
        return [EncodedFrame(bytes(packet), packet.pts or 0, packet.is_keyframe) for packet in packets]

    def close(self) -> None:
        self._container.close()


def _cause(error: Exception) -> str:
    """Return FFmpeg's words for the error number, to be appended to a message; empty if there are none."""
    words = getattr(error, "strerror", None)
    return f": {words.lower()}" if words else ""
