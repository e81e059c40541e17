"""The gateway between FFmpeg, here a socket of the test, and a scripted server."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from urllib.parse import urlsplit

import pytest

from streamer.core import loopback
from streamer.core.rtsp.gateway import Gateway
from streamer.core.rtsp.local_listener import LocalListener
from streamer.core.rtsp.picture_limit import PictureLimit
from streamer.core.rtsp.session import open_session
from streamer.core.tls import Tls
from tests.support.agents import until
from tests.support.rtsp_script import (
    OK,
    SDP,
    VIDEO,
    Answer,
    Request,
    ScriptedServer,
    camera,
    describe,
    response,
    valid_digest,
)

PASSWORD = "gar4den-gate"
PATH = "/cam?token=gar4den-token"


class FakeFfmpeg:
    """Sends requests as FFmpeg does, and returns what comes back."""

    def __init__(self, url: str) -> None:
        self.url = url
        address = urlsplit(url)
        self.socket = socket.create_connection((address.hostname, address.port), 5)
        self._cseq = 0

    def send(self, method: str, uri: str = "", *headers: str) -> None:
        self._cseq += 1
        lines = [f"{method} {uri or self.url} RTSP/1.0", f"CSeq: {self._cseq}", *headers, "", ""]
        self.socket.sendall("\r\n".join(lines).encode())

    def request(self, method: str, uri: str = "", *headers: str) -> str:
        """Return the response, empty when the connection ends."""
        self.send(method, uri, *headers)
        received = b""
        while b"\r\n\r\n" not in received:
            data = self.socket.recv(4096)
            if not data:
                return ""
            received += data
        return received.decode()

    def play(self, *transport: str) -> str:
        self.request("OPTIONS")
        self.request("DESCRIBE")
        return self.request("SETUP", f"{self.url}/track1", *(transport or ("Transport: RTP/AVP/TCP;interleaved=0-1",)))


@contextmanager
def through(
    answer: Callable[[Request], Answer], user: str = f"bob:{PASSWORD}"
) -> Iterator[tuple[ScriptedServer, Gateway, FakeFfmpeg]]:
    """Yield a server, a gateway to it and a client of the gateway."""
    with ScriptedServer(answer) as server:
        gateway = Gateway(open_session(server.url(PATH, user), Tls(), 5))
        with closing(gateway):
            ffmpeg = FakeFfmpeg(gateway.url)
            with closing(ffmpeg.socket):
                yield server, gateway, ffmpeg


def test_ffmpeg_learns_no_secret_and_no_address() -> None:
    def answer(request: Request) -> Answer:
        if request.method == "DESCRIBE":
            uri = request.uri.encode()
            body = describe(SDP + f"a=control:{request.uri}\r\n" + VIDEO)
            return body.replace(b"Content-Type", b"Content-Base: " + uri + b"\r\nContent-Type")
        return camera(request)

    with through(answer) as (server, gateway, ffmpeg):
        assert ffmpeg.request("OPTIONS").startswith("RTSP/1.0 200 OK\r\n")
        described = ffmpeg.request("DESCRIBE")
        assert f"Content-Base: {gateway.url}\r\n" in described
        assert f"a=control:{gateway.url}\r\n" in described
        assert "CSeq: 2\r\n" in described
        ffmpeg.request("SETUP", f"{gateway.url}/track1", "Transport: RTP/AVP/TCP;interleaved=0-1")
        for secret in ("gar4den", str(server.port)):
            assert secret not in described + gateway.url
        assert [request.method for request in server.requests] == ["OPTIONS", "DESCRIBE", "SETUP"]
        assert server.requests[-1].uri == server.url(PATH + "/track1")


def test_expired_nonce_of_a_keepalive_is_replaced() -> None:
    """FFmpeg sends no user, so it could not answer."""
    nonces = iter("abcdefgh")
    nonce = next(nonces)

    def answer(request: Request) -> Answer:
        nonlocal nonce
        if valid_digest(request, PASSWORD) and request.authorization["nonce"] == nonce:
            if request.method == "GET_PARAMETER":
                nonce = next(nonces)
            return camera(request)
        return response("401 no", f'WWW-Authenticate: Digest realm="r", nonce="{nonce}"')

    with through(answer) as (server, _, ffmpeg):
        ffmpeg.play()
        for number in (4, 5):
            answered = ffmpeg.request("GET_PARAMETER")
            assert answered.startswith(f"RTSP/1.0 200 OK\r\nSession: 1\r\nCSeq: {number}\r\n")
        sent = [request.headers["cseq"] for request in server.requests]
        assert sent == [str(number) for number in range(1, len(sent) + 1)]


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("453 x", "has no bandwidth left (453): too many viewers"),
        ("461 x", "does not support this transport (461): set `transport` to `udp` or `tcp`"),
        ("302 x", "redirects to another address (302)"),
    ],
)
def test_refused_media_end_the_session_with_its_reason(status: str, reason: str) -> None:
    with through(lambda r: response(status) if r.method == "SETUP" else camera(r)) as (_, gateway, ffmpeg):
        assert ffmpeg.play() == ""
        assert str(gateway.failure) == reason


def test_refused_keepalive_does_not_end_the_session() -> None:
    with through(lambda r: response("405 x") if r.method == "GET_PARAMETER" else camera(r)) as (_, gateway, ffmpeg):
        ffmpeg.play()
        assert ffmpeg.request("GET_PARAMETER").startswith("RTSP/1.0 405")
        assert gateway.failure is None
        assert ffmpeg.request("PLAY").startswith("RTSP/1.0 200")


def test_packets_pass_both_ways() -> None:
    packet = b"$\x00\x01\x00" + bytes(256)

    def answer(request: Request) -> Answer:
        return OK + packet * 100 if request.method == "PLAY" else camera(request)

    with through(answer) as (server, _, ffmpeg):
        ffmpeg.play()
        ffmpeg.send("PLAY")
        received = b""
        while received.count(packet) < 100:
            received += ffmpeg.socket.recv(65536)
        ffmpeg.socket.sendall(b"$\x01\x00\x04abcd")
        ffmpeg.send("TEARDOWN")
        until(lambda: server.requests[-1].method == "TEARDOWN", 5, "a TEARDOWN after the packet")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"RTSP/1.0 200 OK\r\n" + b"X: y\r\n" * 20_000, "sends a header of more than 64 KiB"),
        (b"\xff" * 100_000, "sends data that is not RTSP"),
    ],
)
def test_flood_between_packets_ends_the_session(data: bytes, reason: str) -> None:
    with through(lambda r: OK + data if r.method == "PLAY" else camera(r)) as (_, gateway, ffmpeg):
        ffmpeg.play()
        ffmpeg.request("PLAY")
        until(lambda: gateway.failure, 5, "a failure")
        assert str(gateway.failure) == reason


def endless_picture() -> Iterator[bytes]:
    yield OK
    packet = b"$\0" + (60_012).to_bytes(2, "big") + b"\x80\x60\0\1" + b"\0\0\0\1" + b"\0\0\0\1" + bytes(60_000)
    while True:
        yield packet * 10


def test_endless_picture_ends_the_session() -> None:
    with through(lambda r: endless_picture() if r.method == "PLAY" else camera(r)) as (_, gateway, ffmpeg):
        ffmpeg.play()
        ffmpeg.send("PLAY")
        while ffmpeg.socket.recv(1 << 20):
            pass
        assert str(gateway.failure) == "sends a picture of more than 16 MiB"


def test_long_stream_of_pictures_is_not_limited() -> None:
    limit = PictureLimit()
    for number in range(1000):
        for kind, stamp in ((0x60, number), (0xE0, 7), (200, 7)):  # new timestamps, markers, RTCP
            head = b"$\0" + (60_012).to_bytes(2, "big") + bytes([0x80, kind, 0, 1])
            limit.check((head + stamp.to_bytes(4, "big") + bytes(60_004)) * 2)


def test_udp_media_come_from_the_address_of_the_camera() -> None:
    lie = "Transport: RTP/AVP;unicast;client_port=5-6;server_port=7-8;source=169.254.169.254"
    with through(lambda r: response("200 OK", lie) if r.method == "SETUP" else camera(r)) as (_, _, ffmpeg):
        answered = ffmpeg.play("Transport: RTP/AVP;unicast;client_port=5-6")
        assert "Transport: RTP/AVP;unicast;client_port=5-6;server_port=7-8;source=127.0.0.1\r\n" in answered


def test_requests_of_the_camera_are_answered() -> None:

    def answer(request: Request) -> Answer:
        return OK + b"OPTIONS * RTSP/1.0\r\nCSeq: 70\r\n\r\n" if request.method == "PLAY" else camera(request)

    with through(answer) as (server, _, ffmpeg):
        ffmpeg.play()
        ffmpeg.request("PLAY")
        until(lambda: any(request.method == "RTSP/1.0" for request in server.requests), 5, "a response")


def test_other_programs_cannot_use_the_gateway() -> None:
    with ScriptedServer() as server:
        gateway = Gateway(open_session(server.url(PATH), Tls(), 5))
        with closing(gateway):
            address = urlsplit(gateway.url)
            for text in (
                b"",
                b"OPTIONS rtsp://127.0.0.1/guessed RTSP/1.0\r\nCSeq: 1\r\n\r\n",
                b"GET / HTTP/1.0\r\n\r\n",
            ):
                with socket.create_connection((address.hostname, address.port), 5) as stranger:
                    stranger.sendall(text)
                    if not text:
                        stranger.shutdown(socket.SHUT_WR)
                    assert stranger.recv(100) == b""
            ffmpeg = FakeFfmpeg(gateway.url)
            assert ffmpeg.request("OPTIONS").startswith("RTSP/1.0 200")
            ffmpeg.socket.close()


def test_closed_gateway_closes_the_connection_to_the_server() -> None:
    with through(camera) as (server, gateway, ffmpeg):
        ffmpeg.play()
        ffmpeg.socket.close()
        gateway.close()
        assert gateway.failure is None
        assert len(server.requests) == 3


def test_unused_gateway_can_be_closed() -> None:
    with ScriptedServer() as server:
        Gateway(open_session(server.url(), Tls(), 5)).close()


def test_shortage_of_descriptors_does_not_end_the_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    class Short:
        """A listening socket that cannot accept at first."""

        def __init__(self, host: str) -> None:
            self._socket, self._failures = socket.create_server((host, 0)), 2

        def getsockname(self) -> tuple[str, int]:
            address: tuple[str, int] = self._socket.getsockname()
            return address

        def accept(self) -> tuple[socket.socket, object]:
            self._failures -= 1
            if self._failures >= 0:
                raise OSError(errno.EMFILE, "Too many open files")
            return self._socket.accept()

    monkeypatch.setattr(loopback, "listen", lambda host, backlog: Short(host))
    listener = LocalListener(socket.AF_INET)
    path, arrivals = listener.expect()
    with socket.create_connection((listener.host, listener.port), 5) as ffmpeg:
        ffmpeg.sendall(f"OPTIONS rtsp://{listener.host}:{listener.port}{path} RTSP/1.0\r\nCSeq: 1\r\n\r\n".encode())
        arrived = arrivals.get(timeout=60)
        assert arrived is not None
        arrived.socket.close()
