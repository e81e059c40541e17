"""The comparison of int8 answers with float32 answers, and what it refuses."""

from __future__ import annotations

import pytest

from pipelines.florence2.int8.gate import FLOOR, Agreement, Count, Generated, edit_distance, outline_iou
from streamer.types import Answer, Box, Polygon, Quad

SQUARE = ((0.2, 0.2), (0.6, 0.2), (0.6, 0.6), (0.2, 0.6))


def box(shift: float = 0.0, label: str = "dog") -> Box:
    return Box(0.2 + shift, 0.2, 0.6 + shift, 0.6, label)


def compared(*pairs: tuple[Answer | None, Answer | None], task: str = "object_detection") -> Agreement:
    agreement = Agreement(task)
    for reference, int8 in pairs:
        agreement.add(Generated((1, 2), reference), Generated((1, 2), int8))
    return agreement


EQUAL = [(Answer(boxes=(box(),)), Answer(boxes=(box(),)))] * 300


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
def test_wrong_boxes_are_refused(wrong: Answer | None) -> None:
    reference = Answer(boxes=(box(),))
    assert "293 of 300 shapes" in (compared(*EQUAL[7:], *[(reference, wrong)] * 7).refusal(FLOOR) or "")
    assert compared(*EQUAL[4:], *[(reference, wrong)] * 4).refusal(FLOOR) is None


def test_boxes_of_nothing_are_refused() -> None:
    ghosts = Answer(boxes=(box(),))
    assert "300 of 307 shapes" in (compared(*EQUAL, *[(Answer(), ghosts)] * 7).refusal(FLOOR) or "")


def test_one_box_pairs_with_one_box_only() -> None:
    twice = Answer(boxes=(box(), box()))
    agreement = compared(*[(twice, Answer(boxes=(box(),)))] * 20)
    assert agreement.shapes == Count(equal=20, items=40)


def test_wrong_words_of_a_caption_are_refused() -> None:
    right, wrong = Answer(text="two dogs play in a garden"), Answer(text="two cats play in a garden")
    assert compared(*[(right, right)] * 200).refusal(FLOOR) is None
    refusal = compared(*[(right, right)] * 160, *[(right, wrong)] * 40).refusal(FLOOR)
    assert refusal == "1160 of 1200 words are equal (0.967, floor 0.98)"


def test_wrong_statements_are_refused_although_most_words_are_equal() -> None:
    right = Answer(text="A dog runs in a garden with high trees. A cat sits on the wall behind the trees.")
    wrong = Answer(text="A dog runs in a garden with high trees. A cat sits on the wall above the trees.")
    agreement = compared(*[(right, right)] * 180, *[(right, wrong)] * 20, task="detailed_caption")
    assert agreement.words.share == 0.9944
    assert agreement.refusal(FLOOR) == "380 of 400 statements are equal (0.950, floor 0.98)"
    assert compared(*[(right, wrong)] * 200, task="ocr").statements.items == 0


def test_letters_of_a_sign_count_as_words() -> None:
    sign = Answer(quads=(Quad(SQUARE, "EXIT"),))
    misread = Answer(quads=(Quad(SQUARE, "EXLT"),))
    agreement = compared(*[(sign, misread)] * 120)
    assert agreement.shapes == Count(equal=120, items=120)
    assert "0 of 120 words" in (agreement.refusal(FLOOR) or "")


def test_outlines_are_compared_by_area() -> None:
    expected = Answer(polygons=(Polygon(SQUARE, ""),))
    moved = Answer(polygons=(Polygon(tuple((x + 0.1, y) for x, y in SQUARE), ""),))
    assert compared(*[(expected, expected)] * 120).refusal(FLOOR) is None
    assert "0 of 20 shapes" in (compared(*[(expected, moved)] * 20).refusal(FLOOR) or "")


@pytest.mark.parametrize("answer", [Answer(), None], ids=["empty", "failed"])
def test_answers_without_content_are_refused(answer: Answer | None) -> None:
    assert "answers are empty" in (compared(*[(answer, answer)] * 100).refusal(FLOOR) or "")


@pytest.mark.parametrize(
    ("equal", "items", "passes"),
    [
        (99, 99, False),  # fewer than 100
        (100, 100, True),
        (149, 150, True),  # at least 0.970
        (139, 140, False),  # 0.993 of them are equal, but it could be 0.968
        (392, 400, False),  # at the floor, but it could be 0.965
        (980, 1000, True),
        (979, 1000, False),  # below the floor
    ],
)
def test_few_items_must_be_nearly_all_equal(equal: int, items: int, passes: bool) -> None:
    assert (Count(equal, items).refusal("shapes", FLOOR) is None) is passes


def test_lower_bound_of_the_share() -> None:
    assert Count(100, 100).least == pytest.approx(0.9737, abs=1e-4)
    assert Count(50, 100).least == pytest.approx(0.4187, abs=1e-3)
    assert Count().least == 0


def test_floor_is_the_callers() -> None:
    pairs = [*EQUAL[:300], *[(Answer(boxes=(box(),)), Answer())] * 300]
    assert compared(*pairs).refusal(0.45) is None
    assert compared(*pairs).refusal(0.51)


def test_tokens_are_reported() -> None:
    agreement = Agreement("caption")
    answer = Answer(text="a dog")
    agreement.add(Generated((1, 2, 3, 4), answer), Generated((1, 2, 4), answer))
    assert agreement.row(FLOOR)["tokens"] == 0.75
