"""A real MQTT broker that can be stopped and frozen, and a subscriber with a persistent session."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.support.agents import until
from tests.support.ports import free_port


class Broker:
    """Mosquitto with its data in a folder; a context manager. Its sessions survive `stop`."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self._data = folder / "mosquitto"
        self._data.mkdir()
        self._config = self._data / "mosquitto.conf"
        lines = [
            f"listener {self.port} 127.0.0.1", f"persistence_location {self._data}/", "persistence true",
            "user root", "max_queued_messages 0", *options,
        ]  # fmt: skip
        if not any("allow_anonymous" in one for one in options):
            lines.append("allow_anonymous true")
        self._config.write_text("\n".join(lines) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def __enter__(self) -> Broker:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        self._process = subprocess.Popen([program, "-c", str(self._config)], stderr=subprocess.DEVNULL)
        until(self._accepts_connections, 10, "the broker accepts connections")

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            self._process.wait(60)
            self._process = None

    def freeze(self, frozen: bool) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP if frozen else signal.SIGCONT)

    def _accepts_connections(self) -> bool:
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", self.port)) == 0


def publish(port: int, topic: str, body: bytes, retain: bool = True) -> None:
    """Publish a message as another program."""
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.connect("127.0.0.1", port)
    client.loop_start()
    client.publish(topic, body, qos=1, retain=retain).wait_for_publish(60)
    client.disconnect()
    client.loop_stop()


class Message(NamedTuple):
    topic: str
    body: bytes
    retained: bool


class Listener:
    """Subscribes to every topic, also for messages published while it is disconnected; a context manager."""

    def __init__(self, port: int, name: str = "listener") -> None:
        self.messages: list[Message] = []
        self._ready = False
        self._client = client = paho.Client(CallbackAPIVersion.VERSION2, name, protocol=paho.MQTTv5)
        client.reconnect_delay_set(1, 1)
        client.on_connect, client.on_subscribe = self._on_connect, self._on_subscribe
        client.on_message = self._on_message
        session = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        session.SessionExpiryInterval = 3600
        client.connect("127.0.0.1", port, clean_start=False, properties=session)
        client.loop_start()
        until(lambda: self._ready, 10, "subscribed")

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def events(self) -> list[dict[str, Any]]:
        """Return the result events, in the order they arrived."""
        found = [json.loads(one.body) for one in self.messages if one.body.startswith(b'{"specversion"')]
        return [one for one in found if one["type"] == "streamer.result.v1"]

    def retained(self, topic: str) -> str | None:
        """Return the newest message on a topic."""
        return next((one.body.decode() for one in reversed(self.messages) if one.topic == topic), None)

    def _on_connect(self, *_: Any) -> None:
        self._client.subscribe("#", qos=1)

    def _on_subscribe(self, *_: Any) -> None:
        self._ready = True

    def _on_message(self, _: Any, __: Any, message: paho.MQTTMessage) -> None:
        self.messages.append(Message(message.topic, bytes(message.payload), message.retain))
