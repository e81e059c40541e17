"""Writes encoded frames into a container format."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING

import av

from streamer.video.outputs._base import CLOCK_HZ, EncodedFrame

if TYPE_CHECKING:
    from av.video.stream import VideoStream


class Muxer:
    """One open container. Every call may raise av.FFmpegError; disk errors are also OSErrors."""

    def __init__(self, file: str, container_format: str, options: Mapping[str, str], template: VideoStream) -> None:
        self._container = av.open(file, "w", format=container_format, options=dict(options))
        self._stream = self._container.add_stream_from_template(template)

    def mux(self, encoded: EncodedFrame, start_pts: int = 0) -> None:
        """Write one frame. `start_pts`: frame time that becomes the container's time 0, in ticks of 1/`CLOCK_HZ` s."""
        packet = av.Packet(encoded.data)
        packet.stream = self._stream
        packet.time_base = Fraction(1, CLOCK_HZ)
        packet.pts, packet.dts = encoded.pts - start_pts, encoded.dts - start_pts
        packet.is_keyframe = encoded.key
        self._container.mux(packet)

    def close(self) -> None:
        self._container.close()
