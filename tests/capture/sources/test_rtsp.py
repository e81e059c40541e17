"""RTSP cameras through FFmpeg: what it gets, and why a connection was lost."""

from __future__ import annotations

import random
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import av
import pytest
from pydantic import ValidationError

from streamer.capture.sources import Rtsp
from streamer.core.errors import SourceLost
from tests.support.certificates import Authority
from tests.support.clips import write_clip
from tests.support.rtsp import RtspServer
from tests.support.rtsp_script import OK, SDP, VIDEO, Answer, Request, ScriptedServer, camera, describe, response

PASSWORD = "gar4den-gate"


def rtsp(url: str, **keys: Any) -> Rtsp:
    return Rtsp.model_validate({"url": url, **keys})


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", 25)


@contextmanager
def tls_front(port: int, context: ssl.SSLContext) -> Iterator[int]:
    """Serve TLS in front of a TCP port of this computer until the end of the block; yield the TLS port."""
    listener = socket.create_server(("127.0.0.1", 0))
    sockets = [listener]

    def copy(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        with suppress(OSError):
            while True:
                plain, _ = listener.accept()
                with suppress(OSError), plain:  # which `wrap_socket` has replaced
                    secure = context.wrap_socket(plain, server_side=True)
                    behind = socket.create_connection(("127.0.0.1", port))
                    sockets.extend((secure, behind))
                    for pair in ((secure, behind), (behind, secure)):
                        threading.Thread(target=copy, args=pair, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        for one in sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_rtsps_camera_with_trusted_certificate_plays(clip: Path, tmp_path: Path, transport: str) -> None:
    """`udp` is without effect: the video must not leave the TLS connection."""
    authority = Authority(tmp_path)
    mine = authority.issue("camera")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(mine.cert, mine.key)
    with (
        RtspServer(clip, user="bob", password=PASSWORD, digest=True) as server,
        tls_front(server.port, context) as port,
    ):
        url = f"rtsps://bob:{PASSWORD}@localhost:{port}/cam"
        with closing(rtsp(url, tls={"ca": str(authority.cert)}, transport=transport).open()) as source:
            assert next(picture for picture in source if picture is not None).width == 256
        with pytest.raises(SourceLost, match="not from a known authority"):
            rtsp(url).open()


def test_ffmpeg_gets_neither_password_nor_address(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    av_open = av.open

    def spy(*arguments: Any, **keys: Any) -> Any:
        opened.append(f"{arguments} {keys}")
        return av_open(*arguments, **keys)

    monkeypatch.setattr(av, "open", spy)
    with RtspServer(clip, user="bob", password=PASSWORD) as server:
        url = server.url.replace("://", f"://bob:{PASSWORD}@") + "?token=gar4den-token"
        with suppress(SourceLost), closing(rtsp(url).open()):
            pass
        with closing(rtsp(server.url.replace("://", f"://bob:{PASSWORD}@")).open()):
            pass
        assert opened
        for secret in ("gar4den", "bob", "/cam", str(server.port)):
            assert secret not in " ".join(opened)


@pytest.mark.parametrize(
    ("method", "answer", "reason"),
    [
        ("SETUP", response("453 x"), "has no bandwidth left (453): too many viewers"),
        ("SETUP", response("500 gar4den-gate"), "failed (500)"),
        ("PLAY", response("302 x", "Location: rtsp://localhost/"), "redirects to another address (302)"),
        ("PLAY", OK + b"RTSP/1.0 200 OK\r\n" + b"X: y\r\n" * 20_000, "sends a header of more than 64 KiB"),
        ("SETUP", response("200 OK", "Session: 1", f"Transport: RTP/AVP/TCP;{'x=y;' * 20_000}"), "sends a header of"),
        ("DESCRIBE", describe(SDP + VIDEO + "a=fmtp:96 x=" + "A" * 300_000), "sends a body of more than 256 KiB"),
        ("DESCRIBE", describe(SDP + VIDEO * 1000), "describes 1000 media: the limit is 16"),
        ("SETUP", None, "closed the connection without an answer"),
    ],
)
def test_reason_is_that_of_the_camera(method: str, answer: Answer, reason: str) -> None:
    def scripted(request: Request) -> Answer:
        return answer if request.method == method else camera(request)

    def read(url: str) -> None:
        with closing(rtsp(url).open(5)) as source:
            list(source)

    with ScriptedServer(scripted) as server, pytest.raises(SourceLost) as caught:
        read(server.url(user=f"bob:{PASSWORD}"))
    assert str(caught.value).startswith(reason)


def test_unknown_codec_is_told() -> None:
    sdp = describe(SDP + VIDEO.replace("H264", "X-UNHEARD"))
    with (
        ScriptedServer(lambda r: sdp if r.method == "DESCRIBE" else camera(r)) as server,
        pytest.raises(SourceLost, match="unknown codec"),
    ):
        rtsp(server.url()).open(1)


def test_tls_keys_need_rtsps() -> None:
    with pytest.raises(ValidationError, match="`tls` has no effect with rtsp://"):
        rtsp("rtsp://h/a", tls={"verify": False})


def test_confined_process_may_reach_the_camera(tmp_path: Path) -> None:
    needs = rtsp("rtsps://h:1234/a", tls={"ca": str(tmp_path / "ca.pem")}).needs()
    assert {554, 322, 1234} == set(needs.connect or ())
    assert [*needs.read] == [tmp_path / "ca.pem"]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Return a response with one to three faults."""
    parts = [
        b"\r\n",
        b"\0",
        b"9" * 400,
        b"-1",
        b"$",
        b"RTSP/1.0 ",
        b"Content-Length: 99\r\n",
        b"\xff\xfe",
        b": " * 50,
        b"",
    ]
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data) + 1)
        data = data[:at] + rng.choice(parts) + data[at + rng.choice((0, 1, 5, 40)) :]
    return data


@pytest.mark.parametrize("method", ["OPTIONS", "DESCRIBE", "SETUP", "PLAY"])
def test_damaged_conversations_lose_only_the_connection(method: str) -> None:
    rng = random.Random(method)

    def damaged(request: Request) -> Answer:
        answer = camera(request)
        assert isinstance(answer, bytes)
        return mutated(answer, rng) if request.method == method else answer

    with ScriptedServer(damaged) as server:
        for _ in range(8):
            with pytest.raises(SourceLost) as caught:
                read_all(rtsp(server.url()), 0.3)
            assert "\udcff" not in str(caught.value)


def read_all(settings: Rtsp, seconds: float) -> None:
    with closing(settings.open(seconds)) as source:
        list(source)
