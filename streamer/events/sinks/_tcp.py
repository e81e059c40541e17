"""A TCP stream whose every operation has a deadline; with TLS, and through an HTTP proxy."""

from __future__ import annotations

import contextlib
import math
import queue
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from streamer.core.addresses import Address, connect, resolve

T = TypeVar("T")

_READ_BYTES = 1 << 16
_MAX_PROXY_ANSWER = 8 << 10


class StreamClosed(ConnectionError):
    """The other side closed the connection."""


class TcpStream:
    """A connected socket. Methods raise TimeoutError at `deadline`, a monotonic second, and else OSError."""

    def __init__(self, host: str, port: int, deadline: float) -> None:
        """Connect to the first address of `host`, a host in the config, that answers. Raises AddressError too."""
        addresses = _look_up(host, deadline)
        self._socket = connect(addresses, port, deadline - time.monotonic())
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)

    def close(self) -> None:
        self._socket.close()

    def start_tls(self, context: ssl.SSLContext, host: str, deadline: float) -> None:
        """Start TLS with a server whose certificate must be for `host`."""
        wrapped = context.wrap_socket(self._socket, server_hostname=host, do_handshake_on_connect=False)
        self._socket = wrapped
        self._retry(wrapped.do_handshake, select.POLLIN, deadline)

    def open_tunnel(self, host: str, port: int, headers: str, deadline: float) -> None:
        """Ask the HTTP proxy at the other end for a connection to `host`. `headers`: lines, each with its end."""
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.send(f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n{headers}\r\n".encode(), deadline)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self.receive(deadline)
            if len(answer) > _MAX_PROXY_ANSWER:
                raise ConnectionError(0, "the answer of the proxy is too long")
        version, _, status = answer[:12].partition(b" ")
        if not version.startswith(b"HTTP/1.") or not status.isdigit():
            raise ConnectionError(0, "the proxy does not speak HTTP")
        if not status.startswith(b"2"):
            raise ConnectionError(0, f"the proxy refuses it: HTTP {status.decode()}")

    def send(self, data: bytes, deadline: float) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._retry(partial(self._socket.send, rest), select.POLLOUT, deadline) :]
        except (ssl.SSLEOFError, ConnectionError):
            with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError):
                self._socket.recv(1)  # raises the alert by which the other side said why
            raise

    def receive(self, deadline: float) -> bytes:
        """Return the bytes that have arrived, at least one."""
        data = self._retry(lambda: self._socket.recv(_READ_BYTES), select.POLLIN, deadline)
        if not data:
            raise StreamClosed(0, "the other side closed it")
        return data

    def _retry(self, call: Callable[[], T], event: int, deadline: float) -> T:
        """Call until it does not block. `event`: the one to wait for without TLS, which names its own."""
        while True:
            try:
                return call()
            except ssl.SSLWantReadError:
                awaited = select.POLLIN
            except ssl.SSLWantWriteError:
                awaited = select.POLLOUT
            except BlockingIOError:
                awaited = event
            left = deadline - time.monotonic()
            poller = select.poll()  # select.select fails for descriptors from 1024 on
            poller.register(self._socket, awaited)
            if left <= 0 or not poller.poll(math.ceil(left * 1000)):
                raise TimeoutError


def _look_up(host: str, deadline: float) -> tuple[Address, ...]:
    """Return the addresses of a host in the config. The system's resolver has no deadline, so a thread calls it."""
    found: queue.SimpleQueue[tuple[Address, ...] | Exception] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            found.put(resolve(host, in_config=True))
        except Exception as error:
            found.put(error)

    threading.Thread(target=look_up, name=f"look up {host}", daemon=True).start()
    try:
        result = found.get(timeout=max(0.0, deadline - time.monotonic()))
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(result, Exception):
        raise result
    return result
