"""The results that get a snapshot: those whose answer alone can make a rule true."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from streamer.config.model import from_mapping
from streamer.inference.snapshot_choice import SnapshotChoice
from streamer.types import Answer, Box, Quad, Result
from tests.support.sample_events import result

TASKS = [
    {"task": "object_detection", "name": "people"},
    {"task": "object_detection", "name": "cars"},
    {"task": "caption", "name": "scene"},
    {"task": "ocr_with_region", "name": "plates"},
]
STAR, RING = Box(0.1, 0.1, 0.3, 0.3, "star", 0.9), Box(0.5, 0.5, 0.7, 0.7, "ring", 0.5)
PERSON: dict[str, Any] = {"label": "star", "task": "people"}


def wants(when: dict[str, Any], one: Result, snapshots: dict[str, Any] | None = None) -> bool:
    streams = {"gate": {"source": "synthetic", "tasks": TASKS}}
    rules = {"rule": {"when": when}} if when else {}
    config = from_mapping({"agent": "home", "streams": streams, "rules": rules, "snapshots": snapshots or {}})
    return SnapshotChoice(config).wants(one, config.streams)


def answer(*boxes: Box, name: str = "people", **changes: Any) -> Result:
    outcome = "ok" if boxes or changes else "empty"
    return result(name=name, answer=Answer(boxes=boxes, **changes), outcome=outcome)


@pytest.mark.parametrize(
    ("when", "one", "expected"),
    [
        (PERSON, answer(STAR), True),
        (PERSON, answer(RING), False),
        (PERSON, answer(), False),
        (PERSON, answer(STAR, name="cars"), False),
        ({**PERSON, "min_score": 0.95}, answer(STAR), False),
        ({**PERSON, "min_score": 0.95, "clear_score": 0.8}, answer(STAR), True),
        ({**PERSON, "count": "== 0"}, answer(), True),
        ({**PERSON, "absent": "1m"}, answer(), True),
        ({**PERSON, "disappears": True}, answer(), True),
        ({**PERSON, "dwell": "1m"}, answer(), False),
        ({"not": PERSON}, answer(), True),
        ({"not": PERSON}, answer(name="cars"), False),
        ({"all": [PERSON, {"not": {"label": "ring", "task": "people"}}]}, answer(RING), False),
        ({"all": [PERSON, {"label": "ring", "task": "cars"}]}, answer(STAR), True),
        ({"any": [PERSON, {"label": "ring", "task": "cars"}]}, answer(RING), False),
        ({"any": [PERSON, {"label": "ring", "task": "cars"}]}, answer(RING, name="cars"), True),
        ({"says": "fire"}, answer(text="a fire", name="scene"), True),
        ({"says": "fire"}, answer(name="scene"), False),
        ({"reads": "HH"}, answer(name="plates", quads=(Quad(((0, 0), (1, 0), (1, 1), (0, 1)), "HH 1"),)), True),
        ({"stream": "down"}, answer(STAR), False),
    ],
)
def test_answer_that_can_make_a_rule_true_is_wanted(when: dict[str, Any], one: Result, expected: bool) -> None:
    assert wants(when, one) is expected


def test_job_without_answer_is_never_wanted() -> None:
    for outcome in ("stale", "dropped", "error", "timeout", "unchanged"):
        one = replace(answer(STAR), outcome=outcome)
        assert not wants({"not": PERSON}, one, {"results": True})


def test_results_option_wants_each_answer_with_something() -> None:
    assert wants({}, answer(STAR), {"results": True})
    assert not wants({}, answer(), {"results": True})
    assert not wants({}, answer(STAR))


def test_incidents_option_off_wants_none() -> None:
    assert not wants(PERSON, answer(STAR), {"incidents": False})
    assert wants(PERSON, answer(STAR), {"incidents": False, "results": True})
