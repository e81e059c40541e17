"""Answers of `streamer ask` as lines."""

from __future__ import annotations

import json
from typing import Any, get_args

from streamer.cli.ask import REASONS, refusals
from streamer.events.build import result_event
from streamer.events.schema import encode
from streamer.types import Answer, Box, Confirmation, Refusal, Refused
from tests.support import sample_events


def event(answer: Answer) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(encode(result_event("home", sample_events.result(answer=answer), "tiny")))
    return made


def test_refused_shapes_are_explained() -> None:
    named = Refused(Box(0.5, 0.5, 0.75, 1.0, "ladder", 0.61), "words", "a wooden broom", 0.04)
    small = Refused(Box(0, 0, 0.001, 0.5, "ladder"), "small")
    assert list(refusals(event(Answer(confirmation=Confirmation(0, (named, small)))))) == [
        "refused  ladder  0.61  0.50 0.50 0.75 1.00  named otherwise (0.04): the model sees `a wooden broom`",
        "refused  ladder  0.00 0.00 0.00 0.50  under 8 pixels",
    ]


def test_answer_without_a_second_look_has_nothing_to_explain() -> None:
    assert list(refusals(event(Answer()))) == []


def test_every_reason_has_words() -> None:
    assert REASONS.keys() == set(get_args(Refusal))
