"""HTTP Live Streaming (HLS): one-second segments and a playlist in the runtime folder, served by the web process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from streamer.video.outputs.base import H264Settings, ViewId, Writer
from streamer.video.outputs.muxer import Muxer

if TYPE_CHECKING:
    from av.video.stream import VideoStream

SEGMENTS = 6
"""Segments in the playlist, one second each."""


class Hls(H264Settings):
    """HLS, served by the web process: plays on every phone, low bandwidth, some seconds of delay."""

    SERVED = True

    kind: Literal["hls"] = "hls"

    def writer(self, runtime: Path) -> Writer:
        return HlsWriter(hls_folder(runtime, self.view))


def hls_folder(runtime: Path, view: ViewId) -> Path:
    """Return the folder of a view's `index.m3u8`, `init_1280x720.mp4`, `seg_00000.m4s` and so on."""
    return runtime / "hls" / str(view)


class HlsWriter(Muxer):
    """Writes one view's playlist and segments."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def open(self, template: VideoStream) -> None:
        self.close()
        self._folder.mkdir(parents=True, exist_ok=True)
        index, init = self._folder / "index.m3u8", f"init_{template.width}x{template.height}.mp4"
        # Same frame size as before: append to the playlist after a discontinuity mark, so that players continue.
        flags, first = "append_list", 0
        if index.exists() and f'"{init}"' not in index.read_text(errors="replace"):
            flags, first = "discont_start", self._end_list(index)
        options = {
            "hls_segment_type": "fmp4",
            "hls_time": "0.9",  # FFmpeg cuts at the first key frame after this; key frames come every second
            "hls_list_size": str(SEGMENTS),
            "hls_flags": f"delete_segments+independent_segments+program_date_time+omit_endlist+temp_file+{flags}",
            "hls_fmp4_init_filename": init,
            "hls_segment_filename": str(self._folder / "seg_%05d.m4s"),
            "start_number": str(first),
        }
        self.start(str(index), "hls", options, template)

    def _end_list(self, index: Path) -> int:
        """Remove the playlist and return the first segment number of the next one.

        FFmpeg writes one init file per playlist, so another frame size needs a new playlist.
        """
        index.unlink()
        segments = sorted(file for file in self._folder.glob("seg_*.m4s") if file.stem[4:].isdecimal())
        for old in (*segments[:-SEGMENTS], *self._folder.glob("init_*.mp4")):
            old.unlink()
        return 1 + max((int(segment.stem[4:]) for segment in segments), default=-1)
