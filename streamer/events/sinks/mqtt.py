"""Publishes events to an MQTT 5 broker with QoS 1; after a lost connection it repeats the unacknowledged ones.

| topic | carries | retained |
|---|---|---|
| `<topic>/<agent>/streams/<stream>/<subject>` | an event; subject: a task's name, or `stream.down` | no |
| `<topic>/<agent>/streams/<stream>/status` | `up`, `down`, `ended` or `stopped` | yes |
| `<topic>/<agent>/<subject>`, `…/sinks/<sink>/<subject>`, `…/outputs/<output>/<subject>` | other events | no |
| `<topic>/<agent>/status` | `online`; `offline` is the last will | yes |
"""

from __future__ import annotations

import json
import logging
import queue
import ssl
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from pydantic import AfterValidator, Field, StringConstraints

from streamer.core.errors import ConfigError, SinkError
from streamer.core.redact import Url, require_scheme
from streamer.core.settings import Name
from streamer.events.sinks._base import SinkContext, SinkProgress, SinkSettings
from streamer.events.sinks._home_assistant import DEVICES, Discovery
from streamer.types import Sink

log = logging.getLogger(__name__)

KEEPALIVE_S = 30
CONNECT_S = 5.0
ACK_TIMEOUT_S = 10.0
"""Seconds without an acknowledgement after which the sink reconnects."""
RECONNECT_S = (1, 10)
"""Delay of paho before it reconnects: the first, and the longest."""


def _reject_path(url: Url) -> Url:
    if urlsplit(url.reveal()).path.strip("/"):
        raise ValueError("must end after the port: the key `topic` sets what topics begin with")
    return url


class Mqtt(SinkSettings):
    """Events to an MQTT 5 broker, with QoS 1."""

    kind: Literal["mqtt"] = "mqtt"
    name: Name = "mqtt"
    url: Annotated[Url, require_scheme("mqtt", "mqtts"), AfterValidator(_reject_path)]
    """`mqtt://` or, with TLS, `mqtts://`, with user and password, which never appear in a log or event."""
    ca: Path | None = None
    """PEM file of certificates to trust instead of the system's."""
    topic: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$")] = "streamer"
    """Prefix of every topic."""
    in_flight: Annotated[int, Field(ge=1, le=1000)] = 20
    """Maximum number of unacknowledged events; so many may repeat after a lost connection."""
    home_assistant: bool = False
    """Publish MQTT discovery messages, by which Home Assistant adds the streams and tasks."""

    def check(self) -> None:
        self.tls()

    def tls(self) -> ssl.SSLContext | None:
        """Return the TLS context, None without TLS. Raises ConfigError when `ca` cannot be used."""
        if self.url.scheme == "mqtt":
            if self.ca is not None:
                raise ConfigError("ca: only allowed with mqtts://")
            return None
        try:
            return ssl.create_default_context(cafile=self.ca)
        except OSError as error:
            raise ConfigError(f"cannot use the certificates in {self.ca}: {error}") from None

    def open(self, context: SinkContext, progress: SinkProgress) -> Sink:
        return _MqttSink(self, self.tls(), context, progress)


_Message = tuple[str, bytes, bool]
"""Topic, body, and whether the broker retains it."""


