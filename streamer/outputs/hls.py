"""HTTP Live Streaming: segments of a second and a list of them, in the runtime folder, for the web process to serve."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from streamer.outputs._base import Coded, H264Settings, OutputContext, Writer

if TYPE_CHECKING:
    from av.video.stream import VideoStream

    from streamer.outputs._mux import Muxer

SEGMENTS = 6


class Hls(H264Settings):
    """HLS, served by the web page: plays on every phone, some seconds late, with few bytes."""

    kind: Literal["hls"] = "hls"

    def writer(self, context: OutputContext) -> Writer:
        return HlsWriter(hls_folder(context.runtime, context.view))


def hls_folder(runtime: Path, view: str) -> Path:
    """Where a view's `index.m3u8`, `init.mp4` and `seg_00000.m4s` … are."""
    return runtime / "hls" / view


class HlsWriter:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._muxer: Muxer | None = None

    def open(self, template: VideoStream) -> None:
        from streamer.outputs._mux import Muxer

        self._folder.mkdir(parents=True, exist_ok=True)
        options = {
            "hls_segment_type": "fmp4",
            "hls_time": "0.9",  # it cuts at the first key picture after this, and those come every second
            "hls_list_size": str(SEGMENTS),
            # append_list: after a restart the numbers go on, behind a mark, so that players go on too.
            "hls_flags": "delete_segments+independent_segments+program_date_time+omit_endlist+temp_file+append_list",
            "hls_fmp4_init_filename": "init.mp4",
            "hls_segment_filename": str(self._folder / "seg_%05d.m4s"),
        }
        self._muxer = Muxer(str(self._folder / "index.m3u8"), "hls", options, template)

    def write(self, coded: Coded) -> None:
        assert self._muxer is not None
        self._muxer.mux(coded)

    def close(self) -> None:
        if self._muxer is not None:
            muxer, self._muxer = self._muxer, None
            muxer.close()
