"""What a kind of output is given, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from streamer.core.errors import ConfigError
from streamer.core.settings import Name, Settings

if TYPE_CHECKING:
    from av.video.stream import VideoStream

CLOCK = 90_000
"""Ticks per second of `EncodedFrame` times."""
SYNC = "+sync"
"""Ends the name of a view that delays its video; no stream's name can hold it."""


@dataclass(frozen=True, slots=True)
class EncodedFrame:
    """One H.264 picture in Annex B."""

    data: bytes
    pts: int
    """In ticks of 1/`CLOCK` s of the view's own clock, which always advances."""
    dts: int
    key: bool


class Writer(Protocol):
    """Takes the pictures of one view, in its process. Any call may raise OSError: then it is opened again."""

    def open(self, template: VideoStream) -> None:
        """Begin, or begin anew: from the next picture on, a key picture, they are encoded as `template` says."""

    def write(self, coded: EncodedFrame) -> None: ...

    def close(self) -> None:
        """End in good order. Harmless when it is not open."""


@dataclass(frozen=True, slots=True)
class OutputContext:
    """What an output may need of the process it runs in."""

    runtime: Path
    view: str


class OutputSettings(Settings):
    """A kind of output, as configured; its own factory."""

    SERVED: ClassVar[bool] = False
    """Reaches its viewers through the web process, and nobody without it."""

    kind: str
    stream: Name
    """The stream that is shown."""
    sync: bool = False
    """Delay the video so that each picture that the model saw carries its own boxes. Default: no delay."""
    name: Name | None = None
    """Name of the output in status events, unique. Default: such as `gate-mp4`."""

    @property
    def label(self) -> str:
        """Its name in events, process and socket names."""
        return self.name or f"{self.stream}-{self.kind}{'-sync' if self.sync else ''}"

    @property
    def view(self) -> str:
        """The view whose pictures it takes."""
        return self.stream + SYNC if self.sync else self.stream

    def check(self) -> None:
        """Raise ConfigError when it is already clear that the output cannot work. Leaves no trace."""

    def writer(self, context: OutputContext) -> Writer | None:
        """What takes the view's H.264 pictures; None when the output needs none."""
        return None


class H264Settings(OutputSettings):
    """An output of encoded video. All outputs of one view share one encode."""

    DEFAULT_ENCODER: ClassVar[str] = "libx264"
    encoder: str = DEFAULT_ENCODER
    """An H.264 encoder of FFmpeg, such as `libx264` or `h264_nvenc`; the same for all outputs of a view."""

    def check(self) -> None:
        from av.codec.codec import Codec, UnknownCodecError

        try:
            found = Codec(self.encoder, "w")
        except UnknownCodecError:
            raise ConfigError(f"output {self.label}: this FFmpeg has no encoder `{self.encoder}`") from None
        if found.canonical_name != "h264":
            raise ConfigError(f"output {self.label}: `{self.encoder}` is no encoder for H.264")


def stream_of(view: str) -> str:
    """The stream that a view shows."""
    return view.removesuffix(SYNC)
