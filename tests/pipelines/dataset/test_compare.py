"""Two models beside the truth: measures by task, what is judged worse, and a report that no text can break."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from pipelines.dataset.compare import Answers, ExampleSet, Question, Row, compare, example_set, to_ask
from pipelines.dataset.compare_page import MAX_PICTURE_BYTES, SHOWN, page, summary
from pipelines.dataset.metrics.calibration import calibration_error, reliability
from pipelines.dataset.metrics.detection import Match
from pipelines.florence2.examples import Example
from streamer.core.errors import ConfigError
from streamer.types import Answer, Box, Image, Polygon, Region

CAR, DOG = Box(0.1, 0.1, 0.5, 0.5, "car"), Box(0.6, 0.6, 0.9, 0.9, "dog")
HOSTILE = "<script>alert('1')</script>\"&\x00\u202e"


def scored(box: Box, score: float, **changes: object) -> Box:
    return replace(box, score=score, **changes)  # type: ignore[arg-type]


def boxes(*found: Box) -> Answer:
    return Answer(boxes=found)


def example(task: str, answer: Answer, image: str = "a.png", **prompt: object) -> Example:
    return Example(image, task, answer, **prompt)  # type: ignore[arg-type]


def answers(one: ExampleSet, found: Sequence[Answer]) -> Answers:
    return dict(zip(one.truth, found, strict=True))


def test_boxes_have_precision_threshold_and_worst_label() -> None:
    truth = example_set(
        "gate", [example("object_detection", boxes(CAR, DOG)), example("object_detection", boxes(CAR), "b.png")]
    )
    # The first model takes the dog for a cat, with a lower score; the second one finds all.
    ours = answers(truth, [boxes(scored(CAR, 0.9), scored(DOG, 0.4, label="cat")), boxes(scored(CAR, 0.8))])
    theirs = answers(truth, [boxes(scored(CAR, 0.9), scored(DOG, 0.7)), boxes(scored(CAR, 0.8))])
    (row,) = compare([truth], (ours, theirs))
    first, second = (side.values for side in row.sides)
    assert (first["AP50"], second["AP50"]) == (0.5, 1.0)
    assert (first["worst label"], first["AP50 of worst label"]) == ("dog", 0.0)
    assert (first["score from"], first["precision"], first["recall"]) == (0.8, 1.0, pytest.approx(2 / 3))
    assert (first["F1"], second["F1"]) == (pytest.approx(0.8), 1.0)
    assert (row.verdict, row.change) == ("better", 0.5)
    (low,) = compare([truth], (ours, theirs), least=0.0)
    assert (low.sides[0].values["precision"], low.sides[0].values["score from"]) == (pytest.approx(2 / 3), 0.0)


def test_calibration_error_is_the_mean_gap_of_score_and_share() -> None:
    matches = [Match(0.85, True)] * 3 + [Match(0.85, False)] + [Match(0.25, False)] * 4 + [Match(1.0, True)] * 2
    rows = reliability(matches)
    assert [(row.least, row.boxes, row.right) for row in rows] == [(0.2, 4, 0.0), (0.8, 4, 0.75), (0.9, 2, 1.0)]
    assert calibration_error(rows) == pytest.approx((4 * 0.25 + 4 * 0.1 + 2 * 0.0) / 10)
    assert calibration_error([]) is None


def test_each_kind_of_answer_has_its_measure() -> None:
    shape = Polygon(((0.1, 0.1), (0.5, 0.1), (0.5, 0.5), (0.1, 0.5)), "")
    truth = example_set(
        "old",
        [
            example("caption", Answer(text="a red car in a street")),
            example("caption", Answer(text="a car on a road")),  # a second reference
            example("caption", Answer(text="two brown dogs on green grass"), "b.png"),
            example("ocr", Answer(text="ABCD")),
            example("region_to_category", Answer(text="car"), region=Region(0.1, 0.1, 0.5, 0.5)),
            example("referring_segmentation", Answer(polygons=(shape,)), text="car"),
        ],
    )
    right = [some[0] for some in truth.truth.values()]
    wrong = [Answer(text="a bird"), Answer(text="a bird"), Answer(text="ABXX"), Answer(text="dog"), Answer()]
    rows = {row.task: row for row in compare([truth], (answers(truth, right), answers(truth, wrong)))}
    values = {task: [side.values[row.measure] for side in row.sides] for task, row in rows.items()}
    assert {task: row.measure for task, row in rows.items()} == {
        "caption": "CIDEr-D",
        "ocr": "error rate",
        "region_to_category": "right",
        "referring_segmentation": "AP50",
    }
    assert values["caption"][0] > 5 > values["caption"][1]
    assert values["ocr"] == [0.0, 0.5]
    assert values["region_to_category"] == [1.0, 0.0]
    assert values["referring_segmentation"] == [1.0, 0.0]
    assert all(row.verdict == "worse" for row in rows.values())
    assert summary(list(rows.values())).startswith(
        "The second model is better in 0, equal in 0 and worse in 4 of 4 rows. Worse: caption (old)"
    )
    assert rows["caption"].questions == 2


def test_question_without_an_answer_is_counted() -> None:
    truth = example_set("gate", [example("ocr", Answer(text="ABCD"))])
    (row,) = compare([truth], ({}, answers(truth, [Answer(text="ABCD")])))
    assert [side.failed for side in row.sides] == [1, 0]
    assert row.sides[0].values["error rate"] == 1.0


def test_questions_are_asked_once_by_picture() -> None:
    one = example_set(
        "a",
        [
            example("ocr", Answer(text="x")),
            example("caption", Answer(text="y")),
            example("ocr", Answer(text="z"), "b.png"),
        ],
    )
    both = [
        one,
        example_set(
            "b", [example("caption", Answer(text="w")), example("open_vocabulary_detection", Answer(), text="dog")]
        ),
    ]
    asked = to_ask(both)
    assert [(shot.image, [task.task for task in tasks]) for shot, tasks in asked] == [
        ("a.png", ["ocr", "caption", "open_vocabulary_detection"]),
        ("b.png", ["ocr"]),
    ]
    assert asked[0].tasks[2].params.prompt_text == "dog"


class Elements(HTMLParser):
    """The elements of a page, with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def report(images: Sequence[str], side: int = 600) -> tuple[str, list[Row]]:
    """Return the report on pictures of noise whose names, labels and answers are markup."""
    rng = np.random.default_rng(1)
    picture = rng.integers(0, 256, (side, side, 3), np.uint8)

    def read(image: str) -> Image:
        if image == "broken.png":
            raise ConfigError("no picture")
        return picture

    truth = example_set(
        HOSTILE,
        [example("object_detection", boxes(replace(CAR, label=HOSTILE)), image) for image in images]
        + [example("ocr", Answer(text=HOSTILE), image) for image in images],
    )
    found = {
        question: Answer(text=HOSTILE)
        if question.task == "ocr"
        else boxes(scored(CAR, 0.9, label=HOSTILE), scored(DOG, 0.9))
        for question in truth.truth
    }
    rows = compare([truth], (found, {}))
    return page((HOSTILE, "b"), rows, [truth], (found, {}), read), rows


