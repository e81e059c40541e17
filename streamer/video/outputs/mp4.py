"""MP4 files. A file is playable up to its last second while it is written, also after the writer was killed."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from streamer.core.errors import ConfigError
from streamer.core.settings import Seconds
from streamer.video.outputs._base import CLOCK_HZ, EncodedFrame, H264Settings, OutputContext, ViewId, Writer

if TYPE_CHECKING:
    from av.video.stream import VideoStream

    from streamer.video.outputs.muxer import Muxer

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
            raise ConfigError(f"output {self.label}: no such folder: {folder}")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ConfigError(f"output {self.label}: no permission to write in {folder}")

    def writer(self, context: OutputContext) -> Writer:
        return Mp4Writer(self, context.view)


class Mp4Writer:
    """Starts a new file at the first key frame after `segment` seconds, and when the frame size changes."""

    def __init__(self, settings: Mp4, view: ViewId) -> None:
        self._settings, self._view = settings, view
        self._folder = settings.path.absolute()
        self._length = (settings.segment - SLACK_S) * CLOCK_HZ
        self._template: VideoStream | None = None
        self._muxer: Muxer | None = None
        self._start_pts = 0

    def open(self, template: VideoStream) -> None:
        self.close()
        self._template = template

    def write(self, encoded: EncodedFrame) -> None:
        if self._muxer is None or (encoded.key and encoded.pts - self._start_pts > self._length):
            self._start_file(encoded.pts)
        assert self._muxer is not None
        self._muxer.mux(encoded, self._start_pts)

    def close(self) -> None:
        if self._muxer is not None:
            muxer, self._muxer = self._muxer, None
            muxer.close()

    def _start_file(self, pts: int) -> None:
        from streamer.video.outputs.muxer import Muxer

        self.close()
        now = datetime.now(UTC)
        self._delete_old(now.timestamp())
        assert self._template is not None
        name = f"{self._view}-{now:%Y%m%dT%H%M%S}.{now.microsecond // 1000:03d}Z.mp4"
        # One fragment per frame, flushed at once; a normal close turns the file into an ordinary MP4.
        options = {"movflags": "hybrid_fragmented+frag_every_frame", "flush_packets": "1"}
        self._muxer, self._start_pts = Muxer(str(self._folder / name), "mp4", options, self._template), pts

    def _delete_old(self, now: float) -> None:
        """Delete this view's files over the age or size limit, oldest first."""
        files = sorted(self._files())
        total = sum(size for _, _, size in files)
        limit = self._settings.max_bytes
        for modified, path, size in files:
            if now - modified > self._settings.keep or (limit is not None and total > limit):
                path.unlink(missing_ok=True)
                total -= size

    def _files(self) -> Iterator[tuple[float, Path, int]]:
        """Yield modification time, path and size of this view's files."""
        pattern = re.compile(re.escape(str(self._view)) + r"-\d{8}T\d{6}\.\d{3}Z\.mp4")
        for path in self._folder.iterdir():
            if pattern.fullmatch(path.name):
                with contextlib.suppress(FileNotFoundError):
                    found = path.stat()
                    yield found.st_mtime, path, found.st_size
