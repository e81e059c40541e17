"""Floods by strangers and by clients with the token: others are served, and the log stays short."""

from __future__ import annotations

import contextlib
import http.client
import os
import resource
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from streamer.events.build import result_event
from streamer.events.ledger import Ledger
from streamer.types import Answer
from streamer.web.connections import MAX_SERVED_OF_CLIENT, MAX_WAITING
from streamer.web.server import MAX_HEAD_BYTES, WRITE_TIMEOUT_S
from streamer.web.throttle import CLIENT_BURST
from tests.support.agents import until
from tests.support.capturing import STREAM
from tests.support.sample_events import result
from tests.support.web_process import CONFIG, Publisher, Response, WebProcess

TOKEN = "a-token-of-good-length"
OWNER = {"Authorization": f"Bearer {TOKEN}"}
MAX_FILES = 700
"""Open files that the process may have, so that a flood without limits would use them up."""
LOG_LINES = 60


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebProcess]:
    folder = tmp_path_factory.mktemp("f")
    settings = {"bind": "0.0.0.0:0", "token": TOKEN, "trusted_proxies": ["127.0.0.9"]}
    with Publisher(folder), WebProcess(folder, {**CONFIG, "web": settings}) as web:
        resource.prlimit(web.process.pid, resource.RLIMIT_NOFILE, (MAX_FILES, MAX_FILES))
        assert web.get("/api/streams", OWNER).status == 200
        yield web
        assert web.process.poll() is None
        assert len(web.errors.read_text().splitlines()) < LOG_LINES
        assert "Traceback" not in web.errors.read_text()


