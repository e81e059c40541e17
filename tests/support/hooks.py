"""A real HTTP endpoint for webhooks, in one of its moods."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Mood = Callable[["Endpoint", dict[str, Any]], int]


def ok(_: Endpoint, __: dict[str, Any]) -> int:
    return 204


class Endpoint:
    """A context manager. `mood` says the status for an event; it may take its time."""

    def __init__(self) -> None:
        self.mood: Mood = ok
        self.headers: dict[str, str] = {}
        self.taken: list[dict[str, Any]] = []
        """Events that were answered with 2xx, in the order they came."""
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.over = threading.Event()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                endpoint.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/hook"

    def __enter__(self) -> Endpoint:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["content-length"]))
        event = json.loads(body)
        self.requests.append(({name.lower(): value for name, value in request.headers.items()}, body))
        status = self.mood(self, event)
        if 200 <= status < 300:
            self.taken.append(event)
        try:
            request.send_response(status)
            for name, value in self.headers.items():
                request.send_header(name, value)
            request.send_header("content-length", "0")
            request.end_headers()
        except OSError:
            pass  # it did not wait for the answer


def status(number: int) -> Mood:
    return lambda _, __: number


def slow(seconds: float) -> Mood:
    def mood(endpoint: Endpoint, _: dict[str, Any]) -> int:
        time.sleep(seconds)
        return 204

    return mood


def never(endpoint: Endpoint, _: dict[str, Any]) -> int:
    endpoint.over.wait(60)
    return 500
