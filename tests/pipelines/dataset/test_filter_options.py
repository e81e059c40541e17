"""Filters by area and fitted score, and captions that no box supports."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from pipelines.dataset import filters
from pipelines.dataset.annotations import Annotation, AnnotationFile
from pipelines.dataset.captions import unsupported
from pipelines.dataset.filter_options import fitted, parse_area
from pipelines.dataset.filters import AnsweredPicture
from pipelines.dataset.formats import coco
from pipelines.dataset.labels import LabelledObject, LabelledPicture, Labels
from streamer.cli.main import app
from streamer.core.boxes import Rect, covered
from streamer.core.errors import ConfigError
from streamer.types import Answer, Box

BOX: Rect = (0.1, 0.1, 0.3, 0.3)


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=True)


def test_area_of_a_box_in_a_polygon() -> None:
    assert covered(BOX, ((0, 0), (1, 0), (1, 1), (0, 1))) == pytest.approx(0.04)
    assert covered(BOX, ((0, 0), (0.4, 0), (0, 0.4))) == pytest.approx(0.02)
    assert covered(BOX, ((0.5, 0.5), (1, 0.5), (1, 1))) == 0
    notched = ((0, 0), (0.4, 0), (0.4, 0.4), (0.2, 0.2), (0, 0.4))
    assert covered(BOX, notched) == pytest.approx(0.03)


def test_area_concerns_its_camera_only() -> None:
    step = filters.by_place([parse_area("gate:0,0,0.5,0,0.5,0.5,0,0.5")])
    pictures = [AnsweredPicture("a.jpg", {}, "gate"), AnsweredPicture("b.jpg", {}, "yard")]
    left, _ = filters.run([step], pictures, [[LabelledObject("car", BOX)]] * 2)
    assert [len(some) for some in left] == [0, 1]


@pytest.mark.parametrize("text", ["", "0.1,0.2", "0,0,1,0,1", "0,0,100,0,100,100", "gate:", "a,b,c,d,e,f"])
def test_bad_area_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no polygon"):
        parse_area(text)


def reviewed_set() -> tuple[list[AnsweredPicture], list[list[LabelledObject]], Labels]:
    """Return pictures in which cars are right from 0.6 on and vans from 0.3 on; signs are rare."""
    right: Rect = (0.6, 0.6, 0.8, 0.8)
    pictures, objects, truth = [], [], []
    for number in range(10):
        name, score = f"{number}.jpg", number / 10
        some = [LabelledObject("car", BOX, score=score), LabelledObject("van", right, score=score)]
        if number == 9:
            some.append(LabelledObject("sign", BOX, score=0.9))
        true = [LabelledObject("car", BOX)] * (score >= 0.6) + [LabelledObject("van", right)] * (score >= 0.3)
        pictures.append(AnsweredPicture(name, {}))
        objects.append(some)
        truth.append(LabelledPicture(name, 100, 100, tuple(true)))
    return pictures, objects, Labels(("car", "van", "sign"), tuple(truth))


def test_lowest_scores_are_fitted_to_reviewed_labels() -> None:
    pictures, objects, reviewed = reviewed_set()
    least, limits = fitted(pictures, objects, reviewed, None, "coco:reviewed.json")
    assert limits == {"car": 0.6, "van": 0.3}
    assert 0.3 <= least <= 0.6
    _, strict = fitted(pictures, objects, reviewed, 1.0, "coco:reviewed.json")
    assert strict == {"car": 0.6, "van": 0.3}


def test_too_few_reviewed_objects_are_refused() -> None:
    pictures, objects, reviewed = reviewed_set()
    with pytest.raises(ConfigError, match="found 2 objects in its pictures, 10 are needed"):
        fitted(pictures[:1], objects[:1], reviewed, None, "coco:reviewed.json")


@pytest.mark.parametrize(
    ("caption", "labels", "missing"),
    [
        ("A man with a dog in front of a red car.", ["man", "dog", "red car"], []),
        ("A man with a dog in front of a red car.", ["man", "red car"], ["dog"]),
        ("A red car.", ["blue car"], ["car"]),
        ("A woman riding a bicycle.", ["woman", "bicycle"], ["riding"]),
        ("A woman riding a bicycle.", ["woman riding a bicycle"], []),
        ("Two people are walking on the street.", ["person", "street"], ["walking"]),
        ("There are no cars.", [], []),
    ],
)
def test_objects_and_actions_of_captions_need_boxes(caption: str, labels: list[str], missing: list[str]) -> None:
    assert list(unsupported(caption, labels)) == missing


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a dataset with six pictures of a camera: a car that moves, a flash in one picture, and captions."""
    answers = AnnotationFile(tmp_path / "answers.jsonl")
    for number in range(6):
        name = f"{number}.jpg"
        assert cv2.imwrite(str(tmp_path / name), np.full((60, 80, 3), 40 * number, np.uint8))
        boxes = [Box(0.1 + 0.05 * number, 0.1, 0.3 + 0.05 * number, 0.3, "car", 0.9)]
        if number == 2:
            boxes.append(Box(0.7, 0.7, 0.9, 0.9, "dog", 0.8))
        text = "A car and a dog." if number > 3 else "A car."
        for task, answer in (("object_detection", Answer(boxes=tuple(boxes))), ("caption", Answer(text=text))):
            answers.add(Annotation(name, task, answer, "m@1", stream="gate", taken_at=100.0 + number))
    answers.close()
    return tmp_path


def test_filters_leave_files_of_what_they_removed(folder: Path) -> None:
    done = run(
        *("dataset", "filter", folder, "--out", f"coco:{folder}/labels.json", "--tracks", "2s"),
        *("--removed", folder / "removed.jsonl", "--captions", folder / "captions.jsonl"),
    )
    assert done.exit_code == 0, done.output
    assert "captions: 4 of 6 kept; removed if no box supports an object or action (2 dog)" in done.stdout
    assert [len(one.objects) for one in coco.read(folder / "labels.json").pictures] == [1] * 6
    removed = [json.loads(line) for line in (folder / "removed.jsonl").read_text().splitlines()]
    assert [(one["image"], one["filter"]) for one in removed] == [
        ("2.jpg", "tracks"),
        ("4.jpg", "text"),
        ("5.jpg", "text"),
    ]
    kept = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
    assert [(one["image"], one["suffix"]) for one in kept] == [(f"{number}.jpg", "A car.") for number in range(4)]


def test_fitted_scores_need_reviewed_labels(folder: Path) -> None:
    refused = run("dataset", "filter", folder, "--out", f"coco:{folder}/labels.json", "--precision", "0.9")
    assert isinstance(refused.exception, ConfigError)
    assert "needs --fit" in str(refused.exception)
    true = [LabelledPicture(f"{number}.jpg", 80, 60) for number in range(6)]
    coco.write(folder / "reviewed.json", Labels((), tuple(true)))
    few = run(
        "dataset", "filter", folder, "--out", f"coco:{folder}/labels.json", "--fit", f"coco:{folder}/reviewed.json"
    )
    assert "found 7 objects in its pictures, 10 are needed" in str(few.exception)
