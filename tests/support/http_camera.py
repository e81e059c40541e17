"""A camera over HTTP whose answers a test writes byte by byte."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple, Self

import cv2

from tests.support.clips import numbered


class Request(NamedTuple):
    path: str
    headers: Mapping[str, str]
    """Values by lower-case name."""


Send = Callable[[bytes], None]
Route = Callable[[Request, Send], None]
"""Writes the whole answer, header included. The connection is closed when it returns."""


class HttpCamera:
    """A server with one thread per connection. Its routes are found by the first part of the path."""

    def __init__(
        self, routes: Mapping[str, Route], host: str = "127.0.0.1", port: int = 0, context: ssl.SSLContext | None = None
    ) -> None:
        self.requests: list[Request] = []
        self._routes, self._context = routes, context
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._server = socket.create_server((host, port), family=family)
        self._connections: list[socket.socket] = []
        self.host, self.port = host, self._server.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def url(self, path: str, userinfo: str = "") -> str:
        return f"{'https' if self._context else 'http'}://{userinfo}{self.host}:{self.port}{path}"

    def paths(self) -> list[str]:
        return [request.path for request in self.requests]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection = self._server.accept()[0]
                self._connections.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
            with connection:
                data = b""
                while b"\r\n\r\n" not in data:
                    received = connection.recv(1 << 16)
                    if not received:
                        return
                    data += received
                    if data.startswith(b"\x16"):  # TLS
                        return connection.sendall(answer(b"", status="400 Bad Request"))
                first, *lines = data.decode("latin-1").split("\r\n")
                fields = (line.partition(":") for line in lines if ":" in line)
                request = Request(first.split(" ")[1], {name.lower(): value.strip() for name, _, value in fields})
                self.requests.append(request)
                route = self._routes.get(request.path.split("?")[0].strip("/").split("/")[0])
                if route is None:
                    connection.sendall(answer(b"", status="404 Not Found"))
                else:
                    route(request, connection.sendall)


def answer(body: bytes, content_type: str = "", status: str = "200 OK", *headers: str) -> bytes:
    """Return a whole answer with its length."""
    typed = [f"Content-Type: {content_type}"] if content_type else []
    return head(status, f"Content-Length: {len(body)}", *typed, *headers) + body


def head(status: str = "200 OK", *headers: str) -> bytes:
    return "\r\n".join((f"HTTP/1.1 {status}", *headers, "", "")).encode()


def jpeg(number: int) -> bytes:
    """Return a JPEG that shows a number."""
    return cv2.imencode(".jpg", numbered(number, 256, 144))[1].tobytes()


def reply(data: bytes) -> Route:
    """Return a route that always gives this answer."""
    return lambda _request, send: send(data)
