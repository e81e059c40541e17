"""Publishes events to a topic of Kafka with an idempotent producer.

The key of a message is the source of the event, so the events of one source are in one partition, in order. The message
is a CloudEvent in structured mode: the event as JSON, as all sinks send it, with the header `content-type`.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from streamer.core.redact import Url, require_scheme
from streamer.core.settings import Name, Seconds
from streamer.events.sinks._base import ServerSinkSettings, SinkContext, SinkProgress
from streamer.events.sinks._connected import require_package
from streamer.types import Sink

_BROKER = r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}$"


def _reject_path(url: Url) -> Url:
    if urlsplit(url.reveal()).path.strip("/"):
        raise ValueError("must end after the port: the key `topic` names the topic")
    return url


class Kafka(ServerSinkSettings):
    """Events to a topic of Kafka, each acknowledged by all replicas in sync."""

    kind: Literal["kafka"] = "kafka"
    name: Name = "kafka"
    url: Annotated[Url, require_scheme("kafka", "kafkas"), AfterValidator(_reject_path)]
    """A broker, `kafka://` or, with TLS, `kafkas://`, with user and password for SASL, which are always hidden."""
    brokers: list[Annotated[str, Field(pattern=_BROKER, examples=["10.0.0.2:9092"])]] = Field([])
    """Further brokers of the cluster, `host:port`, to be asked when the one in `url` is down."""
    sasl: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    """Mechanism that sends user and password. `PLAIN` sends the password itself: use it with TLS only."""
    topic: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,249}$", examples=["streamer.home"])] = "streamer"
    """Topic of all events. The broker's settings say whether an unknown topic is created."""
    in_flight: Annotated[int, Field(ge=1, le=1000)] = 100
    """Maximum number of unacknowledged events; so many may repeat after a failure or a kill of the agent."""
    timeout: Seconds = 10.0
    """Maximum wait for one acknowledgement."""

    @model_validator(mode="after")
    def _keys_are_used(self) -> Self:
        self.reject_unused_tls("kafkas")
        url = urlsplit(self.url.reveal())
        if (url.username is None) != (url.password is None):
            raise ValueError("a user needs a password, and a password a user")
        return self

    def check(self) -> None:
        require_package("kafka", "confluent_kafka")
        if self.url.scheme == "kafkas":
            self.tls_context()

    def open(self, context: SinkContext, progress: SinkProgress) -> Sink:
        self.check()
        from streamer.events.sinks._kafka_connection import kafka_sink

        return kafka_sink(self, context, progress)
