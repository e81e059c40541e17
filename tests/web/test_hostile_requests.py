"""Generated requests: each gets a normal answer or a closed connection, and none a traceback."""

from __future__ import annotations

import contextlib
import random
import re
import socket
from collections.abc import Iterator

import pytest

from tests.support.capturing import STREAM
from tests.support.web_process import CONFIG, Publisher, WebProcess

TOKEN = "a-token-of-good-length"
REQUESTS = 400
PATHS = [
    "/", "/cams", "/cams/", "/cams/api/streams", "/api/streams", "/api/events", "/api/events/live", "/healthz",
    "/readyz", "/metrics", "/login", "/app.js", f"/api/snapshot/{STREAM}.jpg", f"/live/{STREAM}.mjpeg",
    "/hls/cam1/index.m3u8",
    "*", "http://evil.example/", "//evil.example/", "/..", "/.", "/cams/../..", "/cams/%2e%2e/app.py", "",
]  # fmt: skip
METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "TRACE", "PATCH", "X" * 50]
PIECES = [
    "a", "0", "-1", "%", "%00", "%0d%0aX-Injected: 1", "%ff%fe", "%F0%9F%90%92", "\xe4", "../", "..\\", "'", '"', "<b>",
    "&", "=", ";", "?", "#", "{}", "9" * 50, "NaN", "null", "true", "\\", "%25", "[", "]", "::1", "@", ",", "a" * 300,
]  # fmt: skip
KEYS = ["stream", "task", "text", "after", "limit", "width", "annotated", "token", "__proto__", "a[]"]
HEADERS = [
    "Host",
    "Origin",
    "Referer",
    "Cookie",
    "Authorization",
    "Accept",
    "Last-Event-ID",
    "Sec-Fetch-Site",
    "Sec-Fetch-Mode",
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Forwarded-Host",
    "Forwarded",
    "Range",
    "If-None-Match",
    "Content-Length",
    "If-Modified-Since",
    "Transfer-Encoding",
    "Connection",
    "Upgrade",
    "Expect",
    "Content-Type",
    "TE",
    "Accept-Encoding",
]
VALUES = [
    "localhost", "cameras.example", "chunked", "close", "keep-alive", "websocket", "100-continue", "same-origin",
    "https", "cross-site", "navigate", "bytes=0-5", "bytes=-1", "bytes=9-1,5-,0-99999999", "text/html", "null",
    "Bearer", f"Bearer {TOKEN}x", "Basic Og==", "streamer-test=", "streamer-test=1.2.3.4", "http://[", "[::1]:5",
    "1.2.3.4:x", "127.0.0.1, ,", "5", "application/x-www-form-urlencoded", "multipart/form-data;boundary=",
    "Thu, 01 Jan 1970 00:00:00 GMT", 'W/"x"',
]  # fmt: skip


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebProcess]:
    folder = tmp_path_factory.mktemp("h")
    settings = {"bind": "127.0.0.1:0", "token": TOKEN, "base_path": "/cams", "trusted_proxies": ["127.0.0.1"]}
    with Publisher(folder), WebProcess(folder, {**CONFIG, "web": settings}) as web:
        yield web


def request(rng: random.Random, is_owner: bool) -> bytes:
    """Return a request from parts that are each valid or not."""

    def text(count: int) -> str:
        return "".join(rng.choices(PIECES, k=rng.randint(0, count)))

    path = rng.choice(PATHS) + (text(3) if rng.random() < 0.3 else "")
    query = "&".join(f"{rng.choice(KEYS)}={text(2)}" for _ in range(rng.randint(0, 3)))
    lines = [f"{rng.choice(METHODS[:3] if rng.random() < 0.8 else METHODS)} {path}{'?' * bool(query)}{query} HTTP/1.1"]
    if rng.random() < 0.9:
        lines.append("Host: localhost")
    if is_owner:
        lines.append(f"Authorization: Bearer {TOKEN}")
    for _ in range(rng.randint(0, 4)):
        lines.append(f"{rng.choice(HEADERS)}: {rng.choice(VALUES) if rng.random() < 0.7 else text(3)}")
    body = text(4)
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode("utf-8" if rng.random() < 0.5 else "latin-1", "replace")


def answer(web: WebProcess, sent: bytes) -> bytes:
    """Return the head of the answer, or nothing if the connection was closed or waits for more of the request."""
    with socket.create_connection(("127.0.0.1", web.port), timeout=1.5) as one:
        received = b""
        with contextlib.suppress(OSError):
            one.sendall(sent)
            one.shutdown(socket.SHUT_WR)
            while b"\r\n\r\n" not in received and (more := one.recv(4096)):
                received += more
    return received.partition(b"\r\n\r\n")[0]


@pytest.mark.parametrize("is_owner", [True, False], ids=["with the token", "without"])
def test_generated_requests_get_normal_answers(web: WebProcess, is_owner: bool) -> None:
    rng, statuses = random.Random(7), set()
    for number in range(REQUESTS):
        sent = request(rng, is_owner)
        head = answer(web, sent)
        status = re.match(rb"HTTP/1.1 (\d{3}) ", head)
        if status is not None:
            statuses.add(int(status[1]))
            assert int(status[1]) not in (500, 501, 502, 504), (number, sent, head)
            assert b"\r\nx-injected" not in head.lower(), (number, sent, head)
        assert web.process.poll() is None, (number, sent)
    assert statuses >= ({200, 400, 404, 405, 422} if is_owner else {400, 401})
    assert is_owner or not {200, 206, 304, 404, 405, 422} & statuses  # a stranger does not learn what exists
    assert web.get("/api/streams", {"Authorization": f"Bearer {TOKEN}"}).status == 200
    log = web.errors.read_text()
    assert "Traceback" not in log
    assert len(log.splitlines()) < 60
