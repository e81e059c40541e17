"""The comparison of int8 answers with float32 answers, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipelines.florence2.int8.gate import FLOOR, Agreement, Generated, edit_distance, outline_iou
from streamer.types import Answer, Box, Polygon, Quad

SQUARE = ((0.2, 0.2), (0.6, 0.2), (0.6, 0.6), (0.2, 0.6))


def box(shift: float = 0.0, label: str = "dog") -> Box:
    return Box(0.2 + shift, 0.2, 0.6 + shift, 0.6, label)


def compared(*pairs: tuple[Answer | None, Answer | None]) -> Agreement:
    agreement = Agreement("object_detection")
    for reference, int8 in pairs:
        agreement.add(Generated((1, 2), reference), Generated((1, 2), int8))
    return agreement


EQUAL = [(Answer(boxes=(box(),)), Answer(boxes=(box(),)))] * 60


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [("", "", 0), ("abc", "abc", 0), ("abc", "abd", 1), ("abc", "bc", 1), ("", "abc", 3), ("kitten", "sitting", 3)],
)
def test_edit_distance(a: str, b: str, expected: int) -> None:
    assert edit_distance(a, b) == edit_distance(b, a) == expected


def test_outline_iou_of_shifted_squares() -> None:
    shifted = tuple((x + 0.2, y) for x, y in SQUARE)
    assert outline_iou(SQUARE, SQUARE) == 1
    assert outline_iou(SQUARE, shifted) == pytest.approx(1 / 3, abs=0.01)
    assert outline_iou(SQUARE, tuple((x + 0.5, y) for x, y in SQUARE)) == 0


def test_outline_iou_of_a_small_shape_is_as_exact() -> None:
    small = tuple((0.5 + x / 100, 0.5 + y / 100) for x, y in SQUARE)
    shifted = tuple((x + 0.0002, y) for x, y in small)
    assert outline_iou(small, shifted) == pytest.approx(0.0038 / 0.0042, abs=0.01)


def test_equal_answers_pass() -> None:
    agreement = compared(*EQUAL)
    assert agreement.refusal(FLOOR) is None
    row = agreement.row(FLOOR)
    assert row["passed"]
    assert row["tokens"] == row["shapes"] == row["labels"] == row["mean_iou"] == 1


@pytest.mark.parametrize(
    "wrong",
    [
        Answer(),
        Answer(boxes=(box(label="cat"),)),
        Answer(boxes=(box(0.03),)),
        None,
    ],
    ids=["missed", "other label", "moved", "failed"],
)
def test_two_wrong_boxes_of_sixty_are_refused(wrong: Answer | None) -> None:
    reference = Answer(boxes=(box(),))
    assert compared(*EQUAL[2:], (reference, wrong), (reference, wrong)).refusal(FLOOR)
    assert compared(*EQUAL[1:], (reference, wrong)).refusal(FLOOR) is None


def test_boxes_of_nothing_are_refused() -> None:
    ghosts = Answer(boxes=(box(),))
    assert "of 62 shapes" in (compared(*EQUAL, (Answer(), ghosts), (Answer(), ghosts)).refusal(FLOOR) or "")


def test_one_box_pairs_with_one_box_only() -> None:
    twice = Answer(boxes=(box(), box()))
    agreement = compared(*[(twice, Answer(boxes=(box(),)))] * 20)
    assert (agreement.shapes, agreement.equal_shapes) == (40, 20)


def test_wrong_words_of_a_caption_are_refused() -> None:
    right, wrong = Answer(text="two dogs play in a garden"), Answer(text="two cats play in a garden")
    assert compared(*[(right, right)] * 10).refusal(FLOOR) is None
    refusal = compared(*[(right, right)] * 8, *[(right, wrong)] * 2).refusal(FLOOR)
    assert refusal == "58 of 60 words are equal (0.967, floor 0.98)"


def test_letters_of_a_sign_count_as_words() -> None:
    sign = Answer(quads=(Quad(SQUARE, "EXIT"),))
    misread = Answer(quads=(Quad(SQUARE, "EXLT"),))
    agreement = compared(*[(sign, misread)] * 20)
    assert agreement.equal_shapes == agreement.shapes == 20
    assert agreement.equal_words == 0
    assert "0 of 20 words" in (agreement.refusal(FLOOR) or "")


def test_outlines_are_compared_by_area() -> None:
    expected = Answer(polygons=(Polygon(SQUARE, ""),))
    moved = Answer(polygons=(Polygon(tuple((x + 0.1, y) for x, y in SQUARE), ""),))
    assert compared(*[(expected, expected)] * 20).refusal(FLOOR) is None
    assert "0 of 20 shapes" in (compared(*[(expected, moved)] * 20).refusal(FLOOR) or "")


@pytest.mark.parametrize("answer", [Answer(), None], ids=["empty", "failed"])
def test_too_little_to_compare_is_refused(answer: Answer | None) -> None:
    assert "at least 20 are needed" in (compared(*[(answer, answer)] * 100).refusal(FLOOR) or "")
    assert "at least 20 are needed" in (compared(*EQUAL[:19]).refusal(FLOOR) or "")


def test_floor_is_the_callers() -> None:
    pairs = [*EQUAL[:10], *[(Answer(boxes=(box(),)), Answer())] * 10]
    assert compared(*pairs).refusal(0.5) is None
    assert compared(*pairs).refusal(0.51)


def test_tokens_and_seconds_are_reported() -> None:
    agreement = Agreement("caption")
    answer = Answer(text="a dog")
    agreement.add(Generated((1, 2, 3, 4), answer, 0.4), replace(Generated((1, 2, 4), answer), seconds=0.1))
    row = agreement.row(FLOOR)
    assert (row["tokens"], row["float32_s"], row["int8_s"]) == (0.75, 0.4, 0.1)
