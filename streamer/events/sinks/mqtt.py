"""Publishes events to an MQTT 5 broker with QoS 1; after a lost connection it repeats the unacknowledged ones.

| topic | carries | retained |
|---|---|---|
| `<topic>/<agent>/streams/<stream>/<subject>` | an event; subject: a task's name, or `stream.down` | no |
| `<topic>/<agent>/streams/<stream>/status` | `up`, `down`, `ended` or `stopped` | yes |
| `<topic>/<agent>/<subject>`, `…/sinks/<sink>/<subject>`, `…/outputs/<output>/<subject>` | other events | no |
| `<topic>/<agent>/status` | `online`; `offline` is the last will | yes |

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

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from streamer.core.backoff import Backoff, exponential
from streamer.core.errors import SinkError
from streamer.core.redact import Url, require_scheme
from streamer.core.settings import Name, Seconds
from streamer.events.sinks._base import NetworkSinkSettings, SinkContext, SinkProgress
from streamer.events.sinks._home_assistant import DEVICES, Discovery
from streamer.events.sinks._mqtt_connection import Broker, ClosedWithoutReason, Connection, SessionTakenOver
from streamer.events.sinks._mqtt_packets import FAILURE, Message, Puback, describe
from streamer.events.sinks._mqtt_topics import STATUS, client_id, event_topic, source_topic
from streamer.events.sinks._settled import SettledEvents
from streamer.types import Sink

log = logging.getLogger(__name__)

FIRST_WAIT_S, MAX_WAIT_S = 0.5, 30.0
"""Delay before a lost connection is replaced: the first, and the longest."""
FIRST_TAKEN_S, MAX_TAKEN_S = 60.0, 600.0
"""The same after another program took the session: two agents of one name must not push each other out all the time."""
CLOSED_TIMES = 4
"""Connections in a row that the broker closed without a reason, from which on another program is suspected."""
STABLE_S = 60.0
"""A connection that lived this long makes the next loss count as the first one."""
REFUSED = frozenset({0x90, 0x95, 0x99})
"""Reason codes that say that the message itself will never be accepted: its topic, size or format."""
MAX_ATTEMPTS = 3
"""Lost connections with one event unacknowledged, after which it is sent last; so many more make it a dead letter."""


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
    topic: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$")] = "streamer"
    """Prefix of every topic."""
    in_flight: Annotated[int, Field(ge=1, le=1000)] = 20
    """Maximum number of unacknowledged events; so many may repeat after a lost connection."""
    home_assistant: bool = False
    """Publish MQTT discovery messages, by which Home Assistant adds the streams and tasks."""
    timeout: Seconds = 10.0
    """Maximum wait for one acknowledgement."""

    @model_validator(mode="after")
    def _tls_is_used(self) -> Self:
        for key in ("ca", "cert"):
            if self.url.scheme == "mqtt" and getattr(self, key) is not None:
                raise ValueError(f"{key}: only allowed with mqtts://")
        return self

    def check(self) -> None:
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
        base = f"{settings.topic}/{context.agent}"
        self._will = Message(f"{base}/{STATUS}", b"offline", retain=True)
        self._discovery = Discovery(base, context.agent, context.tasks)
        devices = self._discovery.messages() if settings.home_assistant else {}
        self._retained: dict[str, bytes] = {self._will.topic: b"online", **devices}
        self._found: dict[str, bytes] = {}  # messages that replace what the broker retained from an earlier run
        self._connection: Connection | None = None
        self._connected_at = 0.0
        self._backoff = Backoff(FIRST_WAIT_S, MAX_WAIT_S)
        self._takeovers = _Takeovers()
        self._settled = SettledEvents(progress)
        self._suspect = _Suspect()

    def write(self, events: Sequence[tuple[int, bytes]]) -> None:
        with self._open_connection() as connection:
            self._deliver(connection, events)
            self._publish_found(connection)

    def idle(self) -> None:
        with self._open_connection() as connection:
            connection.poll()
            self._publish_found(connection)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    @contextlib.contextmanager
    def _open_connection(self) -> Iterator[Connection]:
        """Yield the connection, a new one after an error. On any error it is closed."""
        try:
            if self._connection is None:
                self._connection = Connection(self._broker, self._client_id, self._will, self._on_message)
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
            # If one event is the oldest unacknowledged one each time, it is the cause.
            taken_s = None if self._suspect.losses > 1 else self._takeovers.on_lost(error, lived)
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
        """Subscribe to discovery messages first, to receive the retained ones before they are replaced."""
        if self._settings.home_assistant:
            connection.subscribe(DEVICES)
        self._publish_retained(connection, self._retained)

    def _on_message(self, message: Message) -> None:
        self._found |= self._discovery.replace_stale(message.topic, message.body)

    def _publish_found(self, connection: Connection) -> None:
        if self._found:
            found, self._found = self._found, {}
            self._retained |= found
            self._publish_retained(connection, found)

    def _publish_retained(self, connection: Connection, messages: dict[str, bytes]) -> None:
        """Publish one message at a time, within any limit of the broker. One that it refuses is left out."""
        for topic, body in messages.items():
            encoded = connection.encode(Message(topic, body, retain=True), "text/plain")
            if encoded is None:
                log.warning("the retained message on %s is larger than the broker accepts", topic)
                continue
            message_id, packet = encoded
            connection.send(packet)
            sent_at = time.monotonic()
            while (ack := connection.next_ack(sent_at)).message_id != message_id:
                pass
            if ack.reason >= FAILURE:
                log.warning("the broker refuses the retained message on %s: %s", topic, describe(ack.reason))

    def _deliver(self, connection: Connection, events: Sequence[tuple[int, bytes]]) -> None:
        """Publish all events, at most `in_flight` unacknowledged messages at a time."""
        waiting = deque(self._suspect.put_last(self._settled.start(events)))
        window = 1 if self._suspect.losses else min(self._settings.in_flight, connection.window)
        packets: deque[tuple[int, bytes]] = deque()  # of the event at `newest`, unsent
        newest = 0
        unacked: dict[int, int] = {}  # position by message id, the oldest first
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
                        packets.extend(self._packets(connection, newest, body))
                if not unacked:  # the broker can take none of them
                    break
                ack = connection.next_ack(progress_at)
                if (position := unacked.get(ack.message_id)) is None:
                    continue
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
                self._suspect = _Suspect()
            raise
        self._settled.advance()

    def _packets(self, connection: Connection, position: int, body: bytes) -> list[tuple[int, bytes]]:
        """Return the packets of an event; none, and a dead letter, when it is too large for the broker."""
        event = json.loads(body)
        base = source_topic(self._settings.topic, event["source"])
        first = connection.encode(Message(event_topic(base, event["subject"]), body), self._settings.content_type)
        if first is None:
            self._settled.refuse(position, f"larger than {connection.max_bytes} bytes, the limit of the broker")
            return []
        if event["subject"].startswith("stream."):
            retained = {f"{base}/{STATUS}": event["data"]["state"].encode()}
        elif self._settings.home_assistant and event["subject"] in ("task.added", "task.removed"):
            retained = self._discovery.on_task_event(event)
        else:
            retained = {}
        self._retained |= retained
        more = [
            connection.encode(Message(topic, value, retain=True), "text/plain") for topic, value in retained.items()
        ]
        return [first, *(one for one in more if one is not None)]

    def _check(self, ack: Puback, position: int) -> None:
        """Make an event a dead letter that will never be accepted. Raises SinkError for any other refusal."""
        if ack.reason in REFUSED:
            self._settled.refuse(position, f"the broker refuses it: {describe(ack.reason)}")
        elif ack.reason >= FAILURE:
            raise SinkError(f"{self._broker}: it refuses an event ({describe(ack.reason)})")


class _Takeovers:
    """Counts the connections that another program with the same client id took, as far as one can know."""

    def __init__(self) -> None:
        self._closed = 0  # in a row without a reason
        self._taken = 0

    def on_lost(self, error: BaseException, lived_s: float) -> float | None:
        """Return the seconds to wait when a connection was taken after `lived_s`, None when it was lost otherwise."""
        if lived_s > STABLE_S:
            self._closed = 0
        if lived_s > 2 * MAX_TAKEN_S:
            self._taken = 0
        self._closed += isinstance(error, ClosedWithoutReason)
        if not isinstance(error, SessionTakenOver) and self._closed < CLOSED_TIMES:
            return None
        self._taken += 1
        return exponential(FIRST_TAKEN_S, MAX_TAKEN_S, self._taken)


class _Suspect:
    """The event that was the oldest unacknowledged one in one lost connection after the other.

    Then it is sent last, to see whether the broker accepts others.
    """

    def __init__(self) -> None:
        self.losses = 0
        self._position: int | None = None
        self._proofs = 0  # losses before which others were accepted
        self._others_accepted = False

    def put_last(self, events: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        return sorted(events, key=lambda one: one[0] == self._position) if self.losses >= MAX_ATTEMPTS else events

    def on_accepted(self, position: int) -> None:
        if position == self._position:
            self._position, self.losses = None, 0
        self._others_accepted = True

    def on_lost(self, position: int) -> bool:
        """Count a lost connection, and return True when the event is to blame."""
        if position != self._position:
            self._position, self.losses, self._proofs = position, 0, 0
        else:
            self._proofs += self._others_accepted
        self.losses += 1
        self._others_accepted = False
        return self._proofs >= MAX_ATTEMPTS
