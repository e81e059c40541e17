"""Putting encoded pictures into a container."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING

import av

from streamer.video.outputs._base import CLOCK, EncodedFrame

if TYPE_CHECKING:
    from av.video.stream import VideoStream


class Muxer:
    """One container being written. Any call may raise av.FFmpegError, an OSError where the disk is the cause."""

    def __init__(self, file: str, container_format: str, options: Mapping[str, str], template: VideoStream) -> None:
        self._container = av.open(file, "w", format=container_format, options=dict(options))
        self._stream = self._container.add_stream_from_template(template)

    def mux(self, coded: EncodedFrame, begin: int = 0) -> None:
        """Write one picture; `begin`: its clock's value that is the container's zero."""
        packet = av.Packet(coded.data)
        packet.stream = self._stream
        packet.time_base = Fraction(1, CLOCK)
        packet.pts, packet.dts = coded.pts - begin, coded.dts - begin
        packet.is_keyframe = coded.key
        self._container.mux(packet)

    def close(self) -> None:
        self._container.close()