class _MqttSink:
    """Stays connected also while there are no events, for the retained status and the last will."""

    def __init__(
        self, settings: Mqtt, tls: ssl.SSLContext | None, context: SinkContext, progress: SinkProgress
    ) -> None:
        self._settings, self._tls, self._progress = settings, tls, progress
        self._client_id = f"streamer-{context.agent}-{settings.name}"
        base = f"{settings.topic}/{context.agent}"
        self._will_topic = f"{base}/status"
        self._discovery = Discovery(base, context.agent, context.tasks)
        devices = self._discovery.messages() if settings.home_assistant else {}
        self._retained: dict[str, bytes] = {self._will_topic: b"online", **devices}
        self._link = self._new_link()

    def write(self, events: Sequence[tuple[int, bytes]]) -> None:
        link = self._link
        link.wait_until_connected()
        waiting = deque(events)
        messages: deque[_Message] = deque()  # unsent messages of the event at `newest`
        newest = 0
        unacked: dict[int, int] = {}  # position by message id, the oldest first
        acked_at = time.monotonic()
        try:
            while waiting or messages or unacked:
                while len(unacked) < link.window and (waiting or messages):
                    if messages:
                        unacked[link.publish(*messages.popleft())] = newest
                    else:
                        newest, body = waiting.popleft()
                        messages.extend(self._messages(link, newest, body))
                if not unacked:  # the broker can take none of them
                    break
                position = unacked.pop(link.next_ack(acked_at + ACK_TIMEOUT_S), None)
                if position is not None:
                    acked_at = time.monotonic()
                    unfinished = [*unacked.values(), newest] if messages else unacked.values()
                    self._progress.advance(min(unfinished, default=position + 1) - 1)
        except SinkError:
            self._link = self._new_link()  # the old client would repeat unacknowledged messages by itself
            link.abandon()
            raise

    def close(self) -> None:
        self._link.disconnect()

    def _messages(self, link: _Link, position: int, body: bytes) -> list[_Message]:
        """Return the messages of an event; none, and a dead letter, when it is too large for the broker."""
        if len(body) + 1024 > link.max_bytes:
            self._progress.dead_letter(position, f"larger than {link.max_bytes} bytes, the limit of the broker")
            return []
        event = json.loads(body)
        prefix = self._settings.topic + event["source"].removeprefix("/agents")
        if event["subject"].startswith("stream."):
            retained = {f"{prefix}/status": event["data"]["state"].encode()}
        elif self._settings.home_assistant and event["subject"] in ("task.added", "task.removed"):
            retained = self._discovery.on_task_event(event)
        else:
            retained = {}
        for topic, device in link.found_devices():
            retained |= self._discovery.replace_stale(topic, device)
        self._retained.update(retained)
        first = f"{prefix}/{event['subject']}", body, False
        return [first, *((topic, value, True) for topic, value in retained.items())]

    def _new_link(self) -> _Link:
        return _Link(self._settings, self._tls, self._client_id, self._will_topic, self._retained)


