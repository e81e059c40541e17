"""Measures against the published implementations and worked examples."""

from __future__ import annotations

import io
from contextlib import redirect_stdout

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipelines.dataset.labels import LabelledObject
from pipelines.dataset.metrics.detection import overall, score_labels
from pipelines.dataset.metrics.text import cider_d, edit_distance, error_rate, words


def _random_pictures(seed: int) -> list[tuple[list[LabelledObject], list[LabelledObject]]]:
    rng = np.random.default_rng(seed)
    pictures = []
    for _ in range(12):
        truth = []
        for _ in range(int(rng.integers(0, 5))):
            x, y, w, h = rng.uniform(0, 0.5), rng.uniform(0, 0.5), rng.uniform(0.1, 0.4), rng.uniform(0.1, 0.4)
            truth.append(LabelledObject(str(rng.choice(["car", "van", "bus"])), (x, y, x + w, y + h)))
        found = [
            LabelledObject(
                str(rng.choice(["car", "van", "bus"])) if rng.random() < 0.2 else one.label,
                tuple(float(value) for value in np.array(one.box) + rng.normal(0, 0.02, 4)),  # type: ignore[arg-type]
                score=float(rng.random()),
            )
            for one in truth
            for _ in range(int(rng.integers(0, 3)))
        ]
        pictures.append((found, truth))
    return pictures


def _their_ap(pictures: list[tuple[list[LabelledObject], list[LabelledObject]]]) -> tuple[float, float]:
    """Return AP and AP50 of pycocotools, in a picture of 1000x1000 pixels."""
    labels = ["bus", "car", "van"]

    def rows(side: int) -> list[dict[str, object]]:
        return [
            {
                "id": 1000 * number + index + 1,
                "image_id": number,
                "category_id": labels.index(one.label),
                "bbox": [1000 * value for value in (x0, y0, x1 - x0, y1 - y0)],
                "area": 1e6 * (x1 - x0) * (y1 - y0),
                "iscrowd": 0,
                "score": one.score,
            }
            for number, picture in enumerate(pictures)
            for index, one in enumerate(picture[side])
            for x0, y0, x1, y1 in [one.box]
        ]

    with redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": number} for number in range(len(pictures))],
            "annotations": rows(1),
            "categories": [{"id": number} for number in range(3)],
        }
        truth.createIndex()
        found = COCO()
        found.dataset = {**truth.dataset, "annotations": rows(0)}
        found.createIndex()
        judge = COCOeval(truth, found, "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return float(judge.stats[0]), float(judge.stats[1])


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_equals_pycocotools(seed: int) -> None:
    pictures = _random_pictures(seed)
    score = overall(score_labels(pictures))
    assert (score.ap, score.ap50) == pytest.approx(_their_ap(pictures), abs=1e-6)


def test_counts_of_a_label() -> None:
    box = (0.1, 0.1, 0.3, 0.3)
    found = [LabelledObject("car", box, score=0.9), LabelledObject("car", box, score=0.8)]
    score = score_labels([(found, [LabelledObject("car", box)]), ([], [LabelledObject("car", box)])])["car"]
    assert (score.expected, score.found, score.right) == (2, 2, 1)
    assert (score.precision, score.recall, score.f1) == (0.5, 0.5, 0.5)


def test_cider_d_of_a_caption_among_its_references() -> None:
    """An exact copy of the only reference has the value 10, a caption of other words 0."""
    references = [["a red van at the gate"], ["two people on a green bench near water"]]
    assert cider_d(["a red van at the gate", "something else entirely"], references) == pytest.approx([10.0, 0.0])
    # "a" is in all pictures and weighs nothing, so a caption of it alone has the value 0.
    assert cider_d(["a", "a"], references) == pytest.approx([0.0, 0.0])


def test_cider_d_equals_the_published_formula() -> None:
    """The value of one caption, written out: 2 of 3 words, 1 of 2 pairs, no triple; both captions have 2 pairs."""
    references = [["red van parked"], ["green bench"]]
    (value, _) = cider_d(["red van stands", "green bench"], references)
    log2 = np.log(2)
    one = 2 * log2**2 / (np.sqrt(2 * log2**2 + log2**2) * np.sqrt(3 * log2**2))
    pair = log2**2 / (np.sqrt(2) * log2 * np.sqrt(2) * log2)
    assert value == pytest.approx(10 * (one + pair) / 4)


def test_longer_caption_is_penalised() -> None:
    references = [["red van parked at gate"], ["green bench"]]
    exact, longer = (
        cider_d([text, "green bench"], references)[0]
        for text in ("red van parked at gate", "red van parked at gate red van parked at gate")
    )
    assert longer < exact


def test_words_have_no_case_and_punctuation() -> None:
    assert words("A red van, at Bob's gate.") == ["a", "red", "van", "at", "bob's", "gate"]


@pytest.mark.parametrize(
    ("a", "b", "distance"), [("kitten", "sitting", 3), ("", "abc", 3), ("flaw", "lawn", 2), ("same", "same", 0)]
)
def test_edit_distance_of_known_pairs(a: str, b: str, distance: int) -> None:
    assert edit_distance(a, b) == distance
    assert error_rate(a, b) == pytest.approx(distance / max(len(a), len(b)))


@settings(max_examples=30)
@given(st.text(max_size=8), st.text(max_size=8), st.text(max_size=8))
def test_edit_distance_is_a_metric(a: str, b: str, c: str) -> None:
    assert edit_distance(a, b) == edit_distance(b, a)
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)
    assert (edit_distance(a, b) == 0) == (a == b)
