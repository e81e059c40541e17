"""MP4 files. A file is playable up to its last second while it is written, also after the writer was killed."""

from __future__ import annotations

import contextlib
import math
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from streamer.core.errors import ConfigError
from streamer.core.settings import Seconds, variable_hint
from streamer.video.outputs.base import CLOCK_HZ, EncodedFrame, H264Settings, Writer
from streamer.video.outputs.muxer import Muxer

if TYPE_CHECKING:
    from av.video.stream import VideoStream

SLACK_S = 0.1
"""A new file may start this much early: key frames come once a second, but not to the tick."""


class Mp4(H264Settings):
    """Consecutive files in a folder, named by view and start time: `gate-20261123T150405.123Z.mp4`."""

    kind: Literal["mp4"] = "mp4"
    path: Path
    """The folder. It must exist."""
    segment: Seconds = 60.0
    """Length of a file."""
    keep: Seconds = 24 * 3600.0
    """Older files of this output are deleted."""
    max_bytes: Annotated[int, Field(ge=1 << 20)] | None = None
    """Size limit of all files of this output together; the oldest are deleted first. Default: no limit."""

    def check(self) -> None:
        super().check()
        folder = self.path.absolute()
        if not folder.is_dir():
            raise ConfigError(f"output {self.label}: no such folder: {folder}{variable_hint(folder)}")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ConfigError(f"output {self.label}: no permission to write in {folder}")

    def writer(self, runtime: Path) -> Writer:
        return Mp4Writer(self)


class Mp4Writer(Muxer):
    """Starts a new file at the first key frame after `segment` seconds, and when the frame size changes."""

    def __init__(self, settings: Mp4) -> None:
        super().__init__()
        self._settings = settings
        self._folder = settings.path.absolute()
        self._length = (settings.segment - SLACK_S) * CLOCK_HZ
        self._template: VideoStream | None = None

    def open(self, template: VideoStream) -> None:
        self.close()
        self._template = template

    def write(self, encoded: EncodedFrame) -> None:
        if not self.is_open or (encoded.key and encoded.pts - self.start_pts > self._length):
            self._start_file(encoded.pts)
        super().write(encoded)

    def _start_file(self, pts: int) -> None:
        self.close()
        now = datetime.now(UTC)
        self._delete_old(now.timestamp())
        assert self._template is not None
        name = f"{self._settings.view}-{now:%Y%m%dT%H%M%S}.{now.microsecond // 1000:03d}Z.mp4"
        # One fragment per frame, flushed at once; a normal close turns the file into an ordinary MP4.
        options = {"movflags": "hybrid_fragmented+frag_every_frame", "flush_packets": "1"}
        self.start(str(self._folder / name), "mp4", options, self._template, pts)

    def _delete_old(self, now: float) -> None:
        """Delete this view's files over the age or size limit: the newest files within both limits are kept."""
        total = 0
        # The pattern has the length of the name, so it matches no file of a view whose name begins like this one's.
        for path in sorted(self._folder.glob(f"{self._settings.view}-????????T??????.???Z.mp4"), reverse=True):
            with contextlib.suppress(FileNotFoundError):
                found = path.stat()
                total += found.st_size
                if now - found.st_mtime > self._settings.keep or total > (self._settings.max_bytes or math.inf):
                    path.unlink()
