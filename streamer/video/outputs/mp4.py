"""MP4 files: each is readable up to its last second while it is written, and stays so when the writer is killed."""

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
from streamer.video.outputs._base import CLOCK, EncodedFrame, H264Settings, OutputContext, Writer

if TYPE_CHECKING:
    from av.video.stream import VideoStream

    from streamer.video.outputs.muxer import Muxer

SLACK_S = 0.1


class Mp4(H264Settings):
    """Files in a folder, one after another, named by stream and time: `gate-20261123T150405.123Z.mp4`."""

    kind: Literal["mp4"] = "mp4"
    path: Path
    """The folder; it has to exist."""
    segment: Seconds = 60.0
    """A new file is begun after so long."""
    keep: Seconds = 24 * 3600.0
    """Files that are older are deleted."""
    max_bytes: Annotated[int, Field(ge=1 << 20)] | None = None
    """The oldest files are deleted when all of this output's together are larger. Default: no limit."""

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
    """Begins a file at the first key picture after `segment` seconds, and when the pictures get another size."""

    def __init__(self, settings: Mp4, view: str) -> None:
        self._settings, self._view = settings, view
        self._folder = settings.path.absolute()
        # Key pictures come every second, but not to the tick.
        self._length = (settings.segment - SLACK_S) * CLOCK
        self._template: VideoStream | None = None
        self._muxer: Muxer | None = None
        self._began = 0

    def open(self, template: VideoStream) -> None:
        self.close()
        self._template = template

    def write(self, coded: EncodedFrame) -> None:
        if self._muxer is None or (coded.key and coded.pts - self._began > self._length):
            self._next(coded.pts)
        assert self._muxer is not None
        self._muxer.mux(coded, self._began)

    def close(self) -> None:
        if self._muxer is not None:
            muxer, self._muxer = self._muxer, None
            muxer.close()

    def _next(self, pts: int) -> None:
        from streamer.video.outputs.muxer import Muxer

        self.close()
        now = datetime.now(UTC)
        self._clean(now.timestamp())
        assert self._template is not None
        name = f"{self._view}-{now:%Y%m%dT%H%M%S}.{now.microsecond // 1000:03d}Z.mp4"
        # Each picture is readable as soon as the next one is there; on a good end it becomes an ordinary file.
        options = {"movflags": "hybrid_fragmented+frag_every_frame", "flush_packets": "1"}
        self._muxer, self._began = Muxer(str(self._folder / name), "mp4", options, self._template), pts

    def _clean(self, now: float) -> None:
        """Delete what is too old or too much, of this view's files only, the oldest first."""
        files = sorted(self._files())
        total = sum(size for _, _, size in files)
        limit = self._settings.max_bytes
        for changed, path, size in files:
            if now - changed > self._settings.keep or (limit is not None and total > limit):
                path.unlink(missing_ok=True)
                total -= size

    def _files(self) -> Iterator[tuple[float, Path, int]]:
        pattern = re.compile(re.escape(self._view) + r"-\d{8}T\d{6}\.\d{3}Z\.mp4")
        for path in self._folder.iterdir():
            if pattern.fullmatch(path.name):
                with contextlib.suppress(FileNotFoundError):
                    found = path.stat()
                    yield found.st_mtime, path, found.st_size
