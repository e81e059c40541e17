"""docs/events.md is true: its examples are events, its Python runs, its lists are complete."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from standardwebhooks import Webhook as Verifier

from streamer.events import sinks
from streamer.events.schema import decode, encode
from streamer.types import Outcome

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "events.md").read_text()
EXAMPLES = [json.loads(block) for block in re.findall(r"^```json\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda one: one["subject"])
def test_each_example_is_a_valid_event(example: dict[str, Any]) -> None:
    assert json.loads(encode(decode(json.dumps(example).encode()))) == example


def test_every_kind_of_event_has_an_example() -> None:
    builders = (ROOT / "streamer" / "events" / "build.py").read_text()
    kinds = set(re.findall(r'_status\([^\n]*?"(\w+)", ', builders)) | {"stream"}
    shown = {one["subject"].split(".")[0] for one in EXAMPLES if one["type"] == "streamer.status.v1"}
    assert shown >= kinds
    assert {one["type"] for one in EXAMPLES} == {"streamer.result.v1", "streamer.status.v1", "streamer.incident.v1"}
    for outcome in get_args(Outcome):
        assert f"`{outcome}`" in TEXT


def test_every_sink_has_a_guarantee() -> None:
    kinds = {settings.model_fields["kind"].default for settings in get_args(get_args(sinks.SinkField)[0])}
    assert set(re.findall(r"^\| `(\w+)` \| (?:exactly|at least|live)", TEXT, re.MULTILINE)) == kinds


def test_webhook_receiver_example_verifies() -> None:
    (block,) = [one for one in re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL) if "receive" in one]
    assert "verify(body, headers)" in block
    (secret,) = re.findall(r"whsec_\w+", block)
    Verifier(secret)
