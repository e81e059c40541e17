"""`streamer dataset collect`: pictures of folders and videos, each scene once."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image as Files
from typer.testing import CliRunner, Result

from pipelines.dataset.formats import coco
from pipelines.dataset.shots import find_shots
from streamer.cli.main import app
from streamer.core import atomic_file
from streamer.core.errors import ConfigError
from streamer.core.jpeg import encode_jpeg
from streamer.core.picture_blocks import SeenPictures, from_text, picture_blocks, to_text
from streamer.events.collected import CollectedFolder
from streamer.toyworld.world import World
from streamer.types import Answer, Box
from streamer.types.dataset import Annotation, CollectedPicture, PictureRecord
from tests.support import bombs


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
    assert f"skipped: {pictures}/f.jpg: cannot be read as a picture" in done.stderr
    assert [record["image"] for record in records(out)] == ["a.png", "sub/d.jpg"]
    assert (out / "sub/d.jpg").read_bytes() == (pictures / "sub/d.jpg").read_bytes()
    again = collect(pictures, out)
    assert "0 new pictures, 2 known, 2 repeat another one" in again.stdout


@pytest.fixture
def hostile(pictures: Path) -> Path:
    """Add to a folder of pictures what is none, what is too large, and names for no file of labels."""
    os.mkfifo(pictures / "pipe.jpg")
    (pictures / "zero.jpg").symlink_to("/dev/zero")
    (pictures / "folder.jpg").mkdir()
    (pictures / "around").symlink_to(pictures)
    (pictures / "bomb.png").write_bytes(bombs.png_bomb())
    for name in (b"line\nend.jpg", b"latin\xff.jpg", b"\x1b[31mred.jpg"):
        (pictures / os.fsdecode(name)).write_bytes((pictures / "a.png").read_bytes())
    exif = Files.Exif()
    exif[0x8769] = {0x9003: "2026:01:01 00:00:00"}
    Files.fromarray(scene(9)).save(pictures / "cut-exif.jpg", exif=exif.tobytes()[:-25])
    return pictures


def test_hostile_folder_is_collected(hostile: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        done = collect(hostile, tmp_path / "out")
    assert "3 new pictures, 0 known, 2 repeat another one, 1 show nothing, 5 unreadable" in done.stdout
    assert [record["image"] for record in records(tmp_path / "out")] == ["a.png", "cut-exif.jpg", "sub/d.jpg"]
    assert [line.removeprefix(f"skipped: {hostile}/") for line in done.stderr.splitlines()] == [
        "\\x1b[31mred.jpg: its name cannot be printed",
        "bomb.png: more than 33177600 pixels",
        "f.jpg: cannot be read as a picture (BMP, JPEG, PNG, WEBP)",
        "latin\\udcff.jpg: its name cannot be printed",
        "line\\nend.jpg: its name cannot be printed",
    ]


def test_pictures_without_a_printable_name_are_not_asked_about(
    hostile: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    names = ["a.png", "b.jpg", "bomb.png", "c.jpg", "cut-exif.jpg", "e.png", "f.jpg", "sub/d.jpg"]
    assert [shot.image for shot in find_shots(hostile)] == names
    assert f"skipped: {hostile}/latin\\udcff.jpg: its name cannot be printed\n" in capfd.readouterr().err


def test_picture_that_changes_is_stored_as_it_was_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, read = tmp_path / "in", atomic_file.read
    source.mkdir()
    before = scene(3)
    assert cv2.imwrite(str(source / "a.png"), before)

    def read_and_replace(path: Path) -> bytes:
        content = read(path)
        cv2.imwrite(str(path), scene(4))
        return content

    monkeypatch.setattr("streamer.cli.collect_pictures.atomic_file.read", read_and_replace)
    assert collect(source, tmp_path / "out").exit_code == 0
    (record,) = records(tmp_path / "out")
    stored = cv2.imread(str(tmp_path / "out" / "a.png"))
    assert stored is not None
    assert np.array_equal(stored, before)
    assert record["blocks"] == to_text(blocks_of(before))


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


def test_frames_of_a_stream_have_its_masks(tmp_path: Path) -> None:
    clip, config, out = make_clip(tmp_path / "clip.mp4"), tmp_path / "home.yaml", tmp_path / "out"
    gate = {
        "source": str(clip),
        "zones": {"window": [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]},
        "tasks": [{"task": "caption", "every": "1s"}],
        "collect": {"every": "1h", "masks": ["window"]},
    }
    config.write_text(json.dumps({"streams": {"gate": gate}}))
    done = collect("gate", out, "--config", config, "--every", "1s")
    assert done.exit_code == 0, done.output
    assert records(out)
    for record in records(out):
        picture = cv2.imread(str(out / record["image"]))
        assert picture is not None
        assert picture[:, :310].max() < 30
        assert picture[:, 330:].mean() > 30
        blocks = from_text(record["blocks"])
        assert blocks is not None
        assert blocks.reshape(12, 16)[:, :7].max() < 5  # also what the picture is compared by


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


def collected(state: Path) -> CollectedFolder:
    """Return what an agent has collected: two scenes with answers, one of them damaged, one picture repeated."""
    state.mkdir(parents=True)
    folder = CollectedFolder(state)
    for number, (stream, seed) in enumerate((("yard", 4), ("gate", 3), ("gate", 3), ("gate", 6))):
        image = scene(seed)
        jpeg = encode_jpeg(image, 90)
        assert jpeg is not None
        name = f"{stream}/{number:032x}.jpg"
        digest = hashlib.sha256(jpeg.content).hexdigest()
        record = PictureRecord(name, stream, 1000.0 - number, 1, number, ("every",), to_text(blocks_of(image)), digest)
        found = Answer(boxes=(Box(0.1, 0.1, 0.3, 0.4, "ring", 0.8),))
        answer = Annotation(name, "object_detection", found, "tiny@1", stream=stream, taken_at=1000.0 - number)
        folder.write(stream, f"{number:032x}", CollectedPicture("home", record, (answer,)), jpeg.content)
    (folder.path / "gate" / f"{3:032x}.jpg").write_bytes(b"damaged")
    return folder


def test_pictures_of_an_agent_become_a_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    out = tmp_path / "out"
    missing = collect("agent:home", out).exception
    assert isinstance(missing, ConfigError)
    assert "has no pictures" in str(missing)
    collected(tmp_path / "state" / "streamer" / "home")
    done = collect("agent:home", out)
    assert done.exit_code == 1
    assert "2 new pictures, 0 known, 1 repeat another one, 0 show nothing, 1 unreadable" in done.stdout
    # In the order of time: the picture that repeats an earlier one is the later one.
    assert [(record["image"], record["reasons"]) for record in records(out)] == [
        (f"gate/{2:032x}.jpg", ["every"]),
        (f"yard/{0:032x}.jpg", ["every"]),
    ]
    by_folder = collect(f"agent:{tmp_path}/state/streamer/home", out)
    assert "0 new pictures, 2 known, 1 repeat another one" in by_folder.stdout
    to_labels = ["dataset", "filter", str(out), "--out", f"coco:{out}/labels.json"]
    refused = CliRunner().invoke(app, [*to_labels, "--removed", f"{out}/missing/removed.jsonl"])
    assert "removed.jsonl: cannot be written: No such file" in str(refused.exception)
    assert not (out / "labels.json").exists()
    filtered = CliRunner().invoke(app, to_labels)
    assert filtered.exit_code == 0, filtered.output
    labels = coco.read(out / "labels.json")
    assert [(one.file, [thing.label for thing in one.objects]) for one in labels.pictures] == [
        (f"gate/{2:032x}.jpg", ["ring"]),
        (f"yard/{0:032x}.jpg", ["ring"]),
    ]
    assert [shot.stream for shot in find_shots(out)] == ["gate", "yard"]
