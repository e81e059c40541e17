"""H.264, once for all outputs of a view."""

from __future__ import annotations

import os
from fractions import Fraction

import av
from av.video.frame import PictureType
from av.video.stream import VideoStream

from streamer.core.errors import ConfigError
from streamer.types import Image
from streamer.video.outputs import EncodedFrame
from streamer.video.outputs._base import CLOCK

KEY_EVERY_S = 1.0
"""Bounds how long a new viewer waits, and what a killed writer loses."""
_GLOBAL_HEADER = 1 << 22
OPTIONS = {
    "libx264": {
        "preset": "veryfast",
        "tune": "zerolatency",
        "crf": "23",
        "forced-idr": "1",
        "x264-params": "scenecut=0:keyint=infinite",
    },
    "h264_nvenc": {"preset": "p4", "tune": "ll", "rc": "vbr", "cq": "23", "forced-idr": "1", "g": "9999"},
}


class Encoder:
    """Pictures of one size in, H.264 out, without delay: no picture waits for a later one."""

    def __init__(self, codec: str, width: int, height: int, rate: float) -> None:
        """Even width and height. `rate`: pictures per second, about. Raises ConfigError when it cannot be opened."""
        # A container that goes nowhere: it gives the stream that the real ones are made like.
        self._container = av.open(os.devnull, "w", format="null")
        nominal = Fraction(max(1, round(rate)))
        try:
            stream = self._container.add_stream(codec, rate=nominal, options=OPTIONS.get(codec, {}))
            assert isinstance(stream, VideoStream)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.codec_context.time_base = stream.time_base = Fraction(1, CLOCK)
            stream.codec_context.max_b_frames = 0
            stream.codec_context.flags |= _GLOBAL_HEADER
            self._container.start_encoding()
        except (av.FFmpegError, OSError, ValueError) as error:
            raise ConfigError(f"the encoder `{codec}` cannot be used here: {error}") from None
        self.template: VideoStream = stream
        """Says how the pictures are encoded, for containers."""
        self.size = width, height
        self._last = -1
        self._key_at = 0.0

    def encode(self, image: Image, at: float) -> list[EncodedFrame]:
        """One picture, uint8 (height, width, 3) BGR, of second `at` of the output's clock, which always goes on."""
        frame = av.VideoFrame.from_ndarray(image, format="bgr24")
        frame.pts = self._last = max(self._last + 1, round(at * CLOCK))
        frame.time_base = Fraction(1, CLOCK)
        if at >= self._key_at:
            frame.pict_type = PictureType.I
            self._key_at = max(self._key_at, at - KEY_EVERY_S) + KEY_EVERY_S
        return [
            EncodedFrame(
                bytes(packet),
                packet.pts or 0,
                packet.dts if packet.dts is not None else packet.pts or 0,
                packet.is_keyframe,
            )
            for packet in self.template.encode(frame)
        ]

    def close(self) -> None:
        self._container.close()
