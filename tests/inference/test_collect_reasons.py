"""Reasons to collect a frame: unsure scores, tasks that disagree, tracks with a break."""

from __future__ import annotations

from typing import Any

import pytest

from streamer.config.model import find_pipeline
from streamer.inference.collect_reasons import Break, Disagreements, TrackMemory, unsure
from streamer.types import (
    Answer,
    Box,
    Confirmation,
    DueTask,
    Job,
    Parent,
    Polygon,
    Refusal,
    Refused,
    Result,
    Span,
    Task,
)
from tests.support.sample_events import frame

SPECS = find_pipeline().tasks()


def box(label: str, left: float = 0.2, score: float | None = None, track: int | None = None) -> Box:
    return Box(left, 0.2, left + 0.2, 0.6, label, score, track)


def result(task: str, answer: Answer, text: str | None = None, parent: Parent | None = None) -> Result:
    keys: dict[str, Any] = {} if text is None else {"text": text}
    if parent is not None and SPECS[task].takes_region:
        keys = {"region": (0.2, 0.2, 0.4, 0.6)}
    made = Task(task, task, SPECS[task].parameters.model_validate(keys))
    return Result(Job(DueTask("gate", made, 0.0, parent=parent), frame()), "ok", answer)


def boxes(*found: Box, task: str = "object_detection", text: str | None = None) -> Result:
    return result(task, Answer(boxes=found), text)


def found(*results: Result, before: tuple[Result, ...] = ()) -> list[str]:
    disagreements = Disagreements(SPECS)
    for one in before:
        list(disagreements.find([one]))
    return list(disagreements.find(results))


def test_scores_between_the_limits_are_unsure() -> None:
    outline = result("referring_segmentation", Answer(polygons=(Polygon(((0, 0), (1, 0), (1, 1)), "dog", 0.5),)), "dog")
    detected = boxes(box("car", score=0.9), box("van", score=0.55), box("bus", score=0.45), box("cat"))
    assert list(unsure([detected, outline], 0.4, 0.6)) == [
        "score: object_detection: bus 0.45",
        "score: referring_segmentation: dog 0.50",
    ]
    assert list(unsure([detected], 0.6, 0.8)) == []


def test_object_that_the_other_task_searched_for_and_missed() -> None:
    grounded = boxes(task="open_vocabulary_detection", text="a person")
    assert found(boxes(box("person")), grounded) == [
        "disagreement: object_detection found person, open_vocabulary_detection did not"
    ]
    at_place = boxes(box("person", 0.22), task="open_vocabulary_detection", text="a person")
    assert found(boxes(box("person")), at_place) == []


def test_task_for_something_else_does_not_disagree() -> None:
    ladder = boxes(task="open_vocabulary_detection", text="a person carrying a ladder")
    assert found(boxes(box("person")), ladder) == []
    assert found(boxes(box("car")), boxes(task="open_vocabulary_detection", text="a person")) == []
    # The detection has no label `ladder` that is known.
    assert found(boxes(), boxes(box("ladder"), task="open_vocabulary_detection", text="a ladder")) == []


def test_label_that_a_task_gave_before_is_known() -> None:
    searched = boxes(box("person"), task="open_vocabulary_detection", text="a person")
    assert found(boxes(), searched, before=(boxes(box("person")),)) == [
        "disagreement: open_vocabulary_detection found person, object_detection did not"
    ]


def test_proposals_without_an_object_disagree() -> None:
    elsewhere = boxes(box("", 0.7), task="region_proposal")
    assert found(boxes(box("car")), elsewhere) == ["disagreement: object_detection found car, region_proposal did not"]
    assert found(boxes(box("car")), boxes(box("", 0.21), task="region_proposal")) == []
    assert found(boxes(), elsewhere) == []


@pytest.mark.parametrize(("text", "count"), [("truck", 1), ("a red van", 0), ("Van", 0)])
def test_category_of_a_region_with_another_name_disagrees(text: str, count: int) -> None:
    category = result("region_to_category", Answer(text=text), parent=Parent("id", (0,), "van"))
    assert len(found(category)) == count
    read = result("region_to_ocr", Answer(text=text), parent=Parent("id", (0,), "van"))
    assert found(read) == []


@pytest.mark.parametrize(("reason", "count"), [("words", 1), ("score", 1), ("small", 0), ("most", 0)])
def test_second_look_that_denies_a_shape_disagrees(reason: Refusal, count: int) -> None:
    refused = Refused(box("dog"), reason, "cat", 0.1)
    assert len(found(result("object_detection", Answer(confirmation=Confirmation(0, (refused,)))))) == count


def test_unsupported_phrase_of_a_caption_disagrees() -> None:
    spans = (Span(0, 5, (box("a car"),), 0.9, True), Span(10, 15, (), 0.1, False))
    answer = Answer(text="a car and a dog", spans=spans)
    assert found(result("grounded_caption", answer)) == ["disagreement: grounded_caption: a dog was not found"]


def observed(*answers: tuple[Box, ...]) -> tuple[list[str], list[Break]]:
    memory = TrackMemory()
    for some in answers[:-1]:
        memory.observe(some)
    return memory.observe(answers[-1])


def test_tracked_object_that_is_missing_once() -> None:
    car = (box("car", track=4),)
    assert observed(car, car, car, ()) == ([], [Break(4, "car")])
    assert observed(car, car, ()) == ([], [])
    assert observed(car, car, car, (), ()) == ([], [])
    leaving = (box("car", 0.79, track=4),)
    assert observed(leaving, leaving, leaving, ()) == ([], [])


def test_tracked_object_with_another_label() -> None:
    car, van = (box("car", track=4),), (box("van", 0.21),)
    assert observed(car, car, car, van) == (["car became van"], [])
    assert observed(car, car, car, (box("van", 0.7),)) == ([], [Break(4, "car")])
    assert observed(car, car, car, (*van, box("car", 0.22, track=9))) == ([], [])
