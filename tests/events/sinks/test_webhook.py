"""The webhook sink, with a real endpoint that fails, is slow, never responds, redirects, or refuses events."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, TypeAdapter, ValidationError
from standardwebhooks import Webhook as Verifier

from streamer.bus.event_channel import EventClient
from streamer.core.errors import SinkError
from streamer.core.redact import Url
from streamer.events.sinks import SinkField, Webhook
from streamer.events.sinks._webhook_delivery import retry_after_s
from streamer.types import Sink
from tests.support import hooks
from tests.support.agents import until
from tests.support.emit_process import EmitProcess, lines, send_events
from tests.support.hooks import Endpoint
from tests.support.sinks import RecordedProgress, entries, sink_context

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as endpoint:
        yield endpoint


def opened(endpoint: Endpoint, progress: RecordedProgress, **keys: Any) -> Sink:
    return Webhook(url=Url(endpoint.url), **keys).open(sink_context(), progress)


def seqs(endpoint: Endpoint) -> list[int]:
    return [one["data"]["frame"]["seq"] for one in endpoint.accepted]


def deliver(sink: Sink, progress: RecordedProgress, last: int) -> int:
    """Deliver as emit does, without delays; return the number of failures."""
    for failures in range(100):
        try:
            sink.write(entries(progress.position + 1, last))
        except SinkError:
            continue
        return failures
    raise AssertionError("not delivered after 100 attempts")


def test_request_body_is_the_event_with_a_valid_signature(endpoint: Endpoint, progress: RecordedProgress) -> None:
    sink = opened(endpoint, progress, secret=SecretStr(SECRET))
    sink.write(entries(1, 3))
    sink.close()

    assert sorted(seqs(endpoint)) == [1, 2, 3]
    for headers, body in endpoint.requests:
        assert headers["webhook-id"] == Verifier(SECRET).verify(body, headers)["id"]
        assert headers["content-type"] == "application/cloudevents+json"


def test_one_request_at_a_time_keeps_the_order(endpoint: Endpoint, progress: RecordedProgress) -> None:
    sink = opened(endpoint, progress, in_flight=1)
    sink.write(entries(1, 30))
    sink.close()

    assert seqs(endpoint) == list(range(1, 31))
    assert progress.position == 30


@pytest.mark.parametrize("code", [500, 503, 429, 301, 307, 401, 404, 410])
def test_failing_endpoint_receives_everything_later(endpoint: Endpoint, progress: RecordedProgress, code: int) -> None:
    endpoint.behaviour = hooks.status(code)
    endpoint.headers = {"location": "http://127.0.0.1:1/elsewhere"}
    sink = opened(endpoint, progress)
    for _ in range(3):
        with pytest.raises(SinkError, match=f"HTTP {code}"):
            sink.write(entries(1, 30))
    assert len(endpoint.requests) == 4 + 1 + 1  # a group, then one at a time
    endpoint.behaviour = hooks.ok
    sink.write(entries(1, 30))
    sink.close()

    assert sorted(seqs(endpoint)) == list(range(1, 31))
    assert progress.refused == {}


def test_request_without_response_times_out(endpoint: Endpoint, progress: RecordedProgress) -> None:
    endpoint.behaviour = hooks.never
    sink = opened(endpoint, progress, timeout="3s")
    started = time.monotonic()
    with pytest.raises(SinkError, match=r"no response within 3 s"):
        sink.write(entries(1, 4))
    assert time.monotonic() - started < 30
    endpoint.behaviour = hooks.ok
    sink.write(entries(1, 4))
    sink.close()

    assert sorted(seqs(endpoint)) == [1, 2, 3, 4]


def test_delays_grow_and_obey_retry_after(endpoint: Endpoint, progress: RecordedProgress) -> None:
    sink = opened(endpoint, progress)
    endpoint.behaviour, endpoint.headers = hooks.status(503), {"retry-after": "1234"}
    with pytest.raises(SinkError) as failure:
        sink.write(entries(1, 1))
    assert failure.value.wait_s is not None
    assert failure.value.wait_s >= 1234

    endpoint.headers = {"retry-after": "soon"}
    waits = []
    for _ in range(20):
        with pytest.raises(SinkError) as failed:
            sink.write(entries(1, 1))
        waits.append(failed.value.wait_s or 0.0)
    sink.close()
    assert max(waits) <= 300
    assert max(waits[-8:]) > 10


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("5", 5.0),
        ("9" * 400, math.inf),
        ("-5", 0.0),
        ("nan", 0.0),
        ("1e9", 0.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Thu, 01 Jan 2099 00:00:00 +9999999999999999999", 0.0),
        ("Thu, 99 Jan 99999999999 00:00:00 GMT", 0.0),
    ],
)
def test_absurd_retry_after_is_no_error(header: str, seconds: float) -> None:
    assert retry_after_s(header) == seconds


def test_refused_event_becomes_a_dead_letter(endpoint: Endpoint, progress: RecordedProgress) -> None:
    endpoint.behaviour = lambda _, one: 422 if one["data"]["frame"]["seq"] == 3 else 204
    sink = opened(endpoint, progress)
    sink.write(entries(1, 10))
    sink.close()

    assert progress.refused == {3: "HTTP 422"}
    assert sorted(seqs(endpoint)) == [1, 2, *range(4, 11)]
    assert progress.position == 10


def test_event_that_breaks_the_endpoint_blocks_no_other(endpoint: Endpoint, progress: RecordedProgress) -> None:
    endpoint.behaviour = lambda _, one: 500 if one["data"]["frame"]["seq"] == 3 else 204
    sink = opened(endpoint, progress)
    failures = deliver(sink, progress, 40)
    sink.close()

    assert list(progress.refused) == [3]
    assert "while other events were accepted" in progress.refused[3]
    assert sorted(seqs(endpoint)) == [1, 2, *range(4, 41)]  # none of them twice
    assert failures <= 20


def test_endpoint_outage_and_killed_emit_lose_nothing(tmp_path: Path, endpoint: Endpoint) -> None:
    (tmp_path / "run").mkdir()
    beside = tmp_path / "beside.jsonl"
    sinks = [{"kind": "webhook", "url": endpoint.url}, {"kind": "jsonl", "path": str(beside)}]

    with EventClient(tmp_path / "run", "infer") as client, EmitProcess(tmp_path, sinks) as emit:
        send_events(client, range(50))
        until(lambda: len(seqs_of_results(endpoint)) >= 20, 20, "some arrive")
        endpoint.behaviour = hooks.status(500)
        send_events(client, range(50, 100))
        until(lambda: len([one for one in lines(beside) if one["subject"] == "people"]) == 100, 20, "beside it")
        down = until(lambda: [one for one in lines(beside) if one["subject"] == "sink.down"], 20, "sink.down")
        emit.kill()
        emit.start()
        endpoint.behaviour = hooks.ok
        until(lambda: set(seqs_of_results(endpoint)) == set(range(100)), 30, "all arrive")

    assert down[0]["data"]["reason"] == "127.0.0.1: HTTP 500"
    assert len(seqs_of_results(endpoint)) <= 100 + 2 * 4


def seqs_of_results(endpoint: Endpoint) -> list[int]:
    return [one["data"]["frame"]["seq"] for one in list(endpoint.accepted) if one["type"] == "streamer.result.v1"]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"url": "ftp://host"}, "must begin with http:// or https://"),
        ({"url": "http://host", "secret": "whsec_!"}, "whsec_ and 24 to 64 bytes"),
        ({"url": "http://host", "in_flight": 0}, "greater than or equal to 1"),
    ],
)
def test_invalid_settings_are_rejected(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(SinkField).validate_python({"kind": "webhook", **raw})


def test_token_in_the_path_is_hidden() -> None:
    sink = Webhook(url=Url("https://hooks.example/services/T00000000B11111111XXXX"))

    assert "T00000000" not in str(sink.url)
    assert json.loads(sink.model_dump_json())["url"] == "https://hooks.example/services/***"
