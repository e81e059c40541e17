"""Kinds of sinks, which deliver events. A new kind is one file here and one entry in `SinkField`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from streamer.events.sinks._base import (
    NO_WORD,
    IdleSink,
    Receiver,
    ReportingSink,
    RuleInfo,
    RulesState,
    RuleSubject,
    SinkContext,
    SinkProgress,
    SinkSettings,
    TaskKinds,
)
from streamer.events.sinks.jsonl import Jsonl
from streamer.events.sinks.kafka import Kafka
from streamer.events.sinks.mqtt import Mqtt
from streamer.events.sinks.nats import Nats
from streamer.events.sinks.redis import Redis
from streamer.events.sinks.stdout import Stdout
from streamer.events.sinks.webhook import Webhook
from streamer.events.sinks.zmq import Zmq

__all__ = [
    "NO_WORD", "IdleSink", "Jsonl", "Kafka", "Mqtt", "Nats", "Receiver", "Redis", "ReportingSink", "RuleInfo",
    "RuleSubject", "RulesState", "SinkContext", "SinkField", "SinkProgress", "SinkSettings", "Stdout", "TaskKinds",
    "Webhook", "Zmq",
]  # fmt: skip

SinkField = Annotated[
    Stdout | Jsonl | Zmq | Mqtt | Webhook | Nats | Kafka | Redis,
    Field(discriminator="kind"),
]
"""Settings of any kind of sink."""
