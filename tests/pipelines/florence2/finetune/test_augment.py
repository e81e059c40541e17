"""Variations of pictures with their examples."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.florence2.examples import Example, suffix
from pipelines.florence2.finetune.augment import Variation, vary
from streamer.types import Answer, Box, Polygon, Region

SQUARE = (0.3, 0.4, 0.5, 0.6)
DETECTION = Example("a.png", "object_detection", Answer(boxes=(Box(*SQUARE, "car"),)))


def _painted() -> np.ndarray:
    image = np.full((200, 300, 3), 60, np.uint8)
    cv2.rectangle(image, (90, 80), (149, 119), (230, 230, 230), -1)
    return image


@given(st.integers(0, 10_000))
def test_box_stays_on_its_object(seed: int) -> None:
    variation, (example,) = vary([DETECTION], str(seed))
    image = variation.image(_painted())
    assert image.shape == (200, 300, 3)
    # Grey areas have the level 128 before the change of light, the ground 60, the object 230.
    limit = 179 * variation.gain + variation.shift
    rows, columns = np.nonzero(image[:, :, 1] > min(limit, 254))
    (box,) = example.answer.boxes
    found = (columns.min() / 300, rows.min() / 200, (columns.max() + 1) / 300, (rows.max() + 1) / 200)
    assert found == pytest.approx((box.x0, box.y0, box.x1, box.y1), abs=0.015)


def test_seed_determines_the_variation() -> None:
    assert vary([DETECTION], "7") == vary([DETECTION], "7")
    assert len({vary([DETECTION], str(seed))[0] for seed in range(20)}) == 20
    assert {vary([DETECTION], str(seed))[0].mirror for seed in range(20)} == {True, False}


@pytest.mark.parametrize(
    "example",
    [
        Example("a.png", "caption", Answer(text="a car on the left")),
        Example("a.png", "ocr", Answer(text="STOP")),
        Example("a.png", "region_to_ocr", Answer(text="STOP"), region=Region(*SQUARE)),
    ],
)
def test_captions_and_text_keep_their_places(example: Example) -> None:
    for seed in range(20):
        variation, varied = vary([DETECTION, example], str(seed))
        assert varied == [DETECTION, example]
        assert (variation.mirror, variation.zoom, variation.right, variation.down) == (False, 1.0, 0.0, 0.0)


def test_words_for_sides_are_not_mirrored() -> None:
    sided = Example("a.png", "phrase_grounding", Answer(boxes=(Box(*SQUARE, "the left car"),)), text="the left car")
    assert not any(vary([sided], str(seed))[0].mirror for seed in range(20))


def test_region_moves_with_its_picture() -> None:
    asked = Example("a.png", "region_to_category", Answer(text="car"), region=Region(*SQUARE))
    _, (detection, category) = vary([DETECTION, asked], "3")
    (box,) = detection.answer.boxes
    assert category.region == Region(box.x0, box.y0, box.x1, box.y1)


@given(st.integers(0, 10_000))
def test_shapes_stay_in_the_picture(seed: int) -> None:
    polygon = Polygon(((0.0, 0.0), (0.9, 0.1), (0.2, 1.0)), "")
    examples = [
        Example("a.png", "referring_segmentation", Answer(polygons=(polygon,)), text="sail"),
        Example("a.png", "region_proposal", Answer(boxes=(Box(0, 0, 1, 1, ""), Box(0.9, 0.9, 1, 1, "")))),
    ]
    _, varied = vary(examples, str(seed))
    assert all(suffix(example) for example in varied)
    values = [value for point in varied[0].answer.polygons[0].points for value in point]
    assert all(0 <= value <= 1 for value in values)
    assert len(varied[1].answer.boxes) == 2


def test_no_variation_changes_nothing() -> None:
    image = _painted()
    assert (Variation().image(image) == image).all()
