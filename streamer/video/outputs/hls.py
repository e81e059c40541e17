"""HTTP Live Streaming: segments of a second and a list of them, in the runtime folder, for the web process to serve."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from streamer.video.outputs._base import EncodedFrame, H264Settings, OutputContext, Writer

if TYPE_CHECKING:
    from av.video.stream import VideoStream

    from streamer.video.outputs.muxer import Muxer

SEGMENTS = 6


class Hls(H264Settings):
    """HLS, served by the web page: plays on every phone, some seconds late, with few bytes."""

    SERVED = True

    kind: Literal["hls"] = "hls"

    def writer(self, context: OutputContext) -> Writer:
        return HlsWriter(hls_folder(context.runtime, context.view))


def hls_folder(runtime: Path, view: str) -> Path:
    """Where a view's `index.m3u8`, `init_1280x720.mp4` and `seg_00000.m4s` … are."""
    return runtime / "hls" / view


class HlsWriter:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._muxer: Muxer | None = None

    def open(self, template: VideoStream) -> None:
        from streamer.video.outputs.muxer import Muxer

        self.close()
        self._folder.mkdir(parents=True, exist_ok=True)
        index, init = self._folder / "index.m3u8", f"init_{template.width}x{template.height}.mp4"
        # With the same pictures as before the list and its numbers go on behind a mark, so that players go on too.
        flags, first = "append_list", 0
        if index.exists() and f'"{init}"' not in index.read_text():
            flags, first = "discont_start", self._end_list(index)
        options = {
            "hls_segment_type": "fmp4",
            "hls_time": "0.9",  # it cuts at the first key picture after this, and those come every second
            "hls_list_size": str(SEGMENTS),
            "hls_flags": f"delete_segments+independent_segments+program_date_time+omit_endlist+temp_file+{flags}",
            "hls_fmp4_init_filename": init,
            "hls_segment_filename": str(self._folder / "seg_%05d.m4s"),
            "start_number": str(first),
        }
        self._muxer = Muxer(str(index), "hls", options, template)

    def write(self, coded: EncodedFrame) -> None:
        assert self._muxer is not None
        self._muxer.mux(coded)

    def close(self) -> None:
        if self._muxer is not None:
            muxer, self._muxer = self._muxer, None
            muxer.close()

    def _end_list(self, index: Path) -> int:
        """FFmpeg's lists have one init file, so pictures of another size need a new list; gives its first number."""
        index.unlink()
        segments = sorted(self._folder.glob("seg_*.m4s"))
        for old in (*segments[:-SEGMENTS], *self._folder.glob("init_*.mp4")):
            old.unlink()
        return 1 + max((int(segment.stem[4:]) for segment in segments), default=-1)
