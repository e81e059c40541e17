"""Writes encoded frames into a container format."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Protocol

from streamer.video.outputs.base import CLOCK_HZ, EncodedFrame

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream


class Writable(Protocol):
    """A target that is no file."""

    def write(self, data: bytes, /) -> int: ...


class Muxer:
    """Writes one container at a time. Every call may raise av.FFmpegError; disk errors are also OSErrors."""

    def __init__(self) -> None:
        self._container: OutputContainer | None = None
        self.start_pts = 0

    @property
    def is_open(self) -> bool:
        return self._container is not None

    def start(
        self,
        file: str | Writable,
        container_format: str,
        options: Mapping[str, str],
        template: VideoStream,
        start_pts: int = 0,
    ) -> None:
        """Close the container and open another one. `start_pts`: frame time that becomes its time 0."""
        import av  # here, because every command imports the settings of the outputs

        self.close()
        self._container = av.open(file, "w", format=container_format, options=dict(options))
        self._container.add_stream_from_template(template)
        self.start_pts = start_pts

    def write(self, encoded: EncodedFrame) -> None:
        import av

        assert self._container is not None
        packet = av.Packet(encoded.data)
        packet.stream = self._container.streams.video[0]
        packet.time_base = Fraction(1, CLOCK_HZ)
        packet.pts = packet.dts = encoded.pts - self.start_pts
        packet.is_keyframe = encoded.key
        self._container.mux(packet)

    def close(self) -> None:
        """Finish the container. Does nothing when none is open."""
        if self._container is not None:
            container, self._container = self._container, None
            container.close()