def connect(web: WebProcess, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", web.port), timeout=60, source_address=(source, 0))


def get(web: WebProcess, path: str, headers: dict[str, str], source: str = "127.0.0.1") -> Response:
    connection = http.client.HTTPConnection("127.0.0.1", web.port, 60, source_address=(source, 0))
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return Response(response.status, dict(response.getheaders()), response.read())
    finally:
        connection.close()


@contextlib.contextmanager
def flood(web: WebProcess, count: int, first: bytes, source: str = "127.0.0.1") -> Iterator[None]:
    """Hold connections that send a few bytes and nothing more."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            one = stack.enter_context(connect(web, source))
            if first:
                with contextlib.suppress(OSError):  # it was already closed again
                    one.sendall(first)
        yield


def open_files(web: WebProcess) -> int:
    return len(os.listdir(f"/proc/{web.process.pid}/fd"))


@pytest.mark.parametrize("first", [b"", b"GET / HTTP/1.1\r\nHost: x\r\nX-a: ", b"POST /login HTTP/1.1\r\n"], ids=repr)
def test_strangers_shut_nobody_out(web: WebProcess, first: bytes) -> None:
    before = open_files(web)
    for count in (300, 900) if not first else (300,):
        with flood(web, count, first):
            for source in ("127.0.0.1", "127.0.0.2"):
                assert get(web, "/api/streams", OWNER, source).status == 200
            assert open_files(web) < before + MAX_WAITING + 10
    assert "connections without a request closed" in web.errors.read_text()


def test_an_open_response_survives_a_flood(web: WebProcess) -> None:
    with web.stream("/api/events/live", OWNER) as live, web.stream(f"/live/{STREAM}.mjpeg", OWNER) as video:
        assert live.readline() == b"retry: 1000\n"
        with flood(web, 400, b""):
            assert get(web, "/api/streams", OWNER).status == 200
            assert len(video.read(100_000)) == 100_000
        assert live.readline() == b"\n"


def test_requests_of_one_client_leave_room_for_others(web: WebProcess) -> None:
    """Clients behind a trusted proxy are told apart by the address that it forwards."""
    proxy = "127.0.0.9"
    greedy, other = ({**OWNER, "X-Forwarded-For": address} for address in ("203.0.113.7", "203.0.113.8"))
    lines = "".join(f"{name}: {value}\r\n" for name, value in greedy.items())
    request = f"GET /api/events/live HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode()
    with contextlib.ExitStack() as open_responses:
        for _ in range(MAX_SERVED_OF_CLIENT):
            one = open_responses.enter_context(connect(web, proxy))
            one.sendall(request)
            assert one.recv(15) == b"HTTP/1.1 200 OK"
        refused = get(web, "/", greedy, proxy)
        assert refused.body == b"Too many requests are open: close other pages or players.\n"
        assert refused.headers["retry-after"] == "5"
        assert get(web, "/", other, proxy).status == 200
        assert get(web, "/", OWNER).status == 200
    until(lambda: get(web, "/", greedy, proxy).status == 200, 10, "room again")


def test_guessing_is_slowed_but_the_owner_gets_in(web: WebProcess) -> None:
    guesser = "127.0.0.3"

    def guess(number: int) -> Response:
        return get(web, "/api/streams", {"Authorization": f"Bearer {number:020d}"}, guesser)

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(guess, range(40)))
    statuses = [answer.status for answer in answers]
    assert set(statuses) == {401, 429}
    assert statuses.count(401) <= CLIENT_BURST + 2
    refused = next(answer for answer in answers if answer.status == 429)
    assert refused.body.startswith(b"Too many wrong tokens: try again in ")
    assert 1 <= int(refused.headers["retry-after"]) <= 6
    assert get(web, "/api/streams", OWNER).status == 200
    body = web.get("/metrics", OWNER).body.decode()
    assert 'streamer_web_refused_total{cause="wrong_token"}' in body
    assert 'streamer_web_refused_total{cause="token_not_checked"}' in body
    assert f"wrong tokens received, last client {guesser}" in web.errors.read_text()


@pytest.mark.parametrize(
    "request_",
    [
        b"\0garbage\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"GET /" + b"x" * MAX_HEAD_BYTES + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-a: b\r\n" * (MAX_HEAD_BYTES // 4) + b"\r\n",
    ],
    ids=["garbage", "upgrade", "long line", "many headers"],
)
def test_invalid_requests_do_not_fill_the_log(web: WebProcess, request_: bytes) -> None:
    before = len(web.errors.read_text().splitlines())
    for _ in range(100):
        with connect(web) as one, contextlib.suppress(OSError):
            one.sendall(request_)
            assert one.recv(15) in (b"HTTP/1.1 400 Bad"[:15], b"HTTP/1.1 401 Un"[:15], b"")
    assert get(web, "/", OWNER).status == 200
    assert len(web.errors.read_text().splitlines()) - before <= 16


def test_endless_body_is_not_kept(web: WebProcess) -> None:
    with connect(web) as one:
        one.sendall(b"POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
        sent = 0
        with contextlib.suppress(OSError):
            while sent < 64 << 20:
                sent += one.send(b"x" * 65536)
        assert one.recv(15) in (b"HTTP/1.1 403 Fo"[:15], b"")
    memory = Path(f"/proc/{web.process.pid}/status").read_text()
    peak_kb = int(next(line for line in memory.splitlines() if line.startswith("VmHWM")).split()[1])
    assert peak_kb < 400 << 10


def test_slow_reader_is_served_but_no_drip(tmp_path: Path) -> None:
    """Two readers of a large page of events take 16 KB and 1.6 KB a second."""
    with Ledger(tmp_path / "ledger.db") as ledger:
        long = Answer(text="x" * 8000)
        ledger.commit([result_event("test", result(seq=seq, answer=long), "tiny") for seq in range(500)])
    with WebProcess(tmp_path) as web, contextlib.ExitStack() as stack:
        readers = {stack.enter_context(socket.socket()): piece for piece in (4096, 400)}
        for one in readers:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.settimeout(60)
            one.connect(("127.0.0.1", web.port))
            one.sendall(b"GET /api/events?limit=500 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        slow, drip = readers
        began = time.monotonic()
        assert first_reset(readers) is drip
        assert time.monotonic() - began > WRITE_TIMEOUT_S
        assert slow.recv(4096)


def first_reset(readers: dict[socket.socket, int]) -> socket.socket | None:
    """Read a piece from each connection every quarter of a second, until one of them is reset; return that one."""
    for _ in range(80):
        for one, piece in readers.items():
            try:
                assert one.recv(piece)
            except ConnectionResetError:
                return one
        time.sleep(0.25)
    return None
