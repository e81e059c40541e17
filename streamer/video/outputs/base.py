"""Interfaces and base settings that every kind of output shares."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from streamer.core.errors import ConfigError
from streamer.core.settings import Name, Settings

if TYPE_CHECKING:
    from av.video.stream import VideoStream

CLOCK_HZ = 90_000
"""Ticks per second of `EncodedFrame` times, the clock rate of H.264 in RTP and MPEG."""
_SYNC = "+sync"
"""Suffix of a synchronised view's name. A stream's name cannot contain `+`."""


@dataclass(frozen=True, slots=True)
class ViewId:
    """One annotated rendering of a stream. `str()` gives its name in URLs, sockets, folders and process names."""

    stream: str
    sync: bool = False
    """The video is delayed so that each frame that the model saw carries its own boxes."""

    def __str__(self) -> str:
        return self.stream + _SYNC if self.sync else self.stream

    @classmethod
    def parse(cls, name: str) -> ViewId:
        """Return the view with that name; the inverse of `str()`."""
        return cls(name.removesuffix(_SYNC), name.endswith(_SYNC))


@dataclass(frozen=True, slots=True)
class EncodedFrame:
    """One H.264 frame in Annex B format."""

    data: bytes
    pts: int
    """Time in ticks of 1/`CLOCK_HZ` s of the view's own clock. Strictly increasing: no frame refers to a later one."""
    key: bool


class Writer(Protocol):
    """Writes the encoded frames of one view. Runs in the view process.

    Any call may raise OSError; the caller then closes the writer and opens it again later.
    """

    def open(self, template: VideoStream) -> None:
        """Start, or start over. The next frame is a key frame, encoded with the parameters of `template`."""

    def write(self, encoded: EncodedFrame) -> None: ...

    def close(self) -> None:
        """Finish the output. Does nothing when it is not open."""


class OutputSettings(Settings):
    """A kind of output, as configured; its own factory."""

    SERVED: ClassVar[bool] = False
    """The web process serves it; without `web:` in the config it cannot be watched."""

    kind: str
    stream: Name
    """The stream that is shown."""
    sync: bool = False
    """Delay the video so that each frame that the model saw carries its own boxes. Default: no delay."""
    name: Name | None = None
    """Name of the output in status events, unique. Default: stream and kind, for example `gate-mp4`."""

    @property
    def label(self) -> str:
        """Name in events, process names and socket names."""
        return self.name or f"{self.stream}-{self.kind}{'-sync' if self.sync else ''}"

    @property
    def view(self) -> ViewId:
        """The view whose frames this output takes."""
        return ViewId(self.stream, self.sync)

    def check(self) -> None:
        """Raise ConfigError when the output cannot work. Called before anything starts; changes nothing."""

    def writer(self, runtime: Path) -> Writer | None:
        """Return the writer for the view's H.264 frames, or None when the output needs none.

        `runtime`: the agent's folder of sockets and temporary files.
        """
        return None


class H264Settings(OutputSettings):
    """An output of encoded video. All outputs of one view share one encoder."""

    DEFAULT_ENCODER: ClassVar[str] = "libx264"
    encoder: str = DEFAULT_ENCODER
    """FFmpeg's name of an H.264 encoder, such as `libx264` or `h264_nvenc`; the same for all outputs of a view."""

    def check(self) -> None:
        from av.codec.codec import Codec, UnknownCodecError

        try:
            found = Codec(self.encoder, "w")
        except UnknownCodecError:
            raise ConfigError(f"output {self.label}: this FFmpeg has no encoder `{self.encoder}`") from None
        if found.canonical_name != "h264":
            raise ConfigError(f"output {self.label}: `{self.encoder}` is not an H.264 encoder")


def outputs_by_view(outputs: Iterable[OutputSettings]) -> dict[ViewId, list[OutputSettings]]:
    """Group outputs by the view whose frames they take."""
    views: dict[ViewId, list[OutputSettings]] = {}
    for output in outputs:
        views.setdefault(output.view, []).append(output)
    return views
