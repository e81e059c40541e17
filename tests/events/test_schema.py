"""Decoding events, and the JSON Schema."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streamer.core.errors import WireError
from streamer.events.build import status_event
from streamer.events.schema import accepted, decode, encode, schema
from tests.support import sample_events


def as_json(event: Any) -> Any:
    return json.loads(encode(event))


def test_acceptance_sets_age_of_results_only() -> None:
    status = status_event("home", "gate", "up")

    assert accepted(status, 1.0) == status
    assert accepted(sample_events.event(), None) == sample_events.event()
    old = accepted(sample_events.event(), 1.23456)
    assert as_json(old)["data"]["timing"]["age_ms"] == 1234.6


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[]", b"\xff", b'{"type": "streamer.result.v1"}', b'{"type": "other"}', b"[" * 100_000],
)
def test_decoding_anything_but_an_event_is_a_wire_error(body: bytes) -> None:
    with pytest.raises(WireError, match="not an event"):
        decode(body)


def test_decode_ignores_keys_of_a_newer_agent() -> None:
    newer = as_json(sample_events.event())
    newer["traceparent"] = "00-1"
    newer["data"]["track"] = 7

    assert decode(json.dumps(newer).encode()) == sample_events.event()


def test_json_schema_describes_all_event_types() -> None:
    whole = schema()

    assert whole["$schema"].endswith("2020-12/schema")
    assert {part["$ref"] for part in whole["oneOf"]} == {
        f"#/$defs/{kind}Event" for kind in ("Result", "Status", "Incident")
    }
    required = whole["$defs"]["ResultEvent"]["required"]
    assert {"specversion", "type", "source", "id", "subject", "time", "sequence", "data"} <= set(required)
    data = whole["$defs"]["ResultData"]
    assert set(data["properties"]) - set(data["required"]) == {
        "error", "near", "since", "parent", "follow_ups", "crop", "confirmation", "changes", "snapshot", "lease",
    }  # fmt: skip
