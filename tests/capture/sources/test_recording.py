"""Recordings: the times of their frames, and what is said about one that is damaged or cut off."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import av
import av.bitstream
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.capture.sources import File
from streamer.capture.sources._av import _demux
from streamer.capture.sources._recording import MAX_BROADCAST_LEAP_S, MAX_LEAP_S, Recording
from streamer.core.errors import SourceEnded, SourceIncomplete, SourceLost
from tests.support.clips import bgr, cut, number_of, numbered, write_clip, write_recording
from tests.support.ts_camera import mpeg_ts


def play(settings: File) -> tuple[list[int], list[float | None], SourceEnded]:
    """Read a file to its end; return the numbers that its frames show, their times, and the end."""
    source = settings.open()
    numbers, times, end = [], [], SourceEnded()
    try:
        for picture in source:
            assert picture is not None
            numbers.append(number_of(bgr(picture)))
            times.append(picture.pts)
    except SourceEnded as error:
        end = error
    source.close()
    return numbers, times, end


# -- times


@pytest.mark.parametrize(
    ("pts", "expected"),
    [
        ([5.0, 5.1, 5.2], [5.0, 5.1, 5.2]),
        ([None, None, None], [0.0, 0.1, 0.2]),
        ([1.0, None, 1.2], [1.0, 1.1, 1.2]),
        ([1.0, 1.1, 0.0, 0.1], [1.0, 1.1, 1.2, 1.3]),
        ([1.0, 1.1, 36_000.0, 36_000.1], [1.0, 1.1, 1.2, 1.3]),
        ([1.0, 10.0, 19.0], [1.0, 10.0, 19.0]),
        ([1.0, 10.0, 900.0], [1.0, 10.0, 11.0]),
        ([0.0, 0.1, 1e12, -1e12, 0.4], [0.0, 0.1, 0.2, 0.3, 0.4]),
    ],
    ids=["as stored", "none", "one missing", "jump back", "leap", "slow", "leap of a slow one", "damaged"],
)
def test_time_continues_over_jumps_and_gaps(pts: list[float | None], expected: list[float]) -> None:
    recording = Recording(0.1, None, MAX_BROADCAST_LEAP_S)
    assert [recording.time_of(one) for one in pts] == pytest.approx(expected)


def test_pause_in_a_recording_with_one_clock_is_kept() -> None:
    recording = Recording(0.1, None)
    assert [recording.time_of(pts) for pts in (0.0, 7200.0, 7200 + 2 * MAX_LEAP_S)] == pytest.approx([0, 7200, 7201])


@given(
    st.lists(st.none() | st.floats() | st.integers(0, 200).map(lambda number: number / 10), max_size=30),
    st.sampled_from([MAX_BROADCAST_LEAP_S, MAX_LEAP_S]),
)
def test_time_never_goes_back_whatever_the_timestamps(pts: list[float | None], max_leap: float) -> None:
    recording = Recording(0.1, None, max_leap)
    times = [recording.time_of(one) for one in pts]
    known = [time for time in times if time is not None]
    assert len(known) == len(pts)
    assert all(0 <= later - earlier <= max_leap for earlier, later in pairwise(known))


@pytest.mark.parametrize("first", [b"ftyp", b"wide"])
def test_mp4_without_index_is_told_from_other_files(tmp_path: Path, first: bytes) -> None:
    boxes = struct.pack(">I4s8x", 16, first) + struct.pack(">I4s", 5000, b"mdat") + bytes(100)
    path = tmp_path / "clip.mov"
    for content, cause in ((boxes, "an MP4 without its index"), (b"0123" + boxes, "damaged, or not in a format")):
        path.write_bytes(content)
        with pytest.raises(SourceLost, match=cause):
            File(path=path).open()


def test_frames_without_time_and_rate_have_no_time() -> None:
    assert Recording(None, None).time_of(None) is None


def test_joined_broadcasts_have_one_rising_time(tmp_path: Path) -> None:
    path = tmp_path / "clip.ts"
    path.write_bytes(b"".join(part for begin in (9.0, 36_000.0, 5.0) for part in mpeg_ts(20, 10, begin)))
    numbers, times, _ = play(File(path=path))
    assert numbers == [*range(20)] * 3
    assert times[0] is not None
    assert times == pytest.approx([times[0] + number / 10 for number in range(60)])


@pytest.mark.parametrize("rate", [Fraction(10), Fraction(25, 2), Fraction(30_000, 1001), Fraction(50)])
@pytest.mark.parametrize(("codec", "name", "filter"), [
    ("libx264", "clip.h264", "h264_mp4toannexb"), ("libx265", "clip.hevc", "hevc_mp4toannexb"),
])  # fmt: skip
def test_bare_stream_is_timed_by_its_own_rate(
    tmp_path: Path, codec: str, name: str, filter: str, rate: Fraction
) -> None:
    clip, bare = write_recording(tmp_path / "clip.mp4", 20, codec, rate=rate), tmp_path / name
    with av.open(str(clip)) as file:
        annex_b = av.bitstream.BitStreamFilterContext(filter, file.streams.video[0])
        packets = [unit for packet in file.demux(video=0) for unit in (annex_b.filter(packet) if packet.size else ())]
    bare.write_bytes(b"".join(bytes(packet) for packet in packets))
    numbers, times, _ = play(File(path=bare))
    assert numbers == list(range(20))
    assert times == pytest.approx([float(number / rate) for number in range(20)])


# -- ends


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.ts", "a.mov"])
def test_whole_recording_has_nothing_to_say(tmp_path: Path, name: str) -> None:
    path = write_recording(tmp_path / name, codec="mpeg4" if name == "a.avi" else "libx264")
    numbers, _, end = play(File(path=path))
    assert (numbers, str(end)) == (list(range(60)), "")


def test_trimmed_recording_is_whole(tmp_path: Path) -> None:
    """Its packets before the first shown frame are hidden by an edit list."""
    whole, trimmed = write_recording(tmp_path / "a.mp4"), tmp_path / "trimmed.mp4"
    with av.open(str(whole)) as source, av.open(str(trimmed), "w") as target:
        copied = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size and packet.pts is not None and packet.dts is not None:
                shift = round(2.5 / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copied
                target.mux(packet)
    assert str(play(File(path=trimmed))[2]) == ""


def test_long_last_picture_is_no_early_end(tmp_path: Path) -> None:
    path = tmp_path / "slides.mp4"
    with av.open(str(path), "w") as clip:
        stream = clip.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 256, 144, "yuv420p"
        for number in range(2):
            frame = av.VideoFrame.from_ndarray(numbered(number, 256, 144), format="bgr24")
            frame.pts, frame.time_base = 750 * number, Fraction(1, 25)
            for packet in stream.encode(frame):
                packet.duration = round(30 / packet.time_base)
                clip.mux(packet)
    _, times, end = play(File(path=path))
    assert times == [0.0, 30.0]
    assert str(end) == ""


@pytest.mark.parametrize(
    ("name", "codec", "movflags"),
    [("a.mp4", "libx264", "+faststart"), ("a.mkv", "libx264", ""), ("a.avi", "mpeg4", "")],
)
def test_half_a_recording_is_played_and_said_to_be(tmp_path: Path, name: str, codec: str, movflags: str) -> None:
    path = write_recording(tmp_path / name, codec=codec, movflags=movflags)
    numbers, times, end = play(File(path=cut(path)))
    assert len(numbers) > 15
    assert numbers == sorted(numbers)
    seconds, _, total = str(end).removeprefix("ends early: ").partition(" of ")
    assert times[-1] is not None
    assert 0 <= float(seconds.removesuffix(" s")) - times[-1] <= 0.4
    assert total == "6.0 s"
    assert isinstance(end, SourceIncomplete)


def test_fragments_without_a_stated_end_say_where_they_are_cut(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "a.mp4", movflags="frag_keyframe+empty_moov")
    assert str(play(File(path=path))[2]) == ""
    numbers, _, end = play(File(path=cut(path)))
    assert len(numbers) > 15
    assert str(end).startswith("ends early: damaged or cut off after ")


def test_damaged_packets_are_counted_at_the_end(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", pictures=40)
    whole = path.read_bytes()
    header = whole.index(b"mdat")
    path.write_bytes(whole[: header + 1000] + b"\xa5" * 400 + whole[header + 1400 :])
    numbers, _, end = play(File(path=path))
    assert 0 < len(numbers) <= 40
    assert str(end).startswith("packets that could not be decoded: ")
    assert not isinstance(end, SourceIncomplete)


@pytest.mark.parametrize(("name", "codec"), [("a.ts", "libx264"), ("a.avi", "mpeg4")])
def test_damaged_frames_are_counted_at_the_end(tmp_path: Path, name: str, codec: str) -> None:
    path = write_recording(tmp_path / name, 30, codec)
    whole = bytearray(path.read_bytes())
    middle = len(whole) // 2
    whole[middle : middle + 300] = bytes(300)
    path.write_bytes(whole)
    numbers, _, end = play(File(path=path))
    assert len(numbers) == 30
    assert str(end) == "damaged frames: 1"
    assert not isinstance(end, SourceIncomplete)


def test_mp4_without_its_index_is_explained(tmp_path: Path) -> None:
    path = cut(write_recording(tmp_path / "a.mp4"))
    with pytest.raises(SourceLost, match=r"a\.mp4 as a video: an MP4 without its index \(`moov`\), which is written"):
        File(path=path).open()


def test_unreadable_file_is_explained(tmp_path: Path) -> None:
    settings = File(path=write_clip(tmp_path / "clip.mp4", 2))
    settings.path.unlink()
    with pytest.raises(SourceLost, match=r"cannot read .*clip\.mp4 as a video: No such file or directory"):
        settings.open()


def test_streams_that_appear_later_end_nothing() -> None:
    """PyAV reads beyond an array then: it may raise an IndexError after the last packet."""

    class Container:
        def demux(self, stream: object) -> Iterator[int]:
            yield 1
            raise IndexError("list index out of range")

    assert [*map(str, _demux(cast(Any, Container()), cast(Any, None)))] == ["1"]
