"""A video file."""

from __future__ import annotations

from contextlib import suppress
from os import SEEK_CUR
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, ValidationInfo

from streamer.capture.interfaces import Source
from streamer.capture.sources._allowed import FILE, Allow
from streamer.capture.sources._fields import HwAccel, StreamIndex, hardware_devices
from streamer.core.errors import SourceLost
from streamer.core.landlock import Rules
from streamer.core.settings import Settings, variable_hint, was_checked
from streamer.types import Pace


def _check_exists(path: Path, info: ValidationInfo) -> Path:
    path = path.expanduser()
    if was_checked(info):
        return path
    if not path.exists():
        raise ValueError(f"no such file: {path}{variable_hint(path)}")
    if not path.is_file():
        raise ValueError(f"not a file: {path}")
    return path


_NO_INDEX = "an MP4 without its index (`moov`), which is written last: it was cut off, or is still being written"
_FIRST_BOXES = (b"ftyp", b"wide", b"mdat", b"free")
"""Boxes that begin an MP4 or QuickTime file whose index is at the end."""
_MAX_BOXES = 10_000


def _lacks_index(path: Path) -> bool:
    """Return True for an MP4 file that has no box `moov`."""
    with suppress(OSError), path.open("rb") as file:
        for number in range(_MAX_BOXES):
            head = file.read(16)
            size, kind = int.from_bytes(head[:4]), head[4:8]
            if number == 0 and kind not in _FIRST_BOXES:
                return False
            if len(head) < 8 or size == 0:
                return True
            if kind == b"moov":
                return False
            size = int.from_bytes(head[8:]) if size == 1 else size
            if size < 8:
                return False
            file.seek(size - len(head), SEEK_CUR)
    return False


class File(Settings):
    """A video file, read once, as fast as its tasks run. No frame that a task needs is skipped."""

    pace: ClassVar[Pace] = "file"
    modules: ClassVar[tuple[str, ...]] = ("streamer.capture.sources._av",)
    kind: Literal["file"] = "file"
    path: Annotated[Path, AfterValidator(_check_exists)]
    hwaccel: HwAccel = "none"
    """Hardware decoder: `none` (decode on the CPU), `auto` (the first that works), or a kind of device."""
    stream: StreamIndex | None = None
    """Index of the video stream to read, as `ffprobe` shows it. Default: the largest one."""
    strict: bool = False
    """The agent exits with 1 at its end if this file ended earlier than it states. `stream.ended` says so anyway."""
    allow: Allow = Field([])
    """Codecs and containers to decode beyond the usual ones, by FFmpeg's names."""

    def open(self, read_limit: float = 15.0) -> Source:
        from streamer.capture.sources._av import AvSource

        try:
            # "file:" prevents libav from parsing a name with a colon as a protocol.
            return AvSource(
                f"file:{self.path}",
                {"protocol_whitelist": "file"},
                read_limit=None,
                allowed=FILE.extended(self.allow),
                hwaccel=self.hwaccel,
                stream=self.stream,
            )
        except SourceLost as error:
            reason = _NO_INDEX if _lacks_index(self.path) else error
            raise SourceLost(f"cannot read {self.path} as a video: {reason}") from None

    def needs(self) -> Rules:
        """Return what a confined process needs to read the file."""
        return Rules(read=[self.path], devices=hardware_devices(self.hwaccel))
