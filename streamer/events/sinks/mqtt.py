"""Publishes events to an MQTT 5 broker with QoS 1; after a lost connection it repeats the unacknowledged ones.

| topic | carries | retained |
|---|---|---|
| `<topic>/<agent>/streams/<stream>/<subject>` | an event; subject: a task's name, or `stream.down` | no |
| `<topic>/<agent>/streams/<stream>/status` | `up`, `down`, `ended` or `stopped` | yes |
| `<topic>/<agent>/streams/<stream>/incident.<rule>` | an incident event | no |
| `<topic>/<agent>/streams/<stream>/incident.<rule>/status` | `ON` while an incident is open, or `OFF` | yes |
| `<topic>/<agent>/streams/<stream>/incident.<rule>/attributes` | the newest incident in short | yes |
| `<topic>/<agent>/streams/<stream>/incident.<rule>/word` | word of the rule's `state`; `None`: no answer | yes |
| `<topic>/<agent>/<subject>`, `…/sinks/<sink>/<subject>`, `…/outputs/<output>/<subject>` | other events | no |
| `<topic>/<agent>/status` | `online`; `offline` is the last will | yes |
| `<topic>/<agent>/rules/mode` | the mode of the rules | yes |

With `commands` it also accepts the commands of `_mqtt_commands.py`.

The subject of a task called `status` is `task.status`, which no other event has.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from streamer.core.backoff import Backoff
from streamer.core.errors import SinkError
from streamer.core.redact import Url, require_scheme
from streamer.core.settings import Name, Seconds
from streamer.events.sinks._base import NetworkSinkSettings, SinkContext, SinkProgress
from streamer.events.sinks._mqtt_commands import Commands
from streamer.events.sinks._mqtt_connection import Broker, Connection, broker_address
from streamer.events.sinks._mqtt_faults import STABLE_S, Takeovers
from streamer.events.sinks._mqtt_packets import FAILURE, Message, Puback, describe
from streamer.events.sinks._mqtt_retained import RetainedMessages
from streamer.events.sinks._mqtt_states import StatePublisher
from streamer.events.sinks._mqtt_topics import client_id, event_topic, source_topic
from streamer.events.sinks._settled import SettledEvents
from streamer.events.sinks._suspect import Suspect
from streamer.types import Sink

log = logging.getLogger(__name__)

FIRST_WAIT_S, MAX_WAIT_S = 0.5, 30.0
"""Delay before a lost connection is replaced: the first, and the longest."""
IDLE_S, COMMANDS_S = 2.0, 0.25
"""Interval at which the connection is looked after, and at which commands are read, while there are no events."""
REFUSED = frozenset({0x90, 0x95, 0x99})
"""Reason codes that say that the message itself will never be accepted: its topic, size or format."""


def _reject_path(url: Url) -> Url:
    if urlsplit(url.reveal()).path.strip("/"):
        raise ValueError("must end after the port: the key `topic` sets what topics begin with")
    return url


class Mqtt(NetworkSinkSettings):
    """Events to an MQTT 5 broker, with QoS 1."""

    kind: Literal["mqtt"] = "mqtt"
    name: Name = "mqtt"
    url: Annotated[Url, require_scheme("mqtt", "mqtts"), AfterValidator(_reject_path)]
    """`mqtt://` or, with TLS, `mqtts://`, with user and password, which never appear in a log or event."""
    topic: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$", examples=["streamer/home"])] = "streamer"
    """Prefix of every topic."""
    in_flight: Annotated[int, Field(ge=1, le=1000)] = 20
    """Maximum number of unacknowledged events; so many may repeat after a lost connection."""
    home_assistant: bool = False
    """Publish MQTT discovery messages, by which Home Assistant adds the streams, tasks and rules."""
    commands: bool = False
    """Accept commands to the rules on topics below `<topic>/<agent>/rules/`, from whoever may publish there."""
    timeout: Seconds = 10.0
    """Maximum wait for one acknowledgement."""

    @model_validator(mode="after")
    def _tls_is_used(self) -> Self:
        self.reject_unused_tls("mqtts")
        return self

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the broker."""
        return broker_address(self.url)

    def check(self) -> None:
        if self.url.scheme == "mqtts":
            self.tls_context()

    def open(self, context: SinkContext, progress: SinkProgress) -> Sink:
        self.check()
        return _MqttSink(self, context, progress)


