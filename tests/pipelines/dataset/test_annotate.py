"""Annotating pictures by a model: answers, resumed runs, unreadable pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import pytest

from pipelines.dataset.annotate import Counts, Questions, Shot, annotate, unanswered
from pipelines.dataset.annotations import Annotation, AnnotationFile, read_annotations
from pipelines.florence2.pipeline import Florence2Settings, pipeline
from pipelines.florence2.tasks import SPECS
from streamer.core.errors import ConfigError
from streamer.toyworld.world import World
from streamer.types import Engine, Task

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


@pytest.mark.parametrize("line", [b"{}", b"no json", b'{"image": "a", "task": "caption", "answer": 3, "model": "m"}'])
def test_damaged_line_is_refused_with_its_number(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_bytes(line + b"\n")
    with pytest.raises(ConfigError, match=r"answers.jsonl:1: "):
        list[Annotation](read_annotations(path))
