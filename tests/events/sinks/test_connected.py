"""Sinks with the client of another project: servers that do not follow the protocol, and missing packages."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import TypeAdapter

from streamer.core.errors import ConfigError, SinkError
from streamer.events.sinks import (
    SinkField,
    SinkSettings,
    _connected,
    _kafka_connection,
    _nats_connection,
    _redis_connection,
)
from tests.support.ports import free_port
from tests.support.sinks import RecordedProgress, entries, sink_context
from tests.support.tcp_server import TcpServer

CONNECT_S = 0.4
KINDS = ("nats", "kafka", "redis")


@pytest.fixture
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (_nats_connection, _kafka_connection, _redis_connection):
        monkeypatch.setattr(module, "CONNECT_S", CONNECT_S)


def settings(kind: str, address: str) -> SinkSettings:
    adapter: TypeAdapter[SinkSettings] = TypeAdapter(SinkField)
    return adapter.validate_python({"kind": kind, "url": f"{kind}://u:s3cret@{address}", "timeout": "500ms"})


def garbage(client: socket.socket) -> None:
    client.sendall(bytes(range(256)) * 4 + b"\r\n")
    client.recv(65536)


def silent(client: socket.socket) -> None:
    while client.recv(65536):
        pass


def dripping(client: socket.socket) -> None:
    """Send a byte from time to time, so that a limit for one read never ends."""
    while True:
        client.sendall(b" ")
        time.sleep(0.05)


def endless(client: socket.socket) -> None:
    while True:
        client.sendall(b"+" * 65536)


class Server(TcpServer):
    def __init__(self, behaviour: Callable[[socket.socket], None]) -> None:
        super().__init__()
        self._behaviour = behaviour

    def serve(self, client: socket.socket) -> None:
        self._behaviour(client)


@pytest.mark.usefixtures("short_limits")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("behaviour", [garbage, silent, dripping, endless])
def test_server_without_protocol_does_not_hold_the_sink(kind: str, behaviour: Callable[[socket.socket], None]) -> None:
    progress = RecordedProgress()
    with Server(behaviour) as server:
        sink: Any = settings(kind, server.address).open(sink_context(), progress)
        began = time.monotonic()
        with pytest.raises(SinkError) as caught:
            sink.write(entries(1, 3))
        sink.close()
        assert time.monotonic() - began < CONNECT_S + 30
        text = str(caught.value)
        assert server.address in text
    assert ": no connection" in text
    assert not any(word in text for word in ("s3cret", "Error", "Exception", "Traceback", "\\x"))
    assert not progress.advanced


@pytest.mark.parametrize("kind", KINDS)
def test_server_that_is_down_is_named_with_the_cause(kind: str) -> None:
    sink: Any = settings(kind, f"127.0.0.1:{free_port()}").open(sink_context(), RecordedProgress())
    with pytest.raises(SinkError, match=r"127\.0\.0\.1:\d+: no connection: .*nothing listens there") as caught:
        sink.idle()
    sink.close()
    assert caught.value.wait_s is not None


@pytest.mark.parametrize("kind", KINDS)
def test_missing_package_names_the_command(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_connected, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=rf"pip install 'florence-streamer\[{kind}\]'"):
        settings(kind, "h").check()