class _MqttSink:
    """Stays connected also while there are no events, for the retained status and the last will."""

    def __init__(self, settings: Mqtt, context: SinkContext, progress: SinkProgress) -> None:
        self._settings = settings
        self._agent = context.agent
        self._broker = Broker(
            settings.url, settings if settings.url.scheme == "mqtts" else None, settings.proxy, settings.timeout
        )
        self._client_id = client_id(context.agent, settings.name)
        self._retained = RetainedMessages(
            settings.topic, context, settings.kinds, progress.position, settings.home_assistant, settings.commands
        )
        self._commands = Commands(f"{settings.topic}/{context.agent}", context, settings.commands)
        self.idle_s = COMMANDS_S if settings.commands else IDLE_S
        self._connection: Connection | None = None
        self._connected_at = 0.0
        self._backoff = Backoff(FIRST_WAIT_S, MAX_WAIT_S)
        self._takeovers = Takeovers()
        self._settled = SettledEvents(progress)
        self._suspect = Suspect()
        self._states = StatePublisher(self._broker, settings.in_flight)

    def write(self, events: Sequence[tuple[int, bytes]]) -> None:
        with self._open_connection() as connection:
            self._deliver(connection, events)
            self._publish_found(connection)
        self._commands.execute_next()

    def idle(self) -> None:
        with self._open_connection() as connection:
            connection.poll()
            self._publish_found(connection)
        self._commands.execute_next()

    def report(self) -> tuple[str, str] | None:
        refusal = self._commands.take_refusal()
        return None if refusal is None else ("command_refused", refusal)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    @contextlib.contextmanager
    def _open_connection(self) -> Iterator[Connection]:
        """Yield the connection, a new one after an error. On any error it is closed."""
        try:
            if self._connection is None:
                self._connection = Connection(self._broker, self._client_id, self._retained.will, self._on_message)
                self._connected_at = time.monotonic()
                self._greet(self._connection)
            yield self._connection
        except SinkError as error:
            raise self._lose(error) from None
        except BaseException as error:
            self._lose(error)
            raise

    def _lose(self, error: BaseException) -> SinkError:
        """Close the connection; return the error with the delay before the next one."""
        lived = 0.0
        if self._connection is not None:
            self._connection.abandon()
            self._connection, lived = None, time.monotonic() - self._connected_at
            # If one message is the oldest unacknowledged one each time, it is the cause.
            is_message = max(self._suspect.losses, self._states.losses) > 1
            taken_s = self._takeovers.on_lost(error, lived, is_message)
            if taken_s is not None:
                return SinkError(
                    f"{self._broker}: another program seems to use the client id {self._client_id}: "
                    f"if a second agent is called {self._agent}, give it another name with `agent:`",
                    taken_s,
                )
        if lived > STABLE_S:
            self._backoff.reset()
        return SinkError(str(error), self._backoff.next_delay())

    def _greet(self, connection: Connection) -> None:
        """Subscribe first, to receive the messages of earlier runs before they are replaced."""
        for topic_filter in (*self._retained.subscriptions, *self._commands.subscriptions):
            connection.subscribe(topic_filter)
        # A message on which the broker ends the connection must not keep all events from it.
        late, current = self._states.late, self._retained.current
        self._states.publish(connection, {topic: body for topic, body in current.items() if topic not in late})
        self._retained.postpone(late)

    def _on_message(self, message: Message) -> None:
        self._retained.on_message(message)
        self._commands.on_message(message)

    def _publish_found(self, connection: Connection) -> None:
        self._states.publish(connection, self._retained.take_found())

    def _deliver(self, connection: Connection, events: Sequence[tuple[int, bytes]]) -> None:
        """Publish all events, at most `in_flight` unacknowledged messages at a time."""
        waiting = deque(self._suspect.put_last(self._settled.start(events)))
        window = 1 if self._suspect.losses else min(self._settings.in_flight, connection.window)
        packets: deque[tuple[int, bytes]] = deque()  # of the event at `newest`, unsent
        newest = 0
        unacked: dict[int, int] = {}  # position by message id, the oldest first
        states: dict[int, str] = {}  # topic by message id, of retained messages
        progress_at = time.monotonic()
        try:
            while waiting or packets or unacked:
                while len(unacked) < window and (waiting or packets):
                    if packets:
                        message_id, packet = packets.popleft()
                        unacked[message_id] = newest
                        connection.send(packet)
                        progress_at = time.monotonic()
                    else:
                        newest, body = waiting.popleft()
                        packets.extend(self._packets(connection, newest, body, states))
                if not unacked:  # the broker can take none of them
                    break
                ack = connection.next_ack(progress_at)
                if (position := unacked.get(ack.message_id)) is None:
                    continue
                if topic := states.pop(ack.message_id, None):
                    if ack.reason >= FAILURE:
                        self._states.leave_out(topic, describe(ack.reason))
                else:
                    self._check(ack, position)
                del unacked[ack.message_id]
                progress_at = time.monotonic()
                if position not in unacked.values() and not (packets and position == newest):
                    self._settled.add(position)
                    self._settled.advance()
                    self._suspect.on_accepted(position)
        except SinkError as error:
            oldest = next(iter(unacked.values()), None)
            if oldest is not None and self._suspect.on_lost(oldest):
                self._settled.refuse(oldest, f"{error}, {self._suspect.losses} times, while others were accepted")
                self._suspect = Suspect()
            raise
        self._settled.advance()

    def _packets(
        self, connection: Connection, position: int, body: bytes, states: dict[int, str]
    ) -> Iterator[tuple[int, bytes]]:
        """Yield the packets of an event; none, and a dead letter, when it is too large for the broker.

        The topics of retained messages are added to `states` by message id.
        """
        event = json.loads(body)
        base = source_topic(self._settings.topic, event["source"])
        encoded = connection.encode(Message(event_topic(base, event["subject"]), body), self._settings.content_type)
        if encoded is None:
            self._settled.refuse(position, f"larger than {connection.max_bytes} bytes, the limit of the broker")
            return
        yield encoded
        for topic, state in self._retained.on_event(event).items():
            if topic in self._states.left_out:
                continue
            if (encoded := connection.encode(Message(topic, state, retain=True), "text/plain")) is not None:
                states[encoded[0]] = topic
                yield encoded

    def _check(self, ack: Puback, position: int) -> None:
        """Make an event a dead letter that will never be accepted. Raises SinkError for any other refusal."""
        if ack.reason in REFUSED:
            self._settled.refuse(position, f"the broker refuses it: {describe(ack.reason)}")
        elif ack.reason >= FAILURE:
            raise SinkError(f"{self._broker}: it refuses an event ({describe(ack.reason)})")
