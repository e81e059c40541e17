"""Follow-ups: the shapes that get one, their jobs, and what is left out."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from streamer.config.follow_up import FollowUp
from streamer.config.model import find_pipeline, from_mapping
from streamer.config.task import ScheduledTask
from streamer.events.build import result_event
from streamer.inference.follow_ups import FollowUps
from streamer.types import Answer, Box, DueTask, Frame, Job, Parent, Polygon, Quad, Region, Result

BOX = Box(0.1, 0.2, 0.3, 0.6, "person", 0.9, track=1)


def task(kind: str = "object_detection", child: str = "region_to_category", **keys: Any) -> ScheduledTask:
    """Return a task with one follow-up; `keys` are keys of the follow-up as in a config."""
    text = {"text": "a dog"} if find_pipeline().tasks()[kind].takes_text else {}
    whole = {"task": kind, **text, "then": [{"task": child, **keys}]}
    return from_mapping({"streams": {"gate": {"source": "synthetic", "tasks": [whole]}}}).streams["gate"].tasks[0]


def frame(seq: int = 0, at: float = 0.0, level: int = 0) -> Frame:
    return Frame("gate", 1, seq, at, at, at, np.full((100, 200, 3), level, np.uint8))


def result(parent: Any, *boxes: Box, at: float = 0.0, level: int = 0, **answer: Any) -> Result:
    picture = frame(round(at * 10), at, level)
    return Result(Job(DueTask("gate", parent, 7.0), picture), "ok", Answer(boxes=boxes, **answer))


def labels(jobs: list[Job]) -> list[str | None]:
    return [job.due.parent.label for job in jobs if job.due.parent]


def test_every_shape_becomes_a_job_on_the_same_frame() -> None:
    parent = task()
    other = replace(BOX, x0=0.5, x1=0.8, label="car", score=0.95, track=None)
    whole = result(parent, BOX, other)
    jobs, counts = FollowUps().plan(whole, "e1")
    assert labels(jobs) == ["car", "person"]  # the best score first
    (car, person) = jobs
    assert person.frame is whole.job.frame
    assert person.due.parent == Parent("e1", (0,), "person", 1, Region(0.1, 0.2, 0.3, 0.6))
    assert person.due.task.params.prompt_region == Region(0.1, 0.2, 0.3, 0.6)
    assert (person.due.deadline, person.due.origin) == (7.0, "follow_up")
    assert {car.due.key, person.due.key} == {"region_to_category#0", "region_to_category#1"}
    assert counts is not None
    assert (counts.asked, counts.left_out) == (2, {})


@pytest.mark.parametrize(
    ("answer", "region"),
    [
        (Answer(polygons=(Polygon(((0.1, 0.1), (0.5, 0.1), (0.3, 0.9)), "dog"),)), Region(0.1, 0.1, 0.5, 0.9)),
        (Answer(quads=(Quad(((0.1, 0.1), (1.2, 0.1), (1.2, 0.5), (0.1, 0.5)), "A1"),)), Region(0.1, 0.1, 1.0, 0.5)),
    ],
)
def test_outlines_are_asked_about_by_their_bounding_box(answer: Answer, region: Region) -> None:
    whole = replace(result(task("ocr_with_region", "region_to_ocr")), answer=answer)
    (job,), _ = FollowUps().plan(whole, "e1")
    assert job.due.task.params.prompt_region == region


def test_text_is_asked_about_as_a_text() -> None:
    whole = result(task("caption", "phrase_grounding"), text="a dog and a cat")
    (job,), _ = FollowUps().plan(whole, "e1")
    assert job.due.task.params.prompt_text == "a dog and a cat"
    assert job.due.parent == Parent("e1", (0,))


def test_text_with_model_tokens_is_left_out() -> None:
    jobs, counts = FollowUps().plan(result(task("caption", "phrase_grounding"), text="a <loc_1> dog"), "e1")
    assert counts is not None
    assert (jobs, counts.left_out) == ([], {"unusable": 1})


def test_small_shapes_other_labels_and_too_many_are_left_out() -> None:
    small = Box(0.1, 0.1, 0.139, 0.9, "person")  # 7.8 pixels wide
    enough = Box(0.1, 0.1, 0.141, 0.9, "person", 0.8)
    boxes = [BOX, small, enough, replace(BOX, label="dog"), *[replace(BOX, score=0.1)] * 3]
    jobs, counts = FollowUps().plan(result(task(labels=["person"], most=3), *boxes), "e1")
    assert len(jobs) == 3
    assert counts is not None
    assert (counts.asked, counts.left_out) == (3, {"small": 1, "most": 2})


def test_overload_reduces_follow_ups() -> None:
    parent, boxes = task(most=4), [BOX] * 6
    for share, asked in ((1.0, 4), (0.5, 2), (0.125, 0), (0.0, 0)):
        _, counts = FollowUps().plan(result(parent, *boxes), "e1", share)
        assert counts is not None
        assert (counts.asked, counts.left_out.get("overload", 0)) == (asked, 4 - asked)


@pytest.mark.parametrize("outcome", ["error", "stale", "dropped", "timeout", "unchanged"])
def test_outcome_without_answer_has_no_follow_ups(outcome: Any) -> None:
    assert FollowUps().plan(replace(result(task(), BOX), outcome=outcome), "e1") == ([], None)


def test_new_track_is_asked_about_once() -> None:
    follow_ups, parent = FollowUps(), task(on="new_tracks")
    asked = [
        labels(follow_ups.plan(result(parent, *boxes, at=at), f"e{at}")[0])
        for at, boxes in enumerate(
            [[replace(BOX, track=None)], [BOX], [BOX, replace(BOX, track=2, label="car")], [BOX], []]
        )
    ]
    assert asked == [[], ["person"], ["car"], [], []]


def test_refresh_asks_again_about_a_known_track() -> None:
    follow_ups, parent = FollowUps(), task(on="new_tracks", refresh="2s")
    asked = [len(follow_ups.plan(result(parent, BOX, at=at), "e")[0]) for at in range(6)]
    assert asked == [1, 0, 1, 0, 1, 0]


def test_shape_without_an_answer_is_asked_about_again() -> None:
    follow_ups, parent = FollowUps(), task(on="new_tracks")
    (job,), _ = follow_ups.plan(result(parent, BOX), "e1")
    follow_ups.on_outcome(Result(job, "stale"))
    (again,), _ = follow_ups.plan(result(parent, BOX, at=1), "e2")
    follow_ups.on_outcome(Result(again, "ok", Answer(text="person")))
    assert follow_ups.plan(result(parent, BOX, at=2), "e3")[0] == []


def test_late_failure_of_an_older_follow_up_changes_nothing() -> None:
    follow_ups, parent = FollowUps(), task(on="new_tracks", refresh="1s")
    (old,), _ = follow_ups.plan(result(parent, BOX), "e1")
    follow_ups.plan(result(parent, BOX, at=1), "e2")
    follow_ups.on_outcome(Result(old, "stale"))
    assert follow_ups.plan(result(parent, BOX, at=1.5), "e3")[0] == []


def test_changed_picture_is_asked_about_again() -> None:
    follow_ups, parent = FollowUps(), task(on="changed")
    levels = [100, 103, 160, 160]
    asked = [len(follow_ups.plan(result(parent, BOX, at=at, level=level), "e")[0]) for at, level in enumerate(levels)]
    assert asked == [1, 0, 1, 0]


def test_changed_text_is_asked_about_again() -> None:
    follow_ups, parent = FollowUps(), task("caption", "phrase_grounding", on="changed")
    texts = ["a dog", "a dog", "a cat"]
    asked = [len(follow_ups.plan(result(parent, at=at, text=text), "e")[0]) for at, text in enumerate(texts)]
    assert asked == [1, 0, 1]


def test_shape_without_track_is_recognised_by_its_place() -> None:
    follow_ups, parent = FollowUps(), task(on="changed")
    first, moved = replace(BOX, track=None), replace(BOX, track=None, x0=0.12, x1=0.32)
    elsewhere = replace(first, x0=0.6, x1=0.8)
    asked = [len(follow_ups.plan(result(parent, box, at=at), "e")[0]) for at, box in enumerate([first, moved])]
    assert asked == [1, 0]
    assert len(follow_ups.plan(result(parent, elsewhere, at=2), "e")[0]) == 1


def test_memory_of_shapes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.inference.follow_ups.MAX_SHAPES", 3)
    follow_ups, parent = FollowUps(), task(on="new_tracks", most=1)
    for number in range(10):
        follow_ups.plan(result(parent, replace(BOX, track=number), at=number), "e")
    (memory,) = follow_ups._memories.values()
    assert [seen.shape.track for seen in memory.seen.values()] == [7, 8, 9]


def test_chain_names_each_answer_before() -> None:
    then = [{"task": "region_to_description", "then": [{"task": "phrase_grounding"}]}]
    config = from_mapping(
        {"streams": {"gate": {"source": "synthetic", "tasks": [{"task": "object_detection", "then": then}]}}}
    )
    follow_ups = FollowUps()
    first, _ = follow_ups.plan(result(config.streams["gate"].tasks[0], BOX, replace(BOX, score=0.1)), "e1")
    answer = Result(first[1], "ok", Answer(text="a person in a coat"))
    (deeper,), _ = follow_ups.plan(answer, "e2")
    assert deeper.due.parent == Parent("e2", (1, 0))
    assert deeper.due.key == "phrase_grounding#1.0"
    assert isinstance(deeper.due.task, FollowUp)


def test_event_names_its_parent_and_counts_follow_ups() -> None:
    follow_ups = FollowUps()
    whole = result(task(labels=["person"]), BOX)
    (job,), counts = follow_ups.plan(whole, "e1")
    parent = result_event("home", whole, "tiny", counts)
    child = result_event("home", Result(job, "ok", Answer(text="person")), "tiny")
    assert parent.data.follow_ups is not None
    assert parent.data.follow_ups.asked == 1
    assert child.data.parent is not None
    assert (child.data.parent.id, child.data.parent.track, child.data.parent.label) == ("e1", 1, "person")
    assert child.data.region == (0.1, 0.2, 0.3, 0.6)
    assert child.id != parent.id
    assert math.isfinite(job.due.deadline)
