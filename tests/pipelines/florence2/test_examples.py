"""Training examples: answers written as the model writes them, and files of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.florence2.answer_text import answer_text
from pipelines.florence2.examples import Example, read_examples, suffix, write_examples
from pipelines.florence2.parse import parse
from pipelines.florence2.tasks import FLORENCE_TASKS
from streamer.core.errors import ConfigError
from streamer.types import Answer, Box, Polygon, Quad, Region
from tests.support.checkpoints import INPUTS

_middles = st.integers(0, 999).map(lambda index: (index + 0.5) / 1000)
_labels = st.sampled_from(["person", "a red van", "naïve sign", "4 x 4"])
_points = st.tuples(_middles, _middles)


def _box(corners: list[float], label: str) -> Box:
    (x0, x1), (y0, y1) = sorted(corners[:2]), sorted(corners[2:])
    return Box(x0, y0, x1, y1, label)


_boxes = st.builds(_box, st.lists(_middles, min_size=4, max_size=4), _labels)
_polygons = st.builds(
    lambda points, label: Polygon(tuple(points), label), st.lists(_points, min_size=3, max_size=9), _labels
)
_quads = st.builds(lambda points, label: Quad((*points,), label), st.lists(_points, min_size=4, max_size=4), _labels)


@st.composite
def _examples(draw: st.DrawFn) -> Example:
    row = FLORENCE_TASKS[draw(st.sampled_from(sorted(FLORENCE_TASKS)))]
    answer = {
        "text": st.builds(Answer, text=_labels),
        "boxes": st.builds(Answer, boxes=st.lists(_boxes, max_size=5).map(tuple)),
        "phrases": st.builds(Answer, boxes=st.lists(_boxes, max_size=5).map(tuple)),
        "regions": st.builds(
            Answer, boxes=st.lists(_boxes.map(lambda box: replace(box, label="")), max_size=5).map(tuple)
        ),
        "polygons": st.builds(
            Answer, polygons=st.lists(_polygons.map(lambda one: replace(one, label="")), max_size=4).map(tuple)
        ),
        "boxes_or_polygons": st.builds(
            Answer, boxes=st.lists(_boxes, max_size=3).map(tuple), polygons=st.lists(_polygons, max_size=3).map(tuple)
        ),
        "quads": st.builds(Answer, quads=st.lists(_quads, max_size=4).map(tuple)),
    }[row.form]
    text = draw(_labels) if row.keys.needs == "text" else None
    region = Region(0.1005, 0.2005, 0.9995, 0.5005) if row.keys.needs == "region" else None
    return Example("night/0001.jpg", row.name, draw(answer), text, region)


@given(_examples())
def test_written_answer_parses_to_itself(example: Example) -> None:
    read = parse(FLORENCE_TASKS[example.task].form, suffix(example))
    assert replace(read, score=None) == example.answer


@given(st.lists(_examples(), max_size=4))
def test_file_of_examples_reads_back_equal(tmp_path_factory: pytest.TempPathFactory, examples: list[Example]) -> None:
    path = tmp_path_factory.mktemp("examples") / "train.jsonl"
    assert write_examples(path, examples) == len(examples)
    assert list(read_examples(path)) == examples


@pytest.mark.parametrize(("fraction", "bin"), [(0.0, 0), (0.57, 570), (0.9999, 999), (1.0, 999)])
def test_location_is_floored_into_1000_bins(fraction: float, bin: int) -> None:
    text = answer_text("region_proposal", Answer(boxes=(Box(0, 0, fraction, fraction, ""),)))
    assert text == f"<loc_0><loc_0><loc_{bin}><loc_{bin}>"


def test_one_label_for_several_boxes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    suffix_text = "car<loc_1><loc_2><loc_3><loc_4><loc_5><loc_6><loc_7><loc_8>"
    path.write_text(json.dumps({"image": "a.jpg", "prefix": "<OD>", "suffix": suffix_text, "note": "kept by others"}))
    (example,) = read_examples(path)
    assert [box.label for box in example.answer.boxes] == ["car", "car"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"image": "a.jpg", "prefix": "<OD>"}', ":1: suffix"),
        ('{"image": 3, "prefix": "<OD>", "suffix": ""}', ":1: image"),
        ("not json", ":1: line"),
        ('{"image": "a.jpg", "prefix": "OD", "suffix": ""}', "must begin with a task token"),
        ('{"image": "a.jpg", "prefix": "<DocVQA>what?", "suffix": "x"}', "must begin with a task token"),
        ('{"image": "a.jpg", "prefix": "<OD>cars", "suffix": ""}', "takes nothing after it"),
        ('{"image": "a.jpg", "prefix": "<OPEN_VOCABULARY_DETECTION>", "suffix": ""}', "needs a text"),
        ('{"image": "a.jpg", "prefix": "<REGION_TO_OCR>a sign", "suffix": "x"}', "four location tokens"),
        (
            '{"image": "a.jpg", "prefix": "<OD>", "suffix": "car<loc_1><loc_2><loc_3><loc_1000>"}',
            "<loc_1000> is no location: these are <loc_0> to <loc_999>",
        ),
        ('{"image": "a.jpg", "prefix": "<CAPTION>", "suffix": "a car <loc_99999>"}', "<loc_99999> is no location"),
        ('{"image": "a.jpg", "prefix": "<OD>", "suffix": "car<loc_9><loc_9><loc_3><loc_4>"}', "is no answer of <OD>"),
        ('{"image": "a.jpg", "prefix": "<OD>", "suffix": "<loc_1><loc_2><loc_3><loc_4>"}', "is no answer of <OD>"),
    ],
)
def test_wrong_example_is_refused_with_line(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(ConfigError, match=words):
        list(read_examples(path))


def test_label_with_model_token_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="token of the model"):
        answer_text("object_detection", Answer(boxes=(Box(0, 0, 1, 1, "car<loc_5>"),)))


def test_every_task_has_a_format() -> None:
    assert {task: answer_text(task, Answer(text="a van")) for task in INPUTS}.keys() == FLORENCE_TASKS.keys()
