"""The JSON of events is a contract with users: it is compared as a whole, not field by field."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.core.redact import remember
from streamer.events.build import MAX_TEXT, clean, result_event, result_id, sink_event, status_event, worker_event
from streamer.events.schema import accepted, decode, encode, numbered
from streamer.types import Answer, Box, Confirmation, Polygon, Quad, Refused, Region, Span
from tests.support import sample_events


def as_json(event: Any) -> Any:
    return json.loads(encode(event))


def test_result_event_json_matches_the_contract() -> None:
    event = numbered(accepted(sample_events.event(seq=1042), 0.0602), 42)

    assert as_json(event) == {
        "specversion": "1.0",
        "type": "streamer.result.v1",
        "source": "/agents/home/streams/gate",
        "id": result_id("home", "gate", 1764000000123, 1042, "people"),
        "subject": "people",
        "time": "2025-11-24T16:00:00.123456Z",
        "sequence": "0000000000000042",
        "datacontenttype": "application/json",
        "data": {
            "stream": "gate",
            "epoch": 1764000000123,
            "name": "people",
            "task": "object_detection",
            "outcome": "ok",
            "text": None,
            "region": None,
            "zone": None,
            "frame": {"seq": 1042, "pts": 34.733, "width": 1920, "height": 1080},
            "result": {
                "text": None,
                "score": None,
                "polygons": [],
                "quads": [],
                "boxes": [
                    {"label": "person", "score": 0.93, "box": [0.1, 0.2, 0.3, 0.6], "pixels": [192, 216, 576, 648]}
                ],
            },
            "timing": {"waited_ms": 12.1, "inference_ms": 41.0, "age_ms": 60.2},
            "model": "tiny",
            "quality": "fast",
        },
    }


def test_spans_have_their_places_in_the_cleaned_text() -> None:
    text = "\x1b🙂 a red\x00 ring and a dog"
    ring, dog = Box(0.1, 0.2, 0.3, 0.6, "a red ring", 0.9), (text.index("a dog"), len(text))
    spans = (Span(3, text.index(" and"), (ring,), 0.83333, True), Span(*dog, (), math.nan, False))
    event = result_event("home", sample_events.result(answer=Answer(text=text, spans=spans)), "tiny")
    body = as_json(event)["data"]["result"]
    assert body["text"] == "🙂 a red ring and a dog"
    assert [body["text"][span["start"] : span["end"]] for span in body["spans"]] == ["a red ring", "a dog"]
    assert body["spans"] == [
        {"start": 2, "end": 12, "phrase": "a red ring", "score": 0.8333, "supported": True,
         "boxes": [{"label": "a red ring", "score": 0.9, "box": [0.1, 0.2, 0.3, 0.6], "pixels": [192, 216, 576, 648]}]},
        {"start": 17, "end": 22, "phrase": "a dog", "score": None, "supported": False, "boxes": []},
    ]  # fmt: skip
    assert event.data.result is not None
    assert event.data.result.marked_text == "🙂 a red ring and a dog (?)"
    assert decode(encode(event)) == event


def test_span_behind_the_cut_of_a_long_text_is_left_out() -> None:
    spans = (Span(0, 5, (), 0.1, False), Span(MAX_TEXT + 1, MAX_TEXT + 5, (), 0.1, False))
    event = result_event("home", sample_events.result(answer=Answer(text="a" * 2 * MAX_TEXT, spans=spans)), "tiny")
    assert [span["end"] for span in as_json(event)["data"]["result"]["spans"]] == [5]


def test_status_event_json_matches_the_contract() -> None:
    frames = {"captured": 900, "not_asked": 840, "done": 58, "dropped": {"stale": 2}, "in_flight": 0}
    event = status_event("home", "gate", "down", "read timed out after 5 s", 0.7, frames, epoch=1764000000123)

    whole = as_json(event)

    assert whole.pop("time").endswith("Z")
    assert whole.pop("id")
    assert whole == {
        "specversion": "1.0",
        "type": "streamer.status.v1",
        "source": "/agents/home/streams/gate",
        "subject": "stream.down",
        "sequence": "",
        "datacontenttype": "application/json",
        "data": {
            "stream": "gate",
            "epoch": 1764000000123,
            "state": "down",
            "reason": "read timed out after 5 s",
            "retry_in_s": 0.7,
            "frames": frames,
        },
    }


def test_worker_and_sink_events_name_their_subject() -> None:
    worker, sink = (
        worker_event("home", "capture:gate", "restarted", "killed", 1.0, "gate"),
        sink_event("home", "a", "up"),
    )

    assert (worker.source, worker.subject, worker.data.worker) == ("/agents/home", "worker.restarted", "capture:gate")
    assert (sink.source, sink.subject, sink.data.sink) == ("/agents/home/sinks/a", "sink.up", "a")


def test_id_depends_on_the_question_not_the_answer() -> None:
    again = result_event("home", sample_events.result(outcome="error", error="boom"), "large")

    assert again.id == sample_events.event().id
    others = [sample_events.event(seq=1), sample_events.event(stream="yard"), sample_events.event(name="cars")]
    others.append(sample_events.event(agent="shop"))
    assert len({again.id, *(event.id for event in others)}) == 5


@pytest.mark.parametrize("outcome", ["unchanged", "stale", "dropped", "error", "timeout"])
def test_outcome_without_answer_has_null_result(outcome: Any) -> None:
    data = result_event("home", sample_events.result(outcome=outcome, started_mono=0.0), "tiny").data

    assert data.result is None
    assert data.timing.waited_ms is None


def test_empty_outcome_has_an_empty_result() -> None:
    empty = sample_events.result(outcome="empty", answer=Answer())

    body = result_event("home", empty, "tiny").data.result

    assert body is not None
    assert body.boxes == ()


def test_error_key_is_present_only_with_an_error() -> None:
    remember("hunter2")
    failed = sample_events.result(outcome="error", error="cannot read rtsp://user:pass@cam/ with hunter2\x1b[0m")

    assert as_json(result_event("home", failed, "tiny"))["data"]["error"] == ("cannot read rtsp://***@cam/ with ***[0m")
    assert "error" not in as_json(sample_events.event())["data"]


def test_near_key_is_present_only_with_near_locations() -> None:
    result = sample_events.result()
    assert "near" not in as_json(result_event("home", result, "tiny"))["data"]
    event = as_json(result_event("home", replace(result, near=3), "tiny"))
    assert event["data"]["near"] == 3
    assert as_json(decode(json.dumps(event).encode())) == event


def test_status_reason_hides_credentials() -> None:
    assert "pass" not in encode(status_event("home", "gate", "down", "rtsp://user:pass@cam/ refused")).decode()


def test_event_repeats_text_and_region_of_the_task() -> None:
    params = SimpleNamespace(quality="fast", prompt_text="a ladder", prompt_region=Region(0.1, 0.2, 0.3, 0.4))

    data = as_json(result_event("home", sample_events.result(params=params), "tiny"))["data"]

    assert (data["text"], data["region"]) == ("a ladder", [0.1, 0.2, 0.3, 0.4])


def test_polygons_and_quads_have_pixels() -> None:
    corners = ((0.0, 0.0), (0.5, 0.0), (0.5, 0.25), (0.0, 0.25))
    answer = Answer(polygons=(Polygon(corners[:3], "car", 0.5),), quads=(Quad(corners, "STOP"),))

    body = as_json(result_event("home", sample_events.result(answer=answer), "tiny"))["data"]["result"]

    triangle = {"label": "car", "score": 0.5, "points": [[0, 0], [0.5, 0], [0.5, 0.25]]}
    assert body["polygons"] == [{**triangle, "pixels": [[0, 0], [960, 0], [960, 270]]}]
    assert body["quads"][0]["pixels"] == [[0, 0], [960, 0], [960, 270], [0, 270]]


def test_nan_and_infinite_scores_become_null() -> None:
    answer = Answer(text="x", score=math.inf, boxes=(Box(0, 0, 1, 1, "a", math.nan),))

    body = as_json(result_event("home", sample_events.result(answer=answer), "tiny"))["data"]["result"]

    assert body["score"] is None
    assert body["boxes"][0]["score"] is None


@given(st.text(st.characters(categories=["Cc", "Cs", "Zl", "Zp", "L"])))
def test_model_text_cannot_break_a_line_or_a_terminal(text: str) -> None:
    answer = Answer(text=text, boxes=(Box(0, 0, 1, 1, text),))
    event = result_event("home", sample_events.result(answer=answer), "tiny")

    body = encode(event)

    assert len(body.decode().splitlines()) == 1
    assert decode(body) == event
    assert not set(clean(text)) & {"\x1b", "\x00", "\r", "\u2028"}


def test_long_text_is_truncated() -> None:
    assert len(clean("x" * (MAX_TEXT + 1))) == MAX_TEXT


def test_refused_shapes_are_in_the_event() -> None:
    refused = Refused(Box(0.5, 0.5, 0.75, 1.0, "ladder", 0.61), "words", "a\x1b broom", math.nan)
    small = Refused(Box(0, 0, 0, 0, "ladder"), "small")
    whole = sample_events.result(answer=Answer(confirmation=Confirmation(0, (refused, small))), outcome="empty")
    assert as_json(result_event("home", whole, "tiny"))["data"]["confirmation"] == {
        "confirmed": 0,
        "refused": [
            {
                "label": "ladder",
                "score": 0.61,
                "box": [0.5, 0.5, 0.75, 1.0],
                "pixels": [960, 540, 1440, 1080],
                "reason": "words",
                "said": "a broom",
                "support": None,
            },
            {
                "label": "ladder",
                "score": None,
                "box": [0.0, 0.0, 0.0, 0.0],
                "pixels": [0, 0, 0, 0],
                "reason": "small",
                "said": None,
                "support": None,
            },
        ],
    }
