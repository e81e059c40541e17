"""A raw TCP server that speaks MQTT 5 as badly as a script says, which no real broker can be made to do."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable

from tests.support.tcp_server import TcpServer

CONNACK = b"\x20\x03\x00\x00\x00"


class Client:
    """One connection of a sink, as the broker sees it."""

    def __init__(self, connection: socket.socket, published: list[bytes]) -> None:
        self._connection, self._published = connection, published
        connection.settimeout(10)

    def send(self, data: bytes) -> None:
        self._connection.sendall(data)

    def drip(self, data: bytes, pause_s: float) -> None:
        for byte in data:
            self.send(bytes([byte]))
            time.sleep(pause_s)

    def read(self) -> tuple[int, bytes]:
        """Return first byte and body of the next packet. Raises OSError at the end of the connection."""
        first, size, shift = self._exactly(1)[0], 0, 0
        while True:
            byte = self._exactly(1)[0]
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return first, self._exactly(size)

    def accept(self, connack: bytes = CONNACK) -> None:
        self.read()
        self.send(connack)

    def serve(self, ack: Callable[[bytes, int], bytes | None] | None = None) -> None:
        """Acknowledge all messages. `ack` gets the body of a message and its id, and returns the answer."""
        while True:
            first, body = self.read()
            if first & 0xF0 == 0x30:
                (size,) = struct.unpack_from("!H", body)
                self._published.append(body)
                (message_id,) = struct.unpack_from("!H", body, 2 + size)
                answer = puback(message_id) if ack is None else ack(body, message_id)
                if answer is None:
                    return
                self.send(answer)
            elif first & 0xF0 == 0x80:
                self.send(b"\x90\x04" + body[:2] + b"\x00\x00")
            elif first == 0xC0:
                self.send(b"\xd0\x00")
            elif first & 0xF0 == 0xE0:
                return

    def hold(self) -> None:
        """Read and answer nothing until the sink ends the connection."""
        with contextlib.suppress(OSError):
            while self._connection.recv(65536):
                pass

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self._connection.recv(size - len(data))
            if not part:
                raise ConnectionError
            data += part
        return data


Script = Callable[[Client], None]


def well(client: Client) -> None:
    """Behave as a broker should."""
    client.accept()
    client.serve()


def puback(message_id: int, reason: int = 0) -> bytes:
    return b"\x40\x03" + struct.pack("!HB", message_id, reason)


class ScriptedBroker(TcpServer):
    """Runs a script for each connection, the last one for all that follow; a context manager."""

    def __init__(self, *scripts: Script) -> None:
        super().__init__()
        self._scripts = scripts
        self.connections = 0
        self.published: list[bytes] = []
        """Bodies of the PUBLISH packets."""

    @property
    def url(self) -> str:
        return f"mqtt://{self.address}"

    def serve(self, client: socket.socket) -> None:
        script = self._scripts[min(self.connections, len(self._scripts) - 1)]
        self.connections += 1
        script(Client(client, self.published))