def test_report_shows_no_markup_of_others() -> None:
    text, _ = report([HOSTILE, "broken.png", "b.png"])
    text.encode()
    parsed = Elements(text)
    allowed = {
        *("html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "div", "span", "table", "thead", "tbody"),
        *("tr", "th", "td", "br", "details", "summary", "figure", "figcaption", "svg", "image", "use", "rect", "text"),
    }
    assert {tag for tag, _ in parsed.elements} <= allowed
    assert not [
        name for _, attributes in parsed.elements for name in attributes if name.startswith("on") or name == "src"
    ]
    links = [value or "" for _, attributes in parsed.elements for name, value in attributes.items() if name == "href"]
    assert links
    assert all(link.startswith(("#p", "data:image/jpeg;base64,")) for link in links)
    assert "<script>alert('1')</script>" in parsed.text
    assert not {"\x00", "\u202e"} & set(text)
    assert parsed.text.count("further pictures are not shown") == 1  # the broken one
    policies = [one["content"] for tag, one in parsed.elements if tag == "meta" and "http-equiv" in one]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_pictures_of_a_report_are_limited() -> None:
    text, _ = report([f"{number}.png" for number in range(SHOWN + 6)])
    assert text.count("<figure>") == SHOWN
    assert text.count("data:image/jpeg") == SHOWN  # each picture once, for both sides
    assert "6 further pictures are not shown" in text
    assert len(text) < 2 * MAX_PICTURE_BYTES


def test_numbers_are_json() -> None:
    _, rows = report(["a.png"])
    content = rows[0].to_json()
    assert content["models"][0]["AP50"] == 1.0
    assert content["models"][1] == content["models"][1] | {"failed": 1, "AP50": 0.0, "calibration error": None}
    assert content["models"][0]["reliability"] == [{"least": 0.9, "boxes": 2, "score": 0.9, "right": 0.5}]
    assert Question("a.png", "ocr", None, None) in example_set("a", [example("ocr", Answer(text="x"))]).truth
