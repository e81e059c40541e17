"""One video stream of a container is read: never cover art, else the largest, or the one that `stream:` names."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from streamer.capture.sources import File
from streamer.capture.sources._playlist import best_variant
from streamer.core.errors import SourceLost
from streamer.types import Image
from tests.support.clips import bgr, number_of, numbered, write_clip

SIZES = [(208, 160), (320, 240), (256, 144)]


def read(settings: File) -> list[Image]:
    source = settings.open()
    try:
        return [bgr(picture) for picture in source]
    finally:
        source.close()


@pytest.fixture(scope="module")
def three_streams(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with a stream of each of `SIZES`; frame n of stream s shows 100 s + n."""
    path = tmp_path_factory.mktemp("clip") / "three.mkv"
    with av.open(str(path), "w") as clip:
        streams = []
        for size in SIZES:
            stream = clip.add_stream("libx264", rate=25, options={"tune": "zerolatency"})
            (stream.width, stream.height), stream.pix_fmt = size, "yuv420p"
            streams.append(stream)
        for number in range(10):
            for index, stream in enumerate(streams):
                frame = av.VideoFrame.from_ndarray(numbered(100 * index + number, *SIZES[index]), format="bgr24")
                frame.pts, frame.time_base = number, Fraction(1, 25)
                clip.mux(stream.encode(frame))
        for stream in streams:
            clip.mux(stream.encode(None))
    return path


def test_largest_stream_is_read(three_streams: Path) -> None:
    assert [number_of(image) for image in read(File(path=three_streams))] == list(range(100, 110))
    source = File(path=three_streams).open()
    assert source.note == "plays video stream 1 (320x240), not 0 (208x160) and 2 (256x144)"
    source.close()


def test_stream_key_chooses_another_one(three_streams: Path) -> None:
    assert [number_of(image) for image in read(File(path=three_streams, stream=2))] == list(range(200, 210))


def test_unknown_stream_is_named_with_the_choice(three_streams: Path) -> None:
    with pytest.raises(SourceLost, match=r"no video stream 3: choose 0 \(208x160\), 1 \(320x240\) or 2 \(256x144\)$"):
        File(path=three_streams, stream=3).open()


def test_stream_key_chooses_a_variant_of_hls() -> None:
    master = "#EXTM3U\n" + "".join(
        f"#EXT-X-STREAM-INF:BANDWIDTH=1,RESOLUTION={size}\n{size}.m3u8\n" for size in ("64x48", "640x480", "320x240")
    )
    assert best_variant(master) == "640x480.m3u8"
    assert best_variant(master, 2) == "320x240.m3u8"
    with pytest.raises(SourceLost, match="has no video stream 3: its playlist has 3 variants, counted from 0"):
        best_variant(master, 3)


def write_with_cover(path: Path, cover_disposition: int, clip: Path | None) -> Path:
    """Write a file whose first stream is a large picture (cover art); the second one is the video of `clip`, if any."""
    with av.open(str(path), "w") as file:
        cover = file.add_stream("mjpeg", rate=25)
        cover.width, cover.height, cover.pix_fmt = 640, 640, "yuvj420p"
        cover.disposition = Disposition(cover_disposition)
        picture = cover.encode(av.VideoFrame.from_ndarray(numbered(4000, 640, 640), format="bgr24"))
        if clip is None:
            sound = file.add_stream("aac", rate=8000)
            file.mux(picture)
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            silence.sample_rate = 8000
            file.mux([*sound.encode(silence), *sound.encode(None)])
            return path
        with av.open(str(clip)) as video:
            copied = file.add_stream_from_template(video.streams.video[0])
            file.mux(picture)
            for packet in video.demux(video=0):
                if packet.size:
                    packet.stream = copied
                    file.mux(packet)
    return path


@pytest.mark.parametrize(
    ("name", "disposition"), [("a.mkv", 0), ("a.mkv", Disposition.attached_pic), ("a.mp4", Disposition.attached_pic)]
)
def test_cover_art_is_not_read_as_video(tmp_path: Path, name: str, disposition: int) -> None:
    path = write_with_cover(tmp_path / name, disposition, write_clip(tmp_path / "clip.mp4", 12))
    assert [number_of(image) for image in read(File(path=path))] == list(range(12))


def test_sound_with_cover_art_has_no_video(tmp_path: Path) -> None:
    path = write_with_cover(tmp_path / "sound.mp4", Disposition.attached_pic, None)
    with pytest.raises(SourceLost, match=r"cannot read .*sound\.mp4 as a video: has no video, only sound"):
        read(File(path=path))
