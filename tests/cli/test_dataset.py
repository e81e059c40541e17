"""`streamer dataset collect`: pictures of folders and videos, each scene once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from pipelines.dataset.shots import find_shots
from streamer.cli.main import app
from streamer.core.errors import ConfigError
from streamer.core.picture_blocks import SeenPictures, from_text, picture_blocks, to_text
from streamer.toyworld.world import World


def collect(source: object, out: Path, *more: object) -> Result:
    words = ("dataset", "collect", "--from", source, "--out", out, *more)
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=True)


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "pictures.jsonl").read_text().splitlines()]


def scene(seed: int, second: float = 0.0) -> Any:
    return World(seed).scene(second).paint(640, 360)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Return a folder: two scenes, the first one three times (with noise, smaller), one without content, one broken."""
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    first = scene(3)
    noise = np.random.default_rng(0).normal(0, 6, first.shape)
    noisy = np.clip(first + noise, 0, 255).astype(np.uint8)
    for name, image in (
        ("a.png", first), ("b.jpg", noisy), ("c.jpg", cv2.resize(first, (320, 180))), ("sub/d.jpg", scene(4)),
        ("e.png", np.full((90, 160, 3), 40, np.uint8)),
    ):  # fmt: skip
        assert cv2.imwrite(str(folder / name), image)
    (folder / "f.jpg").write_bytes(b"no picture")
    (folder / "g.jpg").symlink_to(folder / "a.png")
    return folder


def test_folder_gives_each_scene_once(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = collect(pictures, out)
    assert done.exit_code == 1
    assert "2 new pictures, 0 known, 2 repeat another one, 1 show nothing, 1 unreadable" in done.stdout
    assert "f.jpg: skipped" in done.stderr
    assert [record["image"] for record in records(out)] == ["a.png", "sub/d.jpg"]
    assert (out / "sub/d.jpg").read_bytes() == (pictures / "sub/d.jpg").read_bytes()
    again = collect(pictures, out)
    assert "0 new pictures, 2 known, 2 repeat another one" in again.stdout


def test_picture_without_its_line_is_added_again(pictures: Path, tmp_path: Path) -> None:
    """A crash between the picture and its line, or in the line, loses nothing."""
    out = tmp_path / "out"
    collect(pictures, out)
    lines = (out / "pictures.jsonl").read_bytes()
    (out / "pictures.jsonl").write_bytes(lines[:-20])
    assert "1 new pictures, 1 known" in collect(pictures, out).stdout
    assert (out / "pictures.jsonl").read_bytes() == lines


def test_new_small_object_makes_another_picture() -> None:
    seen, image = SeenPictures(), scene(5)
    assert seen.add(blocks_of(image))
    assert not seen.add(blocks_of(image))
    cv2.rectangle(image, (300, 150), (330, 230), (30, 60, 200), -1)
    assert seen.add(blocks_of(image))
    assert not seen.add(blocks_of(image))


def blocks_of(image: Any) -> Any:
    blocks = picture_blocks(image)
    assert blocks is not None
    again = from_text(to_text(blocks))
    assert again is not None
    assert again.tolist() == blocks.tolist()
    return blocks


def make_clip(path: Path) -> Path:
    """Write four seconds of a scene with moving objects."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 5, (640, 360))
    for number in range(20):
        writer.write(scene(7, number))
    writer.release()
    return path


def test_video_gives_frames_with_camera_and_time(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "front door.mp4")
    out = tmp_path / "out"
    done = collect(clip, out, "--every", "1s")
    assert done.exit_code == 0, done.output
    found = records(out)
    assert len(found) >= 3
    assert {record["stream"] for record in found} == {"front-door"}
    begin = clip.stat().st_mtime
    times = [record["taken_at"] - begin for record in found]
    assert times == pytest.approx([round(at) for at in times], abs=0.1)
    assert times == sorted(set(times))
    assert [(shot.image, shot.stream) for shot in find_shots(out)] == [
        (record["image"], "front-door") for record in found
    ]
    assert find_shots(out)[0].taken_at == found[0]["taken_at"]
    assert f"0 new pictures, {len(found)} known" in collect(clip, out, "--every", "1s").stdout
    assert "1 new pictures" in collect(clip, tmp_path / "one", "--every", "1s", "--most", "1").stdout


def test_bad_arguments_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source, more, problem in (
        (tmp_path / "empty", (), "has no pictures"),
        (tmp_path / "none.mp4", (), "no such file"),
        ("nothing", (), "no stream, folder or source"),
        (tmp_path / "empty", ("--every", "often"), "--every: must be a duration"),
    ):
        error = collect(source, tmp_path / "out", *more).exception
        assert isinstance(error, ConfigError)
        assert problem in str(error)
    (tmp_path / "out" / "pictures.jsonl").write_text('{"image": 3}\n')
    damaged = collect(tmp_path / "empty", tmp_path / "out").exception
    assert isinstance(damaged, ConfigError)
    assert "pictures.jsonl:1: image" in str(damaged)