class _Link:
    """One paho client, whose thread connects and reconnects. After a failed `write` a new link replaces it."""

    def __init__(
        self, settings: Mqtt, tls: ssl.SSLContext | None, client_id: str, will_topic: str, retained: dict[str, bytes]
    ) -> None:
        """`retained`: messages by topic, published in their present state after every connect."""
        self.window, self.max_bytes = settings.in_flight, sys.maxsize
        self._in_flight, self._retained = settings.in_flight, retained
        self._home_assistant = settings.home_assistant
        self._acks: queue.SimpleQueue[int | str] = queue.SimpleQueue()  # acknowledged message ids, and error texts
        self._retained_left: deque[tuple[str, bytes]] = deque()
        self._found_devices: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
        self._connected = False
        self._reason = "no response"
        url = urlsplit(settings.url.reveal())
        port = url.port or (8883 if tls else 1883)
        self._broker = f"{url.hostname}:{port}"
        self._client = client = paho.Client(CallbackAPIVersion.VERSION2, client_id, protocol=paho.MQTTv5)
        client.connect_timeout = CONNECT_S
        client.reconnect_delay_set(*RECONNECT_S)
        client.max_inflight_messages_set(settings.in_flight)
        client.will_set(will_topic, b"offline", qos=1, retain=True)
        if tls is not None:
            client.tls_set_context(tls)
        if url.username is not None:
            client.username_pw_set(unquote(url.username), None if url.password is None else unquote(url.password))
        client.on_connect, client.on_connect_fail = self._on_connect, self._on_connect_fail
        client.on_disconnect, client.on_publish = self._on_disconnect, self._on_publish
        client.on_message = self._on_message
        client.connect_async(url.hostname or "", port, KEEPALIVE_S)
        client.loop_start()

    def wait_until_connected(self) -> None:
        """Raises SinkError after `CONNECT_S`."""
        deadline = time.monotonic() + CONNECT_S
        while not self._connected:
            if time.monotonic() > deadline:
                raise SinkError(f"cannot reach the broker {self._broker}: {self._reason}")
            time.sleep(0.02)
        while not self._acks.empty():  # of an earlier write
            self._acks.get()

    def publish(self, topic: str, body: bytes, retain: bool) -> int:
        """Send a message and return its id, which `next_ack` returns once the broker has acknowledged it."""
        info = self._send(topic, body, retain)
        if info.rc != paho.MQTT_ERR_SUCCESS:
            raise SinkError(f"the broker {self._broker}: {paho.error_string(info.rc)}")
        return info.mid

    def next_ack(self, deadline: float) -> int:
        """Return the id of an acknowledged message. Raises SinkError on a lost connection, or at `deadline`."""
        try:
            ack = self._acks.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise SinkError(f"the broker {self._broker} acknowledges nothing") from None
        if isinstance(ack, str):
            raise SinkError(f"the broker {self._broker}: {ack}")
        return ack

    def found_devices(self) -> Iterator[tuple[str, bytes]]:
        """Yield topic and body of the discovery messages that the broker retained before this connection, each once."""
        while not self._found_devices.empty():
            yield self._found_devices.get()

    def _send(self, topic: str, body: bytes, retain: bool) -> paho.MQTTMessageInfo:
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.ContentType = "text/plain" if retain else "application/cloudevents+json"
        return self._client.publish(topic, body, qos=1, retain=retain, properties=properties)

    def disconnect(self) -> None:
        """Disconnect and have the broker publish the last will."""
        self._client.disconnect(ReasonCode(PacketTypes.DISCONNECT, "Disconnect with will message"))
        if self._connected:
            self._client.loop_stop()

    def abandon(self) -> None:
        """Disconnect without waiting; the thread ends with its socket."""
        self._client.disconnect()

    # -- called by paho's thread

    def _on_connect(self, _: Any, __: Any, ___: Any, reason: ReasonCode, properties: Properties | None) -> None:
        if reason.is_failure:
            self._reason = str(reason)
            return
        self.window = min(self._in_flight, getattr(properties, "ReceiveMaximum", self._in_flight))
        self.max_bytes = getattr(properties, "MaximumPacketSize", sys.maxsize)
        if self._home_assistant:
            self._client.subscribe(DEVICES)  # first, to receive the retained messages before they are replaced
        self._retained_left = deque(self._retained.items())
        self._send_next_retained()

    def _on_connect_fail(self, _: Any, __: Any) -> None:
        self._reason = str(sys.exc_info()[1] or "connection failed")  # paho calls this while it handles the error

    def _on_disconnect(self, _: Any, __: Any, ___: Any, reason: ReasonCode, ____: Any) -> None:
        if self._connected:  # else the reason is already known, in more detail
            self._reason = str(reason)
        self._connected = False
        self._acks.put(f"the connection was lost ({reason})")

    def _send_next_retained(self) -> None:
        """Send one retained message at a time, within any limit of the broker; after the last one it is connected."""
        if self._retained_left:
            self._send(*self._retained_left.popleft(), retain=True)
        else:
            self._connected = True

    def _on_message(self, _: Any, __: Any, message: paho.MQTTMessage) -> None:
        if message.retain:  # else it was just published, by this or another program
            self._found_devices.put((message.topic, bytes(message.payload)))

    def _on_publish(self, _: Any, __: Any, message: int, reason: ReasonCode, ___: Any) -> None:
        if not self._connected:
            if reason.is_failure:
                log.warning("the broker %s refuses a retained message: %s", self._broker, reason)
            self._send_next_retained()
            return
        self._acks.put(f"refuses an event ({reason})" if reason.is_failure else message)
