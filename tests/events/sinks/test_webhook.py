"""The webhook sink, with a real endpoint that fails, is slow, never answers, points elsewhere, or refuses."""

from __future__ import annotations

import json
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
from streamer.events.schema import encode, numbered
from streamer.events.sinks import SinkContext, SinkField, Webhook
from streamer.types import Sink
from tests.support import hooks
from tests.support.agents import until
from tests.support.emit_process import EmitProcess, lines
from tests.support.hooks import Endpoint
from tests.support.sample_events import event

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Book:
    """What a sink says of its events."""

    def __init__(self) -> None:
        self.done = 0
        self.refused: dict[int, str] = {}

    def context(self) -> SinkContext:
        return SinkContext(
            "home", Path(), lambda _: None, lambda: None, done=self._done, dead_letter=self.refused.__setitem__
        )

    def _done(self, position: int) -> None:
        self.done = max(self.done, position)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as endpoint:
        yield endpoint


@pytest.fixture
def book() -> Book:
    return Book()


def opened(endpoint: Endpoint, book: Book, **keys: Any) -> Sink:
    return Webhook(url=Url(endpoint.url), **keys).open(book.context())


def some(first: int, last: int) -> list[tuple[int, bytes]]:
    return [(position, encode(numbered(event(seq=position), position))) for position in range(first, last + 1)]


def seqs(endpoint: Endpoint) -> list[int]:
    return [one["data"]["frame"]["seq"] for one in endpoint.taken]


def deliver(sink: Sink, book: Book, last: int) -> int:
    """As emit does it, without the waits; how often it failed."""
    for failures in range(100):
        try:
            sink.write(some(book.done + 1, last))
        except SinkError:
            continue
        return failures
    raise AssertionError("it never ends")


def test_a_request_is_the_event_and_its_signature_verifies(endpoint: Endpoint, book: Book) -> None:
    sink = opened(endpoint, book, secret=SecretStr(SECRET))
    sink.write(some(1, 3))
    sink.close()

    assert sorted(seqs(endpoint)) == [1, 2, 3]
    for headers, body in endpoint.requests:
        assert headers["webhook-id"] == Verifier(SECRET).verify(body, headers)["id"]
        assert headers["content-type"] == "application/cloudevents+json"


def test_one_at_a_time_keeps_the_order(endpoint: Endpoint, book: Book) -> None:
    sink = opened(endpoint, book, in_flight=1)
    sink.write(some(1, 30))
    sink.close()

    assert seqs(endpoint) == list(range(1, 31))
    assert book.done == 30


@pytest.mark.parametrize("code", [500, 503, 429, 301, 307, 401, 404, 410])
def test_an_endpoint_that_is_not_well_gets_all_later(endpoint: Endpoint, book: Book, code: int) -> None:
    endpoint.mood = hooks.status(code)
    endpoint.headers = {"location": "http://127.0.0.1:1/elsewhere"}
    sink = opened(endpoint, book)
    for _ in range(3):
        with pytest.raises(SinkError, match=f"HTTP {code}"):
            sink.write(some(1, 30))
    assert len(endpoint.requests) == 4 + 1 + 1  # a group, then one at a time
    endpoint.mood = hooks.ok
    sink.write(some(1, 30))
    sink.close()

    assert sorted(seqs(endpoint)) == list(range(1, 31))
    assert book.refused == {}


def test_one_that_never_answers_is_given_up(endpoint: Endpoint, book: Book) -> None:
    endpoint.mood = hooks.never
    sink = opened(endpoint, book, timeout="300ms")
    started = time.monotonic()
    with pytest.raises(SinkError, match=r"no answer within 0\.3 s"):
        sink.write(some(1, 4))
    assert time.monotonic() - started < 2
    endpoint.mood = hooks.ok
    sink.write(some(1, 4))
    sink.close()

    assert sorted(seqs(endpoint)) == [1, 2, 3, 4]


