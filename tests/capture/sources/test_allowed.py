"""FFmpeg opens only the usual containers and codecs, and decodes no video while it probes."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import av
import pytest
from av.video.stream import VideoStream
from pydantic import ValidationError

from streamer.capture.sources import File, Rtsp, _allowed
from streamer.core.errors import SourceLost
from tests.support import bombs
from tests.support.clips import numbered, write_clip
from tests.support.fuzzing import SDP, TalkServer, read_head

MAX_MB = 300
"""Memory that a refused input may take at most, with Python and the libraries."""


def write_frames(path: Path, codec: str, pixel_format: str, streams: int = 1) -> Path:
    with av.open(str(path), "w") as container:
        tracks = [cast(VideoStream, container.add_stream(codec, rate=10)) for _ in range(streams)]
        for track in tracks:
            track.width, track.height, track.pix_fmt = 64, 48, pixel_format
        for track in tracks:
            frame = av.VideoFrame.from_ndarray(numbered(1, 64, 48), format="bgr24")
            container.mux(track.encode(frame))
            container.mux(track.encode(None))
    return path


def test_unusual_codec_needs_to_be_allowed(tmp_path: Path) -> None:
    path = write_frames(tmp_path / "film.avi", "magicyuv", "gbrp")
    with pytest.raises(SourceLost, match=r"codec magicyuv is not allowed by default.*`allow: \[magicyuv\]`"):
        File(path=path).open()
    source = File(path=path, allow=["magicyuv"]).open()
    assert len(list(source)) == 1
    source.close()


def test_unusual_container_needs_to_be_allowed(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", pictures=3)
    path = tmp_path / "list.txt"
    path.write_text("ffconcat version 1.0\nfile clip.mp4\n")
    with pytest.raises(SourceLost, match=r"its container is not allowed by default, or damaged.*`allow: \[NAME\]`"):
        File(path=path).open()
    source = File(path=path, allow=["concat"]).open()
    assert len(list(source)) == 3
    source.close()


@pytest.mark.parametrize("codec", ["AV1/90000", "av1/90000", "x-asf-pf/1000", "raw/90000"])
def test_rtsp_description_with_unusual_codec_is_refused(codec: str) -> None:
    """Before FFmpeg gets a packet: its reader of AV1 packets has known faults."""
    described = SDP.encode() + f"m=video 0 RTP/AVP 96\r\na=rtpmap:96 {codec}\r\na=control:1\r\n".encode()
    answers = {b"DESCRIBE": b"Content-Type: application/sdp\r\nContent-Length: %d\r\n\r\n" % len(described) + described}

    def talk(connection: socket.socket) -> None:
        while head := read_head(connection):
            method = head.split(b" ", 1)[0]
            asked.append(method)
            sequence = re.search(rb"CSeq: *(\d+)", head, re.IGNORECASE)
            assert sequence is not None
            start = b"RTSP/1.0 200 OK\r\nCSeq: %s\r\n" % sequence[1]
            connection.sendall(start + answers.get(method, b"Public: DESCRIBE, SETUP, PLAY\r\n\r\n"))

    asked: list[bytes] = []
    with TalkServer(lambda _: talk) as server:
        with pytest.raises(SourceLost, match=r"not allowed by default.*set `allow: \[\w+\]`"):
            Rtsp.model_validate({"url": f"rtsp://127.0.0.1:{server.port}/1"}).open(5.0)
        assert b"SETUP" not in asked


def test_allowed_av1_passes_the_description() -> None:
    described = b"m=video 0 RTP/AVP 96\r\na=rtpmap:96 AV1/90000\r\n"
    _allowed.RTSP.extended(["av1"]).check_description(described)
    _allowed.HTTP.check_codec("av1")
    with pytest.raises(SourceLost, match="av1"):
        _allowed.RTSP.check_description(described)


@pytest.mark.parametrize(
    "line",
    [
        " a=rtpmap:96 AV1/90000",
        "\ta=rtpmap:96x AV1/90000",
        "a=rtpmap:\t96/2  av1/90000",
        "a=rtpmap:96 x-pn-realvideo/1",
    ],
)
def test_loosely_written_codec_is_refused_too(line: str) -> None:
    """FFmpeg reads these lines like the usual one."""
    with pytest.raises(SourceLost, match="not allowed by default"):
        _allowed.RTSP.check_description(f"m=video 0 RTP/AVP 96\r\n{line}\r\n".encode())


@pytest.mark.parametrize("names", [["h266x"], ["h264,concat"], [""], ["av1"] * 17])
def test_unknown_name_to_allow_is_refused(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(ValidationError, match=r"no codec or container|at most 16"):
        File(path=write_clip(tmp_path / "clip.mp4", pictures=1), allow=names)


BOMBS: dict[str, Callable[[], bytes]] = {
    "huge.png": bombs.png_bomb,
    "huge.gif": bombs.gif_bomb,
    "huge.jpg": lambda: bombs.jpeg(60_000, 16_000),
    "huge.h264": bombs.h264_bomb,
}

READ = """
import sys
from pathlib import Path
from streamer.capture.sources import File
from streamer.core.errors import SourceLost

for path in sys.argv[1:]:
    try:
        source = File(path=path).open()
        print(path, sum(picture is not None for picture in source))
    except SourceLost as error:
        print(path, error)
print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")))
"""


def read_in_process(paths: list[Path]) -> tuple[list[str], float]:
    """Read files in a process of their own; return what was said about each, and the most memory it took, in MB."""
    command = [sys.executable, "-c", READ, *map(str, paths)]
    *said, memory = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return said, int(memory) / 1024


def test_pictures_of_absurd_size_take_little_memory(tmp_path: Path) -> None:
    for name, make in BOMBS.items():
        (tmp_path / name).write_bytes(make())
    said, memory = read_in_process([tmp_path / name for name in BOMBS])
    assert [line.partition(" ")[2] for line in said] == ["holds no frame that can be decoded"] * len(BOMBS)
    assert memory < MAX_MB


@pytest.mark.parametrize(("name", "words"), [("many.mkv", "1"), ("many.mp4", "has more than 64 streams")])
def test_streams_beyond_limit_take_little_memory(tmp_path: Path, name: str, words: Any) -> None:
    (line,), memory = read_in_process([write_frames(tmp_path / name, "mjpeg", "yuvj420p", streams=300)])
    assert line.endswith(words)
    assert memory < MAX_MB
