"""Files of collected pictures: found again, bounded, and never outside of their folder."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from streamer.core.errors import SnapshotError
from streamer.events.collected import CollectedFolder, unmasked
from streamer.types import Answer, Box, Polygon
from streamer.types.dataset import Annotation, CollectedPicture, PictureRecord

NOW = 2e9
LEFT = ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0))


def put(
    folder: CollectedFolder, number: int, age: float = 0.0, size: int = 1000, stream: str = "gate"
) -> CollectedPicture:
    event, jpeg = f"{number:032x}", b"\xff" * size
    image = f"{stream}/{event}.jpg"
    record = PictureRecord(image, stream, NOW - age, 1, number, ("every",), None, hashlib.sha256(jpeg).hexdigest())
    answer = Annotation(image, "object_detection", Answer(boxes=(Box(0, 0, 0.5, 0.5, "car", 0.7, 3),)), "tiny@1")
    picture = CollectedPicture("home", record, (answer,))
    folder.write(stream, event, picture, jpeg)
    for path in (folder.path / stream).glob(f"{event}.*"):
        os.utime(path, (NOW - age, NOW - age))
    return picture


def numbers(folder: CollectedFolder) -> list[int | None]:
    return [one.picture.record.seq for one in folder.stored("gate")]


def test_pictures_are_read_back_in_the_order_of_time(tmp_path: Path) -> None:
    folder = CollectedFolder(tmp_path)
    pictures = [put(folder, number, age) for number, age in ((3, 10), (1, 30), (2, 20))]
    put(folder, 4, stream="yard")
    assert folder.streams() == ["gate", "yard"]
    assert [one.picture for one in folder.stored("gate")] == [pictures[1], pictures[2], pictures[0]]
    assert folder.read(pictures[0]) == b"\xff" * 1000


def test_old_and_too_many_pictures_are_deleted(tmp_path: Path) -> None:
    folder = CollectedFolder(tmp_path)
    for number in range(5):
        put(folder, number, age=100 - number)
    folder.sweep("gate", keep=98.5, max_bytes=1 << 20, now=NOW)
    assert numbers(folder) == [2, 3, 4]
    one = sum(path.stat().st_size for path in (folder.path / "gate").iterdir()) // 3
    folder.sweep("gate", keep=1000, max_bytes=2 * one + 10, now=NOW)
    assert numbers(folder) == [3, 4]
    assert len(list((folder.path / "gate").iterdir())) == 4


def test_picture_without_its_answers_is_deleted_in_time(tmp_path: Path) -> None:
    folder = CollectedFolder(tmp_path)
    put(folder, 1, age=100)
    put(folder, 2)
    for path in (folder.path / "gate").glob("*.json"):
        path.unlink()
    assert numbers(folder) == []
    folder.sweep("gate", keep=1e6, max_bytes=1 << 20, now=NOW)
    assert [path.stem for path in (folder.path / "gate").iterdir()] == [f"{2:032x}"]


def test_foreign_and_damaged_files_are_passed_over(tmp_path: Path) -> None:
    folder = CollectedFolder(tmp_path)
    picture, moved = put(folder, 1), put(folder, 2)
    gate = folder.path / "gate"
    (gate / "note.json").write_text("{}")
    (gate / f"{3:032x}.json").write_text("{")
    (gate / f"{4:032x}.json").symlink_to(gate / f"{1:032x}.json")
    (gate / f"{5:032x}.json").write_bytes((gate / f"{2:032x}.json").read_bytes())  # names another picture
    assert numbers(folder) == [1, 2]
    (gate / f"{1:032x}.jpg").write_bytes(b"other")
    (gate / f"{2:032x}.jpg").unlink()
    assert folder.read(picture) is None
    assert folder.read(moved) is None
    assert CollectedFolder(tmp_path / "none").streams() == []


@pytest.mark.parametrize(("stream", "event"), [("../gate", "0" * 32), ("gate", "../../etc"), ("gate", "A" * 32)])
def test_unsafe_names_are_refused(tmp_path: Path, stream: str, event: str) -> None:
    picture = CollectedPicture("home", PictureRecord("x.jpg"), ())
    with pytest.raises(SnapshotError):
        CollectedFolder(tmp_path).write(stream, event, picture, b"")
    assert not list(tmp_path.rglob("*.jpg"))


def test_masks_hide_shapes_and_texts() -> None:
    answer = Answer(
        text="a car and a dog",
        score=0.9,
        boxes=(Box(0.1, 0.1, 0.6, 0.5, "car"), Box(0.4, 0.1, 0.8, 0.5, "dog")),
        polygons=(
            Polygon(((0.1, 0.1), (0.4, 0.1), (0.4, 0.4)), "cat"),
            Polygon(((0.6, 0.1), (0.9, 0.1), (0.9, 0.4)), "cow"),
        ),
    )
    assert unmasked(answer, ()) == answer
    hidden = unmasked(answer, (LEFT,))
    assert [box.label for box in hidden.boxes] == ["dog"]
    assert [one.label for one in hidden.polygons] == ["cow"]
    assert (hidden.text, hidden.score) == (None, None)
