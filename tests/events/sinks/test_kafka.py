"""The Kafka sink, with the mock cluster of librdkafka, which fails as told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError
from pydantic import TypeAdapter, ValidationError

from streamer.bus.event_channel import EventClient
from streamer.core.errors import SinkError
from streamer.core.redact import Url
from streamer.events.sinks import Kafka, SinkField
from tests.support.agents import until
from tests.support.emit_process import EmitProcess, send_events
from tests.support.server_process import KafkaCluster
from tests.support.sinks import RecordedProgress, entries, padded, sink_context

IN_FLIGHT = 100
PRODUCE = 0
"""Kafka's number of the request that appends messages."""
BROKER = 1


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[KafkaCluster]:
    with KafkaCluster(tmp_path) as cluster:
        yield cluster


def opened(url: str, progress: RecordedProgress, **keys: Any) -> Any:
    return Kafka(url=Url(url), **keys).open(sink_context(), progress)


def test_broker_down_and_frozen_loses_nothing(tmp_path: Path, cluster: KafkaCluster) -> None:
    (tmp_path / "run").mkdir()
    with (
        EventClient(tmp_path / "run", "infer") as client,
        EmitProcess(tmp_path, [{"kind": "kafka", "url": cluster.url, "timeout": "3s"}]) as emit,
    ):
        send_events(client, range(150))
        until(lambda: len(cluster.messages()) > 20, 20, f"some arrive: {emit.log()}")
        cluster.call("broker_set_down", BROKER)
        send_events(client, range(150, 250))
        emit.kill()
        emit.start()
        cluster.call("broker_set_up", BROKER)
        send_events(client, range(250, 300))
        until(lambda: len(cluster.messages()) > 200, 20, f"more arrive: {emit.log()}")
        cluster.freeze(True)
        send_events(client, range(300, 400))
        until(lambda: "sink kafka failed" in emit.log(), 10, "it is reported")
        cluster.freeze(False)
        until(lambda: len({one["id"] for one in cluster.events()}) >= 400, 30, f"all arrive: {emit.log()}")
        assert emit.stop() == 0
    found = [one for one in cluster.events() if one["type"] == "streamer.result.v1"]
    times = Counter(one["id"] for one in found)
    breaks = 3
    assert sum(count - 1 for count in times.values()) <= breaks * IN_FLIGHT
    assert list(dict.fromkeys(one["data"]["frame"]["seq"] for one in found)) == list(range(400))


def test_message_is_a_structured_cloudevent(cluster: KafkaCluster, progress: RecordedProgress) -> None:
    sink = opened(cluster.url, progress)
    sink.write(entries(1, 300))
    sink.idle()
    sink.close()

    stored = cluster.messages()
    assert progress.advanced[-1] == 300
    assert [body for _, _, _, body in stored] == [body for _, body in entries(1, 300)]
    assert {(partition, key) for partition, key, _, _ in stored} == {(stored[0][0], b"/agents/home/streams/gate")}
    assert stored[0][2] == {"content-type": b"application/cloudevents+json; charset=UTF-8"}


def test_retried_requests_make_no_duplicates(cluster: KafkaCluster, progress: RecordedProgress) -> None:
    cluster.call("push_request_errors", PRODUCE, 2, KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.REQUEST_TIMED_OUT)
    sink = opened(cluster.url, progress)
    sink.write(entries(1, 50))
    sink.close()

    assert [body for _, _, _, body in cluster.messages()] == [body for _, body in entries(1, 50)]


def test_too_large_events_become_dead_letters(cluster: KafkaCluster, progress: RecordedProgress) -> None:
    sink = opened(cluster.url, progress)
    sink.write([*entries(1, 2), (3, padded(1_100_000)), *entries(4, 5)])
    assert progress.refused == {3: "larger than the topic accepts"}
    cluster.call("push_request_errors", PRODUCE, 1, KafkaError.MSG_SIZE_TOO_LARGE)
    with pytest.raises(SinkError, match="it refuses an event: larger than the topic accepts"):
        sink.write(entries(6, 9))  # a batch: any of them may be the cause
    cluster.call("push_request_errors", PRODUCE, 1, KafkaError.MSG_SIZE_TOO_LARGE)
    sink.write(entries(6, 9))
    sink.close()

    assert list(progress.refused) == [3, 6]
    bodies = {body for _, _, _, body in cluster.messages()}  # some may be there twice
    assert (len(bodies), progress.advanced[-1]) == (7, 9)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, "the user may not write to the topic"),
        (KafkaError.INVALID_PRODUCER_EPOCH, "Kafka reports error"),
    ],
)
def test_refusal_keeps_events_and_replaces_producer(
    cluster: KafkaCluster, progress: RecordedProgress, code: int, message: str
) -> None:
    cluster.call("push_request_errors", PRODUCE, 1, code)
    sink = opened(cluster.url, progress)
    with pytest.raises(SinkError, match=message):
        sink.write(entries(1, 5))
    assert not progress.advanced
    sink.write(entries(1, 5))
    sink.close()
    assert progress.advanced[-1] == 5


def test_unknown_topic_is_reported(cluster: KafkaCluster, progress: RecordedProgress) -> None:
    cluster.call("topic_set_error", "streamer", KafkaError.UNKNOWN_TOPIC_OR_PART)
    sink = opened(cluster.url, progress)
    with pytest.raises(SinkError, match="topic streamer: the topic does not exist: create it"):
        sink.write(entries(1, 5))
    sink.close()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"url": "kafka://h/path"}, "the key `topic`"),
        ({"url": "kafka://user@h"}, "a user needs a password"),
        ({"url": "kafka://h", "ca": "ca.pem"}, "only allowed with kafkas://"),
        ({"url": "kafka://h", "brokers": ["user:pw@h:1"]}, "pattern"),
        ({"url": "kafka://h", "topic": "a b"}, "pattern"),
    ],
)
def test_invalid_settings_are_rejected(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(SinkField).validate_python({"kind": "kafka", **keys})
