"""Events to an MQTT 5 broker, each until the broker has acknowledged it; after a break the unacknowledged go again.

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
from typing import Annotated, Any, Literal, NamedTuple
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
from streamer.events.sinks._base import SinkContext, SinkSettings
from streamer.events.sinks._home_assistant import DEVICES, Discovery
from streamer.types import Sink

log = logging.getLogger(__name__)

KEEPALIVE_S = 30
CONNECT_S = 5.0
SILENCE_S = 10.0
"""A broker that acknowledges nothing for so long is connected to anew."""
RECONNECT_S = (1, 10)


def _reject_path(url: Url) -> Url:
    if urlsplit(url.reveal()).path.strip("/"):
        raise ValueError("ends with the port: what topics begin with is said by `topic`")
    return url


class Mqtt(SinkSettings):
    """Events to an MQTT 5 broker, with quality of service 1."""

    kind: Literal["mqtt"] = "mqtt"
    name: Name = "mqtt"
    url: Annotated[Url, require_scheme("mqtt", "mqtts"), AfterValidator(_reject_path)]
    """`mqtt://` or, with TLS, `mqtts://`; user and password stand in it and never reach a log or event."""
    ca: Path | None = None
    """A file of certificates in PEM that is trusted in place of the system's."""
    topic: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$")] = "streamer"
    """What every topic begins with."""
    in_flight: Annotated[int, Field(ge=1, le=1000)] = 20
    """Events that wait for the broker's answer at once; so many may come twice after a break."""
    home_assistant: bool = False
    """Have Home Assistant find the streams and tasks by itself."""

    def check(self) -> None:
        self.tls()

    def tls(self) -> ssl.SSLContext | None:
        """Raises ConfigError when `ca` cannot be used."""
        if self.url.scheme == "mqtt":
            if self.ca is not None:
                raise ConfigError("ca: is for mqtts:// only")
            return None
        try:
            return ssl.create_default_context(cafile=self.ca)
        except OSError as error:
            raise ConfigError(f"cannot use the certificates in {self.ca}: {error}") from None

    def open(self, context: SinkContext) -> Sink:
        return _MqttSink(self, self.tls(), context)


class _Message(NamedTuple):
    position: int
    """Of its event, in the ledger."""
    topic: str
    body: bytes
    retain: bool = False


class _MqttSink:
    """Holds a connection also while there is nothing to say, for the retained status."""

    def __init__(self, settings: Mqtt, tls: ssl.SSLContext | None, context: SinkContext) -> None:
        self._settings, self._tls, self._context = settings, tls, context
        base = f"{settings.topic}/{context.agent}"
        self._will = f"{base}/status"
        self._discovery = Discovery(base, context.agent, context.streams, context.kinds)
        found = self._discovery.messages() if settings.home_assistant else {}
        self._retained: dict[str, bytes] = {self._will: b"online", **found}
        self._link = self._new_link()

    def write(self, events: Sequence[tuple[int, bytes]]) -> None:
        link = self._link
        link.wait_until_connected()
        waiting = deque(events)
        messages: deque[_Message] = deque()  # of events that were begun, not sent yet
        flying: dict[int, int] = {}  # position by message id, the oldest first
        heard = time.monotonic()
        try:
            while waiting or messages or flying:
                while len(flying) < link.window and (waiting or messages):
                    if not messages:
                        messages.extend(self._messages(link, *waiting.popleft()))
                        continue
                    message = messages.popleft()
                    flying[link.publish(message.topic, message.body, message.retain)] = message.position
                if not flying:  # the broker takes none of them
                    break
                position = flying.pop(link.hear(heard + SILENCE_S), None)
                if position is not None:
                    heard = time.monotonic()
                    unfinished = [*flying.values(), *(message.position for message in messages)]
                    self._context.done(min(unfinished, default=position + 1) - 1)
        except SinkError:
            self._link = self._new_link()  # the old one would say again by itself what was not acknowledged
            link.drop()
            raise

    def close(self) -> None:
        self._link.leave()

    def _messages(self, link: _Link, position: int, body: bytes) -> list[_Message]:
        """The messages that an event makes: none when the broker cannot take it."""
        if len(body) + 1024 > link.largest:
            self._context.dead_letter(position, f"larger than the {link.largest} bytes that the broker takes")
            return []
        event = json.loads(body)
        place = self._settings.topic + event["source"].removeprefix("/agents")
        messages = [_Message(position, f"{place}/{event['subject']}", body)]
        if event["subject"].startswith("stream."):
            retained = {f"{place}/status": event["data"]["state"].encode()}
        elif self._settings.home_assistant and event["subject"] in ("task.added", "task.removed"):
            retained = self._discovery.change(event)
        else:
            retained = {}
        for topic, device in link.devices():
            retained |= self._discovery.correct(topic, device)
        self._retained.update(retained)
        return [*messages, *(_Message(position, topic, value, retain=True) for topic, value in retained.items())]

    def _new_link(self) -> _Link:
        client_id = f"streamer-{self._context.agent}-{self._settings.name}"
        return _Link(self._settings, self._tls, client_id, self._will, self._retained)


