"""An H.264 stream is sent to a scripted RTSP server."""

from __future__ import annotations

import base64
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import closing
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from streamer.core.errors import SourceLost, SourceRefused
from streamer.core.rtsp import client as rtsp_client
from streamer.core.rtsp.publisher import MAX_PACKET_BYTES, RtspPublisher
from streamer.core.rtsp.session import open_session
from streamer.core.tls import Tls
from tests.support.agents import until
from tests.support.certificates import Authority
from tests.support.rtsp_script import OK, Answer, Request, ScriptedServer, camera, response, valid_digest

PASSWORD = "gar4den-gate"
SPS, PPS = b"\x67\x42\xc0\x1e\xd9", b"\x68\xce\x3c\x80"
KEY_FRAME = b"\0\0\0\1" + SPS + b"\0\0\1" + PPS + b"\0\0\0\1\x65picture"


def publish(server: ScriptedServer, tls: Tls | None = None) -> RtspPublisher:
    scheme = "rtsps" if server.tls else "rtsp"
    url = server.url("/push", f"bob:{PASSWORD}", scheme)
    return RtspPublisher(open_session(url, tls or Tls(), 3, describe=False), KEY_FRAME)


def send_pictures(publisher: RtspPublisher, number: int) -> None:
    with av.open(publisher, "w", format="rtp", options={"packetsize": str(MAX_PACKET_BYTES)}) as container:
        stream = container.add_stream("libx264", rate=25, options={"tune": "zerolatency"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        pictures = np.random.default_rng(1).integers(0, 255, (number, 240, 320, 3), np.uint8)
        for count, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
            frame.pts, frame.time_base = count, Fraction(1, 25)
            container.mux(stream.encode(frame))


def test_packets_follow_the_announced_description(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    mine = authority.issue("receiver")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(mine.cert, mine.key)
    with ScriptedServer(tls=context) as server:
        with pytest.raises(SourceLost, match="not from a known authority"):
            publish(server)
        assert not server.requests
        with closing(publish(server, Tls(ca=authority.cert))) as publisher:
            send_pictures(publisher, 5)
        until(lambda: server.requests[-1].method == "TEARDOWN", 5, "the end of the session")
        methods = [request.method for request in server.requests]
        assert methods == ["OPTIONS", "ANNOUNCE", "SETUP", "RECORD", "TEARDOWN"]
        assert server.requests[2].uri == server.url("/push/streamid=0", scheme="rtsps")
        assert server.requests[3].headers["session"] == "1"
        announced = server.requests[1].body.decode()
        sets = ",".join(base64.b64encode(unit).decode() for unit in (SPS, PPS))
        assert "a=rtpmap:96 H264/90000\r\n" in announced
        assert f"profile-level-id=42c01e;sprop-parameter-sets={sets}\r\n" in announced
        assert len(server.packets) > 5
        assert {packet[1] & 127 for packet in server.packets} <= {96, 200 & 127}
        assert max(map(len, server.packets)) <= MAX_PACKET_BYTES


def test_digest_of_a_receiver_is_answered() -> None:
    offer = 'WWW-Authenticate: Digest realm="r", nonce="n", algorithm=SHA-256'

    def locked(request: Request) -> Answer:
        is_open = request.method == "OPTIONS" or valid_digest(request, PASSWORD, "sha256")
        return camera(request) if is_open else response("401 no", offer)

    with ScriptedServer(locked) as server:
        publish(server).close()
        assert [request.method for request in server.requests].count("ANNOUNCE") == 2


@pytest.mark.parametrize(
    ("method", "status", "reason"),
    [
        ("ANNOUNCE", "403 no", r"forbids access \(403\)"),
        ("SETUP", "302 x", r"redirects to another address \(302\)"),
        ("RECORD", "500 gar4den-gate", r"^failed \(500\)$"),
    ],
)
def test_refusal_of_a_receiver_is_told(method: str, status: str, reason: str) -> None:
    refusing = ScriptedServer(lambda r: response(status) if r.method == method else camera(r))
    with refusing as server, pytest.raises(SourceLost, match=reason) as caught:
        publish(server)
    assert isinstance(caught.value, SourceRefused) == (status == "403 no")


def test_receiver_that_takes_no_data_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtsp_client, "SEND_S", 0.3)
    end = time.monotonic() + 20

    def stop_reading() -> Iterator[bytes]:
        yield OK
        while time.monotonic() < end:
            time.sleep(0.1)
            yield b""

    with ScriptedServer(lambda r: stop_reading() if r.method == "RECORD" else camera(r)) as server:
        publisher = publish(server)
        with pytest.raises(SourceLost, match=r"takes no data for 0\.3 s"):
            send_forever(publisher)
        end = 0.0
        publisher.client.close()


def send_forever(publisher: RtspPublisher) -> None:
    while True:
        publisher.write(b"\x80\x60" + bytes(60_000))


def test_closed_receiver_is_noticed() -> None:
    with ScriptedServer(lambda r: None if r.method == "OPTIONS" and r.uri == "*" else camera(r)) as server:
        publisher = publish(server)
        with closing(publisher):
            publisher.receive()
            server.__exit__(None, None, None)
            with pytest.raises(SourceLost, match=r"closed the connection|broke off"):
                until(lambda: publisher.receive(), 5, "the end")


def test_flood_of_a_receiver_does_not_hold_up_the_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    flood = b"$\1\0\4\0\0\0\0" * 1000
    monkeypatch.setattr(rtsp_client, "RECEIVE_BYTES", 8)
    with (
        ScriptedServer(lambda r: iter([OK, flood]) if r.method == "RECORD" else camera(r)) as server,
        closing(publish(server)) as publisher,
    ):
        until(lambda: len(publisher.client.socket.recv(len(flood), socket.MSG_PEEK)) == len(flood), 5, "the flood")
        publisher.receive()
        left = publisher.client.socket.recv(len(flood), socket.MSG_PEEK)
    assert 0 < len(left) < len(flood), "some of it was taken, the rest is for the next turns"
