"""Frames for calibration and held-out ones: enough, different, and from where the user says."""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from streamer.cli.calibration_frames import MAX_WIDTH, FrameSets, collect
from streamer.config.model import from_mapping
from streamer.core.errors import ConfigError, SourceLost


def config(**sources: Any) -> Any:
    tasks = [{"task": "caption"}]
    return from_mapping({"streams": {name: {"source": source, "tasks": tasks} for name, source in sources.items()}})


def read(source: str | None, counts: tuple[int, int] = (4, 2), every: float = 1.0, **streams: Any) -> FrameSets:
    return collect(config(**streams) if streams else None, source, every, counts, print)


def assert_disjoint(sets: FrameSets) -> None:
    for calibration, held_out in product(*sets):
        assert not np.array_equal(calibration.image, held_out.image)


def scenery(number: int, width: int = 40, height: int = 50) -> np.ndarray[Any, Any]:
    """Return one of many different pictures."""
    coarse = np.random.default_rng(number).integers(0, 256, (5, 4, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_NEAREST)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for number in range(8):
        assert cv2.imwrite(str(tmp_path / f"{number}.png"), scenery(number))
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def test_toy_world_without_a_config() -> None:
    sets = read(None)
    assert (len(sets.calibration), len(sets.held_out)) == (4, 2)
    assert_disjoint(sets)


def test_folder_of_pictures(pictures: Path) -> None:
    sets = read(str(pictures))
    assert (len(sets.calibration), len(sets.held_out)) == (4, 2)
    assert_disjoint(sets)
    assert not sets.calibration[0].image.flags.writeable


def test_small_folder_is_divided(pictures: Path) -> None:
    sets = read(str(pictures), (64, 32))
    assert (len(sets.calibration), len(sets.held_out)) == (5, 3)


def test_damaged_picture_is_named_and_skipped(pictures: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (pictures / "3.png").write_bytes(b"no picture")
    sets = read(str(pictures), (64, 32))
    assert len(sets.calibration) + len(sets.held_out) == 7
    assert f"skipped: {pictures / '3.png'}: cannot be read as a picture" in capfd.readouterr().out


def test_files_that_are_no_pictures_are_not_opened(pictures: Path) -> None:
    """A named pipe would block for ever."""
    os.mkfifo(pictures / "0.jpg")
    (pictures / "00.jpg").mkdir()
    (pictures / "1.jpg").symlink_to("/dev/zero")
    sets = read(str(pictures), (64, 32))
    assert len(sets.calibration) + len(sets.held_out) == 8


def test_folder_without_pictures_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has 0 usable pictures"):
        read(str(tmp_path))


def test_wide_pictures_are_reduced(tmp_path: Path) -> None:
    for number in range(3):
        assert cv2.imwrite(str(tmp_path / f"{number}.jpg"), scenery(number, 2 * MAX_WIDTH, 200))
    assert {frame.image.shape for part in read(str(tmp_path)) for frame in part} == {(100, MAX_WIDTH, 3)}


def test_black_pictures_are_an_error(tmp_path: Path) -> None:
    for number in range(6):
        assert cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((50, 40, 3), number, np.uint8))
    with pytest.raises(ConfigError, match=r"6 of 6 frames show nothing.*at least 3 different ones.*larger --every"):
        read(str(tmp_path))


def test_one_picture_again_and_again_is_an_error(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    for number in range(6):
        picture = scenery(1, 320, 240) // 2 + noise.integers(0, 12, (240, 320, 3), np.uint8)
        picture[:12, :60] = number * 40  # a clock
        assert cv2.imwrite(str(tmp_path / f"{number}.png"), picture)
    with pytest.raises(ConfigError, match=r"0 of 6 frames show nothing.*5 repeat an earlier one"):
        read(str(tmp_path))


def test_repeated_pictures_are_skipped(pictures: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cv2.imwrite(str(pictures / "again.png"), scenery(3))
    assert cv2.imwrite(str(pictures / "night.png"), np.zeros((50, 40, 3), np.uint8))
    sets = read(str(pictures), (64, 32))
    assert len(sets.calibration) + len(sets.held_out) == 8
    assert "1 of 10 frames show nothing (one colour), 1 repeat an earlier one; skipped" in capfd.readouterr().out


def test_all_streams_of_a_config_are_read() -> None:
    recording = {"kind": "synthetic", "pace": "file", "seconds": 20}
    sets = read(None, gate={**recording, "seed": 1}, yard={**recording, "seed": 2})
    assert [frame.stream for frame in sets.calibration] == ["gate", "gate", "yard", "yard"]
    assert [frame.stream for frame in sets.held_out] == ["gate", "yard"]
    assert_disjoint(sets)


def test_one_stream_is_chosen_by_name() -> None:
    recording = {"kind": "synthetic", "pace": "file", "seconds": 20}
    sets = read("yard", gate=recording, yard={**recording, "seed": 2})
    assert {frame.stream for part in sets for frame in part} == {"yard"}


def test_held_out_frames_are_later_ones() -> None:
    recording = {"kind": "synthetic", "pace": "file", "seconds": 20}
    sets = read(None, gate=recording)
    assert [frame.seq for frame in sets.calibration] == [0, 1, 2, 3]
    assert [frame.seq for frame in sets.held_out] == [4, 5]


def test_live_camera_is_read_by_the_clock(capfd: pytest.CaptureFixture[str]) -> None:
    sets = read("synthetic?fps=50&size=64x48", every=0.3)
    assert "source: 6 of 6 frames" in capfd.readouterr().out
    assert sets.calibration
    assert_disjoint(sets)


def test_short_recording_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"stream gate: it ended after 3 frames.*smaller --every"):
        read(None, gate={"kind": "synthetic", "pace": "file", "seconds": 3})


def test_unknown_source_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"--from: gaate is no stream, folder or source.*streams of the config: gate"):
        read("gaate", gate="synthetic")


def test_password_of_a_lost_camera_is_not_printed() -> None:
    with pytest.raises(SourceLost) as error:
        read("rtsp://me:geheim@127.0.0.1:9/stream")
    assert "geheim" not in str(error.value)
    assert "source: " in str(error.value)
