"""A producer of Kafka. The client is librdkafka, with threads of its own; after any error a new one replaces it."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from streamer.core.errors import SinkError
from streamer.events.sinks._base import SinkContext, SinkProgress
from streamer.events.sinks._connected import CONNECT_S, ConnectedSink, Settled
from streamer.events.sinks.kafka import Kafka
from streamer.types import Sink

PORT = 9092
_POLL_S = 0.1
_HEADERS: list[tuple[str, str | bytes | None]] = [("content-type", "application/cloudevents+json; charset=UTF-8")]
_REFUSED = {
    KafkaError.MSG_SIZE_TOO_LARGE: "larger than the topic accepts",
    KafkaError.INVALID_RECORD: "the broker refuses it as invalid",
}
"""Reasons by code of an error that concerns the message itself."""
_CAUSES = {
    KafkaError._ALL_BROKERS_DOWN: "no broker answers",
    KafkaError._AUTHENTICATION: "it refuses the user: check user and password in `url`, and `sasl`",
    KafkaError._MSG_TIMED_OUT: "no acknowledgement in time",
    KafkaError._RESOLVE: "host name unknown, or no DNS server answers",
    KafkaError._SSL: "TLS failed: check `ca`, `cert` and `key`, and that the port is one with TLS",
    KafkaError._TIMED_OUT: "no answer in time",
    KafkaError._TRANSPORT: "no connection: nothing listens there, or it broke off",
    KafkaError._UNKNOWN_TOPIC: "the topic does not exist: create it",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "the user may not use an idempotent producer",
    KafkaError.KAFKA_STORAGE_ERROR: "the disk of the broker fails or is full",
    KafkaError.LEADER_NOT_AVAILABLE: "the topic has no leader at the moment",
    KafkaError.NOT_ENOUGH_REPLICAS: "too few replicas are in sync",
    KafkaError.SASL_AUTHENTICATION_FAILED: "it refuses the user: check user and password in `url`, and `sasl`",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "the user may not write to the topic",
    KafkaError.UNKNOWN_TOPIC_OR_PART: "the topic does not exist: create it",
}
"""Causes by code."""
_VAGUE = {KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT, KafkaError._MSG_TIMED_OUT}
"""Codes of errors that often have a cause of their own, which was reported before."""

_silent = logging.getLogger(f"{__name__}.client")
_silent.setLevel(logging.CRITICAL + 1)  # librdkafka's lines repeat what the broker sent; the sink reports the cause


def kafka_sink(settings: Kafka, context: SinkContext, progress: SinkProgress) -> Sink:
    return ConnectedSink(lambda: _Connection(settings, context.agent), settings.in_flight, progress)


class _Connection:
    def __init__(self, settings: Kafka, agent: str) -> None:
        """Raise SinkError unless the cluster answers and has the topic."""
        self._settings = settings
        url = urlsplit(settings.url.reveal())
        self._server = f"Kafka broker {url.hostname}:{url.port or PORT}"
        self._cause: int | None = None
        self._reports: deque[tuple[int, KafkaError | None]] = deque()
        try:
            self._producer = Producer(_config(settings, agent, self._on_error), logger=_silent)
        except KafkaException as error:
            raise self._failure("the settings are not accepted", error.args[0]) from None
        try:
            self._look_up_topic()
        except BaseException:
            self.close()
            raise

    def deliver(self, events: Sequence[tuple[int, bytes]], window: int) -> Iterator[Settled]:
        waiting, unacked = deque(events), 0
        progress_at = time.monotonic()
        while waiting or unacked:
            while waiting and unacked < window:
                position, body = waiting.popleft()
                if (refusal := self._produce(position, body)) is not None:
                    yield Settled(position, refusal)
                else:
                    unacked += 1
            self._producer.poll(_POLL_S if unacked else 0)
            failure: SinkError | None = None
            while self._reports:
                position, error = self._reports.popleft()
                unacked -= 1
                progress_at = time.monotonic()
                try:
                    yield Settled(position, None if error is None else self._refusal(error, window))
                except SinkError as one:  # what was accepted meanwhile is not to be sent again
                    failure = failure or one
            if failure is not None:
                raise failure
            if unacked and time.monotonic() - progress_at > self._settings.timeout + CONNECT_S:
                raise SinkError(f"{self._server}: no acknowledgement within {self._settings.timeout:g} s")

    def check(self) -> None:
        self._producer.poll(0)
        if self._cause is not None:
            self._look_up_topic()
            self._cause = None

    def close(self) -> None:
        """Leave the client to a thread: it may be looking up a host, which has no time limit."""
        threading.Thread(target=_close, args=(self._producer,), name="close Kafka producer", daemon=True).start()
        del self._producer

    def _look_up_topic(self) -> None:
        topic = self._settings.topic
        try:
            found = self._producer.list_topics(topic, CONNECT_S).topics[topic].error
        except KafkaException as error:
            self._producer.poll(0)  # the cause comes by `_on_error`
            raise self._failure("no connection", error.args[0]) from None
        if found is not None:
            raise self._failure(f"topic {topic}", found)

    def _produce(self, position: int, body: bytes) -> str | None:
        """Hand an event to the client; return why it will never be accepted, or None."""
        try:
            self._producer.produce(
                self._settings.topic,
                body,
                json.loads(body)["source"],
                headers=_HEADERS,
                on_delivery=partial(self._on_delivery, position),
            )
        except KafkaException as error:
            if error.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE:
                return _REFUSED[KafkaError.MSG_SIZE_TOO_LARGE]
            raise self._failure("it takes no message", error.args[0]) from None
        except BufferError:
            raise SinkError(f"{self._server}: it takes no message: the client has too many") from None
        return None

    def _refusal(self, error: KafkaError, window: int) -> str:
        """Return why an event will never be accepted. Raises SinkError if it may be later."""
        code = error.code()
        # A broker refuses a whole batch: alone, the event shows whether it was the cause.
        if code in _REFUSED and window == 1:
            return _REFUSED[code]
        raise self._failure("it refuses an event", error)

    def _failure(self, what: str, error: KafkaError) -> SinkError:
        code = error.code()
        if code in _VAGUE and self._cause is not None:
            code = self._cause
        cause = _REFUSED.get(code) or _CAUSES.get(code) or f"Kafka reports error {code}"
        return SinkError(f"{self._server}: {what}: {cause}")

    def _on_delivery(self, position: int, error: KafkaError | None, _message: Message) -> None:
        self._reports.append((position, error))

    def _on_error(self, error: KafkaError) -> None:
        """Called by `poll`. The client repeats what failed; the error is the cause if it gives up."""
        if self._cause is None or error.code() not in _VAGUE:
            self._cause = error.code()


def _config(settings: Kafka, agent: str, on_error: Any) -> dict[str, Any]:
    url = urlsplit(settings.url.reveal())
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    is_tls, has_user = settings.url.scheme == "kafkas", url.username is not None
    config: dict[str, Any] = {
        "bootstrap.servers": ",".join([f"{host}:{url.port or PORT}", *settings.brokers]),
        "client.id": f"streamer-{agent}-{settings.name}",
        "security.protocol": ("SASL_" if has_user else "") + ("SSL" if is_tls else "PLAINTEXT"),
        "enable.idempotence": True,
        "partitioner": "murmur2_random",  # as in the Java client: the same source gets the same partition
        "linger.ms": 2,
        "message.timeout.ms": max(1, round(settings.timeout * 1000)),
        "socket.connection.setup.timeout.ms": max(1000, round(CONNECT_S * 1000)),  # 1 s is the least it takes
        "socket.timeout.ms": max(1000, round(settings.timeout * 1000)),
        "reconnect.backoff.max.ms": 2000,
        "socket.keepalive.enable": True,
        "error_cb": on_error,
    }
    if has_user:
        config["sasl.mechanism"] = settings.sasl
        config["sasl.username"], config["sasl.password"] = unquote(url.username or ""), unquote(url.password or "")
    if is_tls:
        if settings.ca is not None:
            config["ssl.ca.location"] = str(settings.ca)
        if settings.cert is not None:
            config["ssl.certificate.location"] = str(settings.cert)
            config["ssl.key.location"] = str(settings.key or settings.cert)
    return config


def _close(producer: Producer) -> None:
    producer.purge()
    producer.close()