def test_waits_grow_and_obey_the_endpoint(endpoint: Endpoint, book: Book) -> None:
    sink = opened(endpoint, book)
    endpoint.mood, endpoint.headers = hooks.status(503), {"retry-after": "1234"}
    with pytest.raises(SinkError) as asked:
        sink.write(some(1, 1))
    assert asked.value.wait_s is not None
    assert asked.value.wait_s >= 1234

    endpoint.headers = {"retry-after": "soon"}
    waits = []
    for _ in range(20):
        with pytest.raises(SinkError) as failed:
            sink.write(some(1, 1))
        waits.append(failed.value.wait_s or 0.0)
    sink.close()
    assert max(waits) <= 300
    assert max(waits[-8:]) > 10


def test_an_event_that_is_refused_becomes_a_dead_letter(endpoint: Endpoint, book: Book) -> None:
    endpoint.mood = lambda _, one: 422 if one["data"]["frame"]["seq"] == 3 else 204
    sink = opened(endpoint, book)
    sink.write(some(1, 10))
    sink.close()

    assert book.refused == {3: "HTTP 422"}
    assert sorted(seqs(endpoint)) == [1, 2, *range(4, 11)]
    assert book.done == 10


def test_an_event_that_breaks_the_endpoint_does_not_stop_the_others(endpoint: Endpoint, book: Book) -> None:
    endpoint.mood = lambda _, one: 500 if one["data"]["frame"]["seq"] == 3 else 204
    sink = opened(endpoint, book)
    failures = deliver(sink, book, 40)
    sink.close()

    assert list(book.refused) == [3]
    assert "while other events were taken" in book.refused[3]
    assert sorted(seqs(endpoint)) == [1, 2, *range(4, 41)]  # none of them twice
    assert failures <= 20


def test_emit_loses_nothing_while_the_endpoint_fails_and_emit_is_killed(tmp_path: Path, endpoint: Endpoint) -> None:
    (tmp_path / "run").mkdir()
    beside = tmp_path / "beside.jsonl"
    sinks = [{"kind": "webhook", "url": endpoint.url}, {"kind": "jsonl", "path": str(beside)}]

    def send(client: EventClient, numbers: range) -> None:
        for seq in numbers:
            client.send(event(seq=seq), time.monotonic())
        assert client.flush(20)

    with EventClient(tmp_path / "run", "infer") as client, EmitProcess(tmp_path, sinks) as emit:
        send(client, range(50))
        until(lambda: len(seqs_of_results(endpoint)) >= 20, 20, "some arrive")
        endpoint.mood = hooks.status(500)
        send(client, range(50, 100))
        until(lambda: len([one for one in lines(beside) if one["subject"] == "people"]) == 100, 20, "beside it")
        down = until(lambda: [one for one in lines(beside) if one["subject"] == "sink.down"], 20, "sink.down")
        emit.kill()
        emit.start()
        endpoint.mood = hooks.ok
        until(lambda: set(seqs_of_results(endpoint)) == set(range(100)), 30, "all arrive")

    assert down[0]["data"]["reason"] == "127.0.0.1: HTTP 500"
    assert len(seqs_of_results(endpoint)) <= 100 + 2 * 4


def seqs_of_results(endpoint: Endpoint) -> list[int]:
    return [one["data"]["frame"]["seq"] for one in list(endpoint.taken) if one["type"] == "streamer.result.v1"]


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"url": "ftp://host"}, "must begin with http:// or https://"),
        ({"url": "http://host", "secret": "whsec_!"}, "whsec_ and 24 to 64 bytes"),
        ({"url": "http://host", "in_flight": 0}, "greater than or equal to 1"),
    ],
)
def test_bad_settings_are_refused(raw: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TypeAdapter(SinkField).validate_python({"kind": "webhook", **raw})


def test_a_token_in_the_path_is_hidden() -> None:
    sink = Webhook(url=Url("https://hooks.example/services/T00000000B11111111XXXX"))

    assert "T00000000" not in str(sink.url)
    assert json.loads(sink.model_dump_json())["url"] == "https://hooks.example/services/***"
