"""Recordings of many rates, containers and codecs, made by a seeded generator: their times are the true ones."""

from __future__ import annotations

import random
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import pytest

from streamer.capture.media_clock import MediaClock
from streamer.capture.sources import File
from streamer.core.errors import StreamerError
from tests.support.clips import numbered

RATES = ("1/2", "1", "5", "12", "24000/1001", "25", "30000/1001", "50", "60000/1001", "100", "240")
KINDS = (
    ("mp4", "libx264"), ("mp4", "mpeg4"), ("mkv", "libx264"), ("mkv", "mjpeg"), ("avi", "mpeg4"), ("avi", "mjpeg"),
    ("ts", "libx264"), ("mov", "libx264"), ("ts", "mpeg2video"), ("flv", "libx264"),
)  # fmt: skip
_CODEC_RATES = {"mpeg2video": ("24000/1001", "25", "30000/1001", "50")}
"""Rates that a codec can carry, where it cannot carry all."""


class Clip(NamedTuple):
    path: Path
    rate: Fraction
    pictures: int


def generate(seed: int, folder: Path) -> Clip:
    """Write a recording whose n-th picture is shown at n / rate after the first one."""
    rng = random.Random(seed)
    suffix, codec = rng.choice(KINDS)
    rate = Fraction(rng.choice(_CODEC_RATES.get(codec, RATES)))
    pictures = rng.randint(12, 40)
    size = (rng.choice((64, 192, 256)), rng.choice((48, 64, 144)))
    path = folder / f"clip.{suffix}"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.gop_size = rng.choice((1, 5, 12))
        if codec != "mjpeg":
            stream.codec_context.max_b_frames = rng.choice((0, 2))
        for number in range(pictures):
            frame = av.VideoFrame.from_ndarray(numbered(number, 256, 144)[: size[1], : size[0]].copy(), format="bgr24")
            frame.pts, frame.time_base = number, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return Clip(path, rate, pictures)


def media_times(path: Path) -> list[float | None]:
    clock = MediaClock(live=False)
    return [clock.stamp(picture.pts, 0.0) for picture in File(path=path).open() if picture is not None]


@pytest.mark.parametrize("seed", range(60))
def test_media_time_is_picture_number_by_rate(seed: int, tmp_path: Path) -> None:
    clip = generate(seed, tmp_path)
    resolution = 0.0011 if clip.path.suffix in (".mkv", ".flv") else 0.0002
    assert media_times(clip.path) == pytest.approx(
        [float(number / clip.rate) for number in range(clip.pictures)], abs=resolution
    )


@pytest.mark.parametrize("seed", range(60))
def test_cut_recording_gives_rising_times_or_a_reason(seed: int, tmp_path: Path) -> None:
    clip = generate(seed, tmp_path)
    rng = random.Random(seed)
    content = bytearray(clip.path.read_bytes())
    for _ in range(rng.choice((0, 1, 20))):
        content[rng.randrange(len(content))] = rng.randrange(256)
    clip.path.write_bytes(content[: rng.randrange(len(content))])
    reason = ""
    try:
        times = media_times(clip.path)
    except StreamerError as error:
        reason = str(error)
    else:
        known = [time for time in times if time is not None]
        assert known == sorted(known)
        assert known[-1] - known[0] <= 2 * float(clip.pictures / clip.rate) + 2
    assert "Error" not in reason
