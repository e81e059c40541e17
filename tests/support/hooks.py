"""A real HTTP endpoint for webhooks, with a behaviour that tests set."""

from __future__ import annotations

import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.tcp_server import TcpServer

Behaviour = Callable[["Endpoint", dict[str, Any]], int]


def ok(_: Endpoint, __: dict[str, Any]) -> int:
    return 204


class QuietServer(ThreadingHTTPServer):
    """An HTTP server that prints nothing about clients that break off."""

    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        pass


class Endpoint:
    """A context manager. `behaviour` returns the status code for an event and may delay it."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.behaviour: Behaviour = ok
        self.headers: dict[str, str] = {}
        self.accepted: list[dict[str, Any]] = []
        """Events with a 2xx response, in the order they arrived."""
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.paths: list[str] = []
        self.closing = threading.Event()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                endpoint.respond(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = QuietServer(("127.0.0.1", 0), Handler)
        self._scheme = "http" if tls is None else "https"
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_port}/hook"

    def __enter__(self) -> Endpoint:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def respond(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["content-length"]))
        event = json.loads(body)
        self.paths.append(request.path)
        self.requests.append(({name.lower(): value for name, value in request.headers.items()}, body))
        status = self.behaviour(self, event)
        if 200 <= status < 300:
            self.accepted.append(event)
        try:
            request.send_response(status)
            for name, value in self.headers.items():
                request.send_header(name, value)
            request.send_header("content-length", "0")
            request.end_headers()
        except OSError:
            pass  # the client did not wait for the response


def status(number: int) -> Behaviour:
    return lambda _, __: number


def slow(seconds: float) -> Behaviour:
    def behaviour(endpoint: Endpoint, _: dict[str, Any]) -> int:
        time.sleep(seconds)
        return 204

    return behaviour


def never(endpoint: Endpoint, _: dict[str, Any]) -> int:
    endpoint.closing.wait(60)
    return 500


class RawEndpoint(TcpServer):
    """A TCP server that answers each request with the bytes of `answer`, however bad; a context manager."""

    def __init__(self, answer: Callable[[bytes], Iterable[bytes]]) -> None:
        super().__init__()
        self._answer = answer

    @property
    def url(self) -> str:
        return f"http://{self.address}/hook"

    def serve(self, client: socket.socket) -> None:
        client.settimeout(10)
        for data in self._answer(_request(client)):
            client.sendall(data)


def _request(client: socket.socket) -> bytes:
    """Read a whole request. A connection that is closed before the end of its request is reset, not ended."""
    with client.makefile("rb") as stream:
        head = b"".join(iter(stream.readline, b"\r\n")) + b"\r\n"
        length = re.search(rb"(?i)^content-length: (\d+)", head, re.MULTILINE)
        return head + (stream.read(int(length[1])) if length else b"")