class _Link:
    """One client of paho, whose thread connects, and connects again as long as nothing was sent in vain."""

    def __init__(
        self, settings: Mqtt, tls: ssl.SSLContext | None, client_id: str, will: str, retained: dict[str, bytes]
    ) -> None:
        """`retained`: what is said at every connection, by topic, as it is then."""
        self.window, self.largest = settings.in_flight, sys.maxsize
        self._most, self._retained = settings.in_flight, retained
        self._home_assistant = settings.home_assistant
        self._news: queue.SimpleQueue[int | str] = queue.SimpleQueue()  # acknowledged message ids, and bad news
        self._to_say: deque[tuple[str, bytes]] = deque()
        self._devices: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
        self._connected = False
        self._why = "no answer"
        url = urlsplit(settings.url.reveal())
        self._broker = f"{url.hostname}:{url.port or (8883 if tls else 1883)}"
        self._client = client = paho.Client(CallbackAPIVersion.VERSION2, client_id, protocol=paho.MQTTv5)
        client.connect_timeout = CONNECT_S
        client.reconnect_delay_set(*RECONNECT_S)
        client.max_inflight_messages_set(settings.in_flight)
        client.will_set(will, b"offline", qos=1, retain=True)
        if tls is not None:
            client.tls_set_context(tls)
        if url.username is not None:
            client.username_pw_set(unquote(url.username), None if url.password is None else unquote(url.password))
        client.on_connect, client.on_connect_fail = self._on_connect, self._on_connect_fail
        client.on_disconnect, client.on_publish = self._on_disconnect, self._on_publish
        client.on_message = self._on_message
        client.connect_async(url.hostname or "", url.port or (8883 if tls else 1883), KEEPALIVE_S)
        client.loop_start()

    def wait_until_connected(self) -> None:
        """Raises SinkError when that takes long."""
        deadline = time.monotonic() + CONNECT_S
        while not self._connected:
            if time.monotonic() > deadline:
                raise SinkError(f"cannot reach the broker {self._broker}: {self._why}")
            time.sleep(0.02)
        while not self._news.empty():  # of an earlier time
            self._news.get()

    def publish(self, topic: str, body: bytes, retain: bool = False) -> int:
        """Send; returns the message's id, which `hear` gives once the broker has it."""
        info = self._send(topic, body, retain)
        if info.rc != paho.MQTT_ERR_SUCCESS:
            raise SinkError(f"the broker {self._broker}: {paho.error_string(info.rc)}")
        return info.mid

    def hear(self, until: float) -> int:
        """The id of a message that the broker has. Raises SinkError when the connection broke, or at `until`."""
        try:
            news = self._news.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            raise SinkError(f"the broker {self._broker} acknowledges nothing") from None
        if isinstance(news, str):
            raise SinkError(f"the broker {self._broker}: {news}")
        return news

    def devices(self) -> Iterator[tuple[str, bytes]]:
        """What Home Assistant had been told when this connection began, with its topics; each once."""
        while not self._devices.empty():
            yield self._devices.get()

    def _send(self, topic: str, body: bytes, retain: bool) -> paho.MQTTMessageInfo:
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.ContentType = "text/plain" if retain else "application/cloudevents+json"
        return self._client.publish(topic, body, qos=1, retain=retain, properties=properties)

    def leave(self) -> None:
        """Disconnect, and have the broker publish the last will."""
        self._client.disconnect(ReasonCode(PacketTypes.DISCONNECT, "Disconnect with will message"))
        if self._connected:
            self._client.loop_stop()

    def drop(self) -> None:
        """Let it go; its thread ends with its socket."""
        self._client.disconnect()

    # -- called by paho's thread

    def _on_connect(self, _: Any, __: Any, ___: Any, reason: ReasonCode, properties: Properties | None) -> None:
        if reason.is_failure:
            self._why = str(reason)
            return
        self.window = min(self._most, getattr(properties, "ReceiveMaximum", self._most))
        self.largest = getattr(properties, "MaximumPacketSize", sys.maxsize)
        if self._home_assistant:
            self._client.subscribe(DEVICES)  # first, to hear what was there before it is written over
        self._to_say = deque(self._retained.items())
        self._greet()

    def _on_connect_fail(self, _: Any, __: Any) -> None:
        self._why = str(sys.exc_info()[1] or "connection failed")  # paho calls this where it has caught the error

    def _on_disconnect(self, _: Any, __: Any, ___: Any, reason: ReasonCode, ____: Any) -> None:
        if self._connected:  # else it is known why, and better
            self._why = str(reason)
        self._connected = False
        self._news.put(f"the connection broke ({reason})")

    def _greet(self) -> None:
        """Say the retained messages one by one, so that no limit of the broker is passed; then it is connected."""
        if self._to_say:
            self._send(*self._to_say.popleft(), retain=True)
        else:
            self._connected = True

    def _on_message(self, _: Any, __: Any, message: paho.MQTTMessage) -> None:
        if message.retain:  # else it was just said, by us or another program
            self._devices.put((message.topic, bytes(message.payload)))

    def _on_publish(self, _: Any, __: Any, message: int, reason: ReasonCode, ___: Any) -> None:
        if not self._connected:
            if reason.is_failure:
                log.warning("the broker %s refuses what the agent says of itself: %s", self._broker, reason)
            self._greet()
            return
        self._news.put(f"refuses an event ({reason})" if reason.is_failure else message)
