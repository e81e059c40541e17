"""Review of labels: the order of the pictures, the file of decisions, and the reviewed labels."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipelines.dataset.formats import review as review_format
from pipelines.dataset.labels import LabelledObject, Labels
from pipelines.dataset.review import decisions
from pipelines.dataset.review.decisions import FILE, DecidedObject, Decision, DecisionFile
from pipelines.dataset.review.order import differences, usefulness
from pipelines.dataset.review.session import MAX_OBJECTS, DatasetReview, LabelSet
from streamer.core.errors import ConfigError
from streamer.types.review import ReviewedObject, ReviewedPicture
from tests.support.small_disk import small_disk

LEFT, RIGHT = (0.1, 0.1, 0.4, 0.4), (0.6, 0.6, 0.9, 0.9)


def _one(label: str, score: float | None = None, box: tuple[float, float, float, float] = LEFT) -> LabelledObject:
    return LabelledObject(label, box, score=score)


def _paint(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        assert cv2.imwrite(str(folder / name), np.full((24, 32, 3), 90, np.uint8))
    return folder


def _review(folder: Path, *sets: dict[str, Any]) -> DatasetReview:
    return DatasetReview(folder, [LabelSet(f"set {number}", objects) for number, objects in enumerate(sets or ({},))])


def _right(item: dict[str, Any], labels: int = 0) -> ReviewedPicture:
    objects = (ReviewedObject(one["label"], one["box"], n) for n, one in enumerate(item["objects"][labels]))
    return ReviewedPicture(item["number"], labels, tuple(objects))


def _file(folder: Path) -> DecisionFile:
    file = DecisionFile(folder / FILE)
    file.refresh()
    return file


def test_uncertain_score_comes_before_sure_one() -> None:
    counts = {"cat": 100}
    unsure, sure = (usefulness([[_one("cat", score), _one("cat", 0.99)]], counts) for score in (0.52, 0.9))
    assert unsure.value > sure.value
    assert unsure.why == "score 0.52 of cat"


def test_rare_label_comes_before_common_one() -> None:
    counts = {"cat": 100, "ladder": 1}
    rare, common = (usefulness([[_one(label)]], counts) for label in ("ladder", "cat"))
    assert (rare.value, common.value) == (1.0, 0.1)
    assert rare.why == "ladder is labelled once only"
    assert usefulness([[]], counts).value == 0


def test_different_sets_come_before_equal_ones() -> None:
    moved = [_one("cat", box=RIGHT)]
    assert differences([_one("cat")], [_one("cat")]) == 0
    assert differences([_one("cat")], [_one("dog")]) == 2
    assert differences([_one("cat"), _one("cat", box=RIGHT)], moved) == 1
    found = usefulness([[_one("cat")], moved], {"cat": 100})
    assert found.why == "the sets differ in 2 of 2 objects"
    assert found.value > usefulness([[_one("cat")], [_one("cat")]], {"cat": 100}).value


def test_reviewed_labels_are_those_of_the_decision(tmp_path: Path) -> None:
    outline = ((0.1, 0.1), (0.4, 0.1), (0.4, 0.4))
    objects = [LabelledObject("cat", LEFT, (outline,), 0.5), _one("dog", 0.6, RIGHT), _one("cow", 0.7)]
    review = _review(_paint(tmp_path / "p", "a.png", "b.png"), {"a.png": objects})
    item = review.next("ann", -1)
    assert (item["file"], item["total"], item["reviewed"]) == ("a.png", 2, 0)
    given = (
        ReviewedObject("cat", (0.1, 0.1, 0.4, 0.4000001), 0),  # rounded by the page
        ReviewedObject("dog", RIGHT, 1, wrong=True),
        ReviewedObject("calf", (0.2, 0.1, 1.5, 0.4), 2),
        ReviewedObject("owl", RIGHT),
    )
    review.decide("ann", ReviewedPicture(item["number"], 0, given))
    (stored,) = _file(tmp_path / "p")
    assert [one.verdict for one in stored.objects] == ["right", "wrong", "changed", "added"]
    assert (stored.by, stored.objects[1].score, stored.objects[2].was) == ("ann", 0.6, decisions.Original("cow", LEFT))
    labels = review_format.read(tmp_path / "p")
    (picture,) = labels.pictures
    assert (picture.file, picture.width, picture.height) == ("a.png", 32, 24)
    assert picture.objects == (
        LabelledObject("cat", LEFT, (outline,)),
        LabelledObject("calf", (0.2, 0.1, 1.0, 0.4)),
        LabelledObject("owl", RIGHT),
    )
    assert labels.names == ("calf", "cat", "owl")


@pytest.mark.parametrize(
    ("objects", "reason"),
    [
        ([], "each object of its set once"),
        ([ReviewedObject("cat", LEFT, 0)] * 2, "each object of its set once"),
        ([ReviewedObject("cat", LEFT, 0), ReviewedObject("cat", LEFT, 1)], "each object of its set once"),
        ([ReviewedObject("cat<loc_1>", LEFT, 0)], "model token"),
        ([ReviewedObject(" ", LEFT, 0)], "1 to 200 printable characters"),
        ([ReviewedObject("cat", (0.5, 0.1, 0.5, 0.4), 0)], "x0 < x1"),
        ([ReviewedObject("cat", (float("nan"), 0.1, 0.5, 0.4), 0)], "x0 < x1"),
        ([ReviewedObject("cat", (1.1, 0.1, 1.5, 0.4), 0)], "area in the picture"),
        ([ReviewedObject("cat", LEFT, 0)] + [ReviewedObject("cat", LEFT)] * MAX_OBJECTS, "at most 300 objects"),
    ],
)
def test_impossible_decision_is_not_stored(tmp_path: Path, objects: list[ReviewedObject], reason: str) -> None:
    review = _review(_paint(tmp_path, "a.png"), {"a.png": [_one("cat")]})
    with pytest.raises(ValueError, match=reason):
        review.decide("ann", ReviewedPicture(0, 0, tuple(objects)))
    for number, labels in ((1, 0), (-1, 0), (0, 1)):
        with pytest.raises(ValueError, match="there is no"):
            review.decide("ann", ReviewedPicture(number, labels, (ReviewedObject("cat", LEFT, 0),)))
    assert not (tmp_path / FILE).exists()


def test_last_decision_wins_and_both_are_kept(tmp_path: Path) -> None:
    """Two commands on one folder, and two reviewers of one command."""
    _paint(tmp_path, "a.png", "b.png")
    ann, bob = (_review(tmp_path, {"a.png": [_one("cat")]}) for _ in range(2))
    item = ann.next("ann", -1)
    assert bob.next("bob", -1)["file"] == "a.png"
    assert ann.next("eve", -1)["file"] == "b.png"  # a.png is open on ann's screen
    ann.decide("ann", _right(item))
    bob.decide("bob", ReviewedPicture(0, 0, (ReviewedObject("cat", LEFT, 0, wrong=True),)))
    assert review_format.read(tmp_path).pictures[0].objects == ()
    assert [json.loads(line)["by"] for line in (tmp_path / FILE).read_text().splitlines()] == ["ann", "bob"]
    assert ann.next("ann", 0)["reviewed"] == 1
    undone = ann.undo("ann")  # bob's decision stays
    assert (undone["file"], undone["edits"]["objects"][0]["wrong"]) == ("a.png", False)
    assert review_format.read(tmp_path).pictures[0].objects == ()
    bob.undo("bob")
    assert review_format.read(tmp_path).pictures == ()
    with pytest.raises(ValueError, match="bob has no decision"):
        bob.undo("bob")


def test_undo_of_a_decision_on_other_labels_shows_the_new_labels(tmp_path: Path) -> None:
    first = _review(_paint(tmp_path, "a.png"), {"a.png": [_one("cat")]})
    first.decide("ann", _right(first.next("ann", -1)))
    item = _review(tmp_path, {"a.png": [_one("dog")]}).undo("ann")
    assert (item["edits"], item["objects"][0][0]["label"]) == (None, "dog")


def test_next_goes_round_and_ends(tmp_path: Path) -> None:
    review = _review(_paint(tmp_path, "a.png", "b.png", "c.png"))
    assert [review.next("ann", after)["number"] for after in (-1, 0, 1, 2)] == [0, 1, 2, 0]
    assert review.next("ann", 0)["upcoming"] == [2, 0]
    for number in (2, 0, 1):
        review.decide("ann", ReviewedPicture(number, 0, ()))
    assert review.next("ann", 1) == {"reviewed": 3, "total": 3}


def test_cut_line_of_a_crash_is_removed(tmp_path: Path) -> None:
    file = _file(tmp_path)
    file.add(Decision("a.png", "ann", 1.0))
    with (tmp_path / FILE).open("ab") as cut:
        cut.write(b'{"image":"b.png","by":"a')
    again = _file(tmp_path)
    assert [one.image for one in again] == ["a.png"]
    again.add(Decision("c.png", "ann", 2.0))
    assert [one.image for one in _file(tmp_path)] == ["a.png", "c.png"]


def test_writers_at_the_same_time_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "LOCK_S", 300.0)

    def write(name: str) -> None:
        file = DecisionFile(tmp_path / FILE)
        for number in range(40):
            file.add(Decision(f"{name}-{number}.png", name, 1.0, objects=(DecidedObject("right", "cat", LEFT),) * 50))

    threads = [threading.Thread(target=write, args=(name,)) for name in ("ann", "bob", "eve")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one.image for one in _file(tmp_path)}) == 120


def test_full_disk_refuses_and_keeps_what_was_stored(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "1m") as folder:
        file = _file(folder)
        file.add(Decision("a.png", "ann", 1.0))
        with pytest.raises(OSError, match="No space left"):
            (folder / "fill").write_bytes(bytes(2 << 20))
        with pytest.raises(OSError, match="No space left"):
            file.add(Decision("b.png", "ann", 2.0, objects=(DecidedObject("right", "cat", LEFT),) * 1000))
        (folder / "fill").unlink()
        file.add(Decision("c.png", "ann", 3.0))
        assert [one.image for one in _file(folder)] == ["a.png", "c.png"]


def test_wrong_files_are_named(tmp_path: Path) -> None:
    _paint(tmp_path, "a.png")
    with pytest.raises(ConfigError, match=r"review.jsonl: no such file; `streamer dataset review"):
        review_format.read(tmp_path)
    with pytest.raises(ConfigError, match="cannot be written as a review"):
        review_format.write(tmp_path, Labels((), ()))
    (tmp_path / FILE).write_text('{"image": "a.png", "by": "ann", "at": 1}\n{"image": 1}\n')
    with pytest.raises(ConfigError, match=r"review.jsonl:2: image"):
        _review(tmp_path)
    (tmp_path / FILE).write_text('{"image": "../a.png", "by": "ann", "at": 1}\n')
    with pytest.raises(ConfigError, match="leaves the folder"):
        review_format.read(tmp_path)
    (tmp_path / FILE).write_text('{"image": "gone.png", "by": "ann", "at": 1}\n')
    with pytest.raises(ConfigError, match=r"gone\.png: no such picture"):
        review_format.read(tmp_path)
    (tmp_path / FILE).unlink()
    os.mkfifo(tmp_path / FILE)
    with pytest.raises(ConfigError, match="not a regular file"):
        _review(tmp_path)
    (tmp_path / FILE).unlink()
    file = _file(tmp_path)
    file.add(Decision("a.png", "ann", 1.0))
    (tmp_path / FILE).write_text("")
    with pytest.raises(ConfigError, match="was shortened"):
        file.add(Decision("a.png", "ann", 1.0))


def test_locked_file_does_not_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "LOCK_S", 0.1)
    _file(tmp_path).add(Decision("a.png", "ann", 1.0))
    with (tmp_path / FILE).open() as other:
        decisions._lock(other.fileno())
        with pytest.raises(OSError, match="keeps the file locked"):
            _file(tmp_path).add(Decision("b.png", "ann", 1.0))


def test_ten_thousand_pictures_are_ordered(tmp_path: Path) -> None:
    _paint(tmp_path, "00000.png")
    for number in range(1, 10_000):
        os.link(tmp_path / "00000.png", tmp_path / f"{number:05}.png")
    labels = {f"{number:05}.png": [_one("cat", 0.9)] for number in range(10_000)}
    review = _review(tmp_path, labels | {"07777.png": [_one("cat", 0.5)]})
    item = review.next("ann", -1)
    assert (item["file"], item["total"]) == ("07777.png", 10_000)
    review.decide("ann", _right(item))
    assert [review.next("ann", after)["file"] for after in (0, 9_999)] == ["00000.png", "00000.png"]


def test_pictures_that_cannot_be_reviewed_are_counted(tmp_path: Path) -> None:
    names = ["a.png", "two\nlines.png", "c:d.png", "many.png", "<img src=x onerror=alert(1)>.png"]
    review = _review(_paint(tmp_path, *names), {"many.png": [_one("cat")] * 301})
    assert review.left_out == {"a name that no file of labels can have": 2, "more than 300 objects": 1}
    assert {review.next("ann", after)["file"] for after in (-1, 0)} == {"a.png", "<img src=x onerror=alert(1)>.png"}
    with pytest.raises(ConfigError, match=r"no pictures to review \(1 left out: more than 300 objects\)"):
        _review(_paint(tmp_path / "few", "many.png"), {"many.png": [_one("cat")] * 301})


def test_picture_is_served_as_small_jpeg(tmp_path: Path) -> None:
    assert cv2.imwrite(str(tmp_path / "a.png"), np.zeros((1000, 4000, 3), np.uint8))
    (tmp_path / "b.png").write_bytes(b"no picture")
    review = _review(tmp_path)
    image = cv2.imdecode(np.frombuffer(review.picture(0), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    assert image.shape == (400, 1600, 3)
    with pytest.raises(ConfigError, match=r"b\.png: cannot be read as a picture"):
        review.picture(1)
    with pytest.raises(ValueError, match="there is no picture 2"):
        review.picture(2)
