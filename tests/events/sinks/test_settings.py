"""Settings of sinks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from streamer.events.sinks import Jsonl, SinkField, SinkSettings


def test_kind_selects_the_sink() -> None:
    adapter: TypeAdapter[SinkSettings] = TypeAdapter(SinkField)

    assert adapter.validate_python({"kind": "jsonl", "path": "a.jsonl"}) == Jsonl(path=Path("a.jsonl"))
    assert adapter.validate_python({"kind": "zmq", "name": "bus"}).name == "bus"
    assert adapter.validate_python({"kind": "stdout"}).name == "stdout"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"kind": "zmq", "endpoint": "tcp://*:5555"}, "tcp is not supported yet"),
        ({"kind": "jsonl"}, "path"),
        ({"kind": "jsonl", "path": "a", "keep": 0}, "greater than or equal to 1"),
        ({"kind": "pigeon"}, "pigeon"),
        ({"kind": "stdout", "name": "../x"}, "pattern"),
        ({"kind": "stdout", "colour": "red"}, "Extra inputs"),
    ],
)
def test_invalid_settings_are_rejected(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(SinkField).validate_python(raw)
