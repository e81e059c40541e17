"""Annotating pictures by a model: answers, resumed runs, unreadable pictures."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import pytest

from pipelines.dataset.annotate import Counts, Questions, Shot, annotate, unanswered
from pipelines.dataset.annotations import Annotation, AnnotationFile, read_annotations
from pipelines.dataset.filters import AnsweredPicture
from pipelines.dataset.gather import detected_objects
from pipelines.dataset.labels import LabelledObject
from pipelines.florence2.pipeline import Florence2Settings, pipeline
from pipelines.florence2.tasks import SPECS
from streamer.core.errors import ConfigError
from streamer.toyworld.world import World
from streamer.types import Answer, Box, Engine, Task
from tests.support.small_disk import small_disk

SHOTS = [Shot(f"{number}.png", "gate", 100.0 + number) for number in range(3)]
TASKS = [
    Task("objects", "object_detection", SPECS["object_detection"].parameters()),
    Task("ladder", "open_vocabulary_detection", SPECS["open_vocabulary_detection"].parameters(text="red circle")),
]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return pipeline.open(Florence2Settings(device="cpu"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, shot in enumerate(SHOTS):
        assert cv2.imwrite(str(tmp_path / shot.image), World(510_000 + number).scene(3.0).paint(320, 240))
    return tmp_path


def _run(folder: Path, engine: Engine, shots: Sequence[Shot] = SHOTS) -> tuple[Counts, list[str]]:
    out, told = AnnotationFile(folder / "answers.jsonl"), list[str]()
    try:
        left, known = unanswered([Questions(shot, TASKS) for shot in shots], "tiny@1", out.path)
        return annotate(folder, left, engine, "tiny@1", out, told.append)._replace(known=known), told
    finally:
        out.close()


def test_every_picture_is_answered_with_scores(folder: Path, engine: Engine) -> None:
    counts, _ = _run(folder, engine)
    assert counts == Counts(answered=6, known=0, failed=0)
    found = list(read_annotations(folder / "answers.jsonl"))
    assert {(one.image, one.task, one.text) for one in found} == {
        (shot.image, task.task, task.params.prompt_text) for shot in SHOTS for task in TASKS
    }
    detections = [one for one in found if one.task == "object_detection"]
    assert all(one.stream == "gate" and one.model == "tiny@1" and one.taken_at for one in found)
    truth = sum(len(World(510_000 + number).scene(3.0).objects) for number in range(len(SHOTS)))
    boxes = [box for one in detections for box in one.answer.boxes]
    assert len(boxes) == pytest.approx(truth, abs=1)
    assert all(box.score is not None for box in boxes)


def test_resumed_run_asks_only_what_is_missing(folder: Path, engine: Engine) -> None:
    _run(folder, engine, SHOTS[:2])
    path = folder / "answers.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])  # a crash in the middle of the last line
    counts, _ = _run(folder, engine)
    assert counts == Counts(answered=3, known=3, failed=0)
    keys = [one.key for one in read_annotations(path)]
    assert len(keys) == len(set(keys)) == 6


def test_unreadable_picture_is_told_and_counted(folder: Path, engine: Engine) -> None:
    (folder / "1.png").write_bytes(b"no picture")
    counts, told = _run(folder, engine)
    assert counts == Counts(answered=4, known=0, failed=2)
    assert "1.png: cannot be read as a picture" in told[0]


@pytest.mark.parametrize("image", ["../a.jpg", "/etc/a.jpg", "a/../../b.jpg", "a\0.jpg"])
def test_answer_about_a_picture_elsewhere_is_refused(tmp_path: Path, image: str) -> None:
    path = tmp_path / "answers.jsonl"
    with AnnotationFile(path) as out:
        out.add(Annotation("a.jpg", "caption", Answer(), "m"))
        out.add(Annotation(image, "caption", Answer(), "m"))
    with pytest.raises(
        ConfigError, match=r"answers.jsonl:2: (`.*` leaves the folder|a picture needs a printable name)"
    ):
        list[Annotation](read_annotations(path, inside=True))


def test_full_disk_is_told_and_the_run_continues(tmp_path: Path) -> None:
    answer = Annotation("a.jpg", "caption", Answer(text="a" * 1000), "m")
    with small_disk(tmp_path / "small", "64k") as folder:
        path = folder / "answers.jsonl"
        with pytest.raises(ConfigError, match=r"answers.jsonl: cannot be written: No space left on device"):
            _add(path, [answer] * 100)
        count = len(list[Annotation](read_annotations(_opened_again(path))))
        assert 0 < count < 64


def _add(path: Path, answers: Sequence[Annotation]) -> None:
    with AnnotationFile(path) as out:
        for answer in answers:
            out.add(answer)


def _opened_again(path: Path) -> Path:
    """Open a file of answers, which removes a line that was cut off, and return its path."""
    AnnotationFile(path).close()
    return path


def test_answers_that_are_no_file_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "answers.jsonl")
    with pytest.raises(ConfigError, match=r"answers.jsonl: not a file"):
        list[Annotation](read_annotations(tmp_path / "answers.jsonl"))


@pytest.mark.parametrize("box", [(0.1, 0.1, math.nan, 0.2, "a", 0.5), (0.1, 0.1, 0.2, 0.2, "a", 5.0)])
def test_numbers_that_no_model_gives_are_refused(box: tuple[float, float, float, float, str, float]) -> None:
    with pytest.raises(ConfigError, match=r"answers.jsonl: 1.png: (coordinates must be finite|the score 5.0 is not)"):
        detected_objects([AnsweredPicture("1.png", {"object_detection": Answer(boxes=(Box(*box),))})])


def test_detected_objects_are_those_that_a_file_of_labels_can_have(capfd: pytest.CaptureFixture[str]) -> None:
    good = Box(0.1, 0.2, 0.3, 0.4, "a dog", 0.9)
    others = [
        Box(0.9, 0.1, 0.1, 0.2, "a", 0.5),
        Box(1e300, 0.1, 2e300, 0.2, "a", 0.5),
        Box(0.1, 0.1, 0.2, 0.2, "\x1b[1m", 0.5),
    ]
    (found,) = detected_objects([AnsweredPicture("1.png", {"object_detection": Answer(boxes=(*others, good))})])
    assert found == [LabelledObject("a dog", (0.1, 0.2, 0.3, 0.4), score=0.9)]
    assert "1.png: an object is left out: a label has 1 to 200 printable characters" in capfd.readouterr().err


@pytest.mark.parametrize("line", [b"{}", b"no json", b'{"image": "a", "task": "caption", "answer": 3, "model": "m"}'])
def test_damaged_line_is_refused_with_its_number(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_bytes(line + b"\n")
    with pytest.raises(ConfigError, match=r"answers.jsonl:1: "):
        list[Annotation](read_annotations(path))
