"""A result of the engine makes a valid event, whatever numbers are in it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.events.build import result_event
from streamer.events.schema import decode, encode
from streamer.inference.result_check import check_numbers
from streamer.types import Answer, Box, Confirmation, Polygon, Quad, Refused, Span
from tests.support.sample_events import result

NUMBERS = st.sampled_from((math.nan, math.inf, -math.inf, 1e308, -1e300, -0.0, 0.5, 1.0)) | st.floats()
POINTS = st.tuples(NUMBERS, NUMBERS)
SCORES = st.none() | NUMBERS
ANSWERS = st.builds(
    Answer,
    score=SCORES,
    boxes=st.tuples(st.builds(Box, NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.just("a"), SCORES)) | st.just(()),
    polygons=st.tuples(st.builds(Polygon, st.tuples(POINTS, POINTS, POINTS), st.just("a"), SCORES)) | st.just(()),
    quads=st.tuples(st.builds(Quad, st.tuples(POINTS, POINTS, POINTS, POINTS), st.just("a"), SCORES)) | st.just(()),
    confirmation=st.none()
    | st.builds(
        lambda box, support: Confirmation(0, (Refused(box, "words", "a", support),)),
        st.builds(Box, NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.just("a"), SCORES),
        SCORES,
    ),
)


@settings(max_examples=300)
@given(ANSWERS, NUMBERS, NUMBERS, st.none() | NUMBERS, st.integers(-1, 8))
def test_hostile_numbers_make_a_valid_event(
    answer: Answer, started: float, took: float, device: float | None, batch: int
) -> None:
    whole = result(answer=answer, started_mono=started, inference_s=took, device_s=device, batch=batch)
    checked = check_numbers(whole)
    assert math.isfinite(checked.device_seconds)
    event = result_event("home", checked, "tiny")
    assert decode(encode(event)) == event


@pytest.mark.parametrize(
    "answer", [Answer(), Answer(text="a", score=math.nan), Answer(boxes=(Box(-0.1, 0, 1.1, 1, "a"),))]
)
def test_valid_result_is_unchanged(answer: Answer) -> None:
    given = result(answer=answer)
    assert check_numbers(given) is given


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"answer": Answer(boxes=(Box(0, 0, math.nan, 1, "a"),))}, "the engine returned invalid coordinates"),
        (
            {"answer": Answer(polygons=(Polygon(((0, 0), (1, 9), (1, 1)), "a"),))},
            "the engine returned invalid coordinates",
        ),
        (
            {"answer": Answer(text="a", spans=(Span(0, 1, (Box(0, 0, math.nan, 1, "a"),), 0.5, True),))},
            "the engine returned invalid coordinates",
        ),
        (
            {"answer": Answer(confirmation=Confirmation(0, (Refused(Box(0, 0, 9, 1, "a"), "words"),)))},
            "the engine returned invalid coordinates",
        ),
        ({"inference_s": math.nan}, "the engine returned invalid times"),
        ({"device_s": math.inf}, "the engine returned invalid times"),
        ({"batch": 0}, "the engine returned invalid times"),
    ],
)
def test_invalid_number_is_an_error(changes: dict[str, Any], error: str) -> None:
    checked = check_numbers(result(**changes))
    assert (checked.outcome, checked.answer) == ("error", Answer())
    assert checked.error == error
