"""A local HTTP server that speaks the publish API of ntfy, as far as its documentation describes it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.support.hooks import QuietServer


@dataclass
class Published:
    topic: str
    title: str
    message: str
    priority: str
    sequence: str
    attachment: bytes | None


class NtfyServer:
    """A context manager. JSON is posted to `/`, an attachment with the rest in the query to `/TOPIC`."""

    def __init__(self, port: int = 0) -> None:
        self.published: list[Published] = []
        self.status: Callable[[], int] = lambda: 200
        self.hang = threading.Event()
        """Set: requests are accepted, but not answered before the end."""
        self.closing = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                server._answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = QuietServer(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def port(self) -> int:
        return self._server.server_port

    @property
    def url(self) -> str:
        return f"ntfy://127.0.0.1:{self.port}/alarms"

    def __enter__(self) -> NtfyServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def shown(self) -> list[Published]:
        """The notifications that a phone shows: a message replaces the one with its sequence id."""
        return list({one.sequence or str(number): one for number, one in enumerate(self.published)}.values())

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["content-length"] or 0))
        status = self.status()
        if status == 200:
            self.published.append(published_by(request, body))
        if self.hang.is_set():
            self.closing.wait(60)
            return
        answer = json.dumps({"id": "sPs71M8A2T", "time": int(time.time()), "event": "message"}).encode()
        request.send_response(status)
        request.send_header("content-length", str(len(answer)))
        request.end_headers()
        request.wfile.write(answer)


def published_by(request: BaseHTTPRequestHandler, body: bytes) -> Published:
    parts = urlsplit(request.path)
    query = {key: values[0] for key, values in parse_qs(parts.query).items()}
    fields: dict[str, Any] = query if parts.path != "/" else json.loads(body)
    return Published(
        topic=fields["topic"] if parts.path == "/" else parts.path[1:],
        title=fields.get("title", ""),
        message=fields.get("message", ""),
        priority=request.headers["x-priority"] or "default",
        sequence=request.headers["x-sequence-id"] or "",
        attachment=None if parts.path == "/" else body,
    )
