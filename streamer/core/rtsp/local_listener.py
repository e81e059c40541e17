"""The loopback port of this process on which FFmpeg reaches the gateways, one for all of them."""

from __future__ import annotations

import queue
import secrets
import socket
import threading
import time
from contextlib import suppress
from functools import cache
from typing import NamedTuple

from streamer.core import loopback
from streamer.core.errors import WireError
from streamer.core.rtsp.message import Message, Splitter

LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
FIRST_REQUEST_S = 1.0
"""Longest wait for the first request of a connection. FFmpeg sends it at once, another program may send none."""
ACCEPT_RETRY_S = 0.25
"""Wait after a connection that could not be accepted."""


class LocalConnection(NamedTuple):
    """FFmpeg's connection, and what was read from it."""

    socket: socket.socket
    splitter: Splitter
    items: list[bytes | Message]


class LocalListener:
    """Hands each connection to the one that waits for the secret path of its first request."""

    def __init__(self, family: socket.AddressFamily) -> None:
        """Raises OSError if this computer has no loopback address of the family."""
        self.host = LOOPBACK[family]
        self._socket = loopback.listen(self.host, backlog=8)
        self.port: int = self._socket.getsockname()[1]
        self._waiting: dict[str, queue.SimpleQueue[LocalConnection | None]] = {}
        threading.Thread(target=self._serve, name="rtsp-listener", daemon=True).start()

    def expect(self) -> tuple[str, queue.SimpleQueue[LocalConnection | None]]:
        """Return a new secret path, and the queue in which the first connection with it arrives."""
        path, arrivals = f"/{secrets.token_hex(16)}", queue.SimpleQueue[LocalConnection | None]()
        self._waiting[path] = arrivals
        return path, arrivals

    def forget(self, path: str) -> None:
        """Refuse connections with this path."""
        self._waiting.pop(path, None)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # no descriptors are left: the connection waits until there are
                time.sleep(ACCEPT_RETRY_S)
                continue
            with suppress(OSError, WireError):
                connection.settimeout(FIRST_REQUEST_S)
                splitter = Splitter()
                items = list(splitter.feed(connection.recv(4096)))
                if items and isinstance(items[0], Message):
                    path = items[0].uri.partition("://")[2].partition("/")[2].rstrip("/")
                    if (arrivals := self._waiting.pop(f"/{path}", None)) is not None:
                        connection.settimeout(None)
                        arrivals.put(LocalConnection(connection, splitter, items))
                        continue
            connection.close()


@cache
def local_listener(family: socket.AddressFamily) -> LocalListener:
    """Return the listener of this process. Raises OSError."""
    return LocalListener(family)
