"""An HTTP camera that plays, and turns hostile on demand, in many ways."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress

from tests.support.bombs import gif_bomb, h264_bomb, jpeg, png_bomb
from tests.support.certificates import Certificate
from tests.support.fuzzing import Talk, TalkServer, read_head, serve_http

_PART = b"--b\r\nContent-Type: image/jpeg\r\n"
_PARTS = b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=b\r\nConnection: close\r\n\r\n"
_BYTES = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nConnection: close\r\n\r\n"
_MEGABYTE = 1 << 20


def _part(data: bytes) -> bytes:
    return _PART + b"Content-Length: %d\r\n\r\n" % len(data) + data + b"\r\n"


def _endless(head: bytes, more: bytes, pause_s: float = 0.0) -> Talk:
    """Return a talk that sends `more` without end."""

    def talk(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(head)
        while True:
            connection.sendall(more)
            time.sleep(pause_s)

    return talk


def ways(elsewhere: str) -> Mapping[str, Talk]:
    """Return the ways to be hostile. `elsewhere`: URL on another host."""
    page = b"<!doctype html><html><title>Login</title><body>" + b"<p>Please log in</p>" * 5000
    line = b"#EXTINF:5,\n/" + b"a" * 2000 + b".ts\n"
    playlist = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.apple.mpegurl\r\n\r\n#EXTM3U\n#EXT-X-TARGETDURATION:5\n"
    )
    realm = b'WWW-Authenticate: Digest realm="' + b"r" * 3000 + b'", nonce="x", algorithm=MD5, qop="auth"\r\n'
    return {
        "a picture of 60,000 columns": serve_http(_PARTS + _part(jpeg(60_000, 16_000)) * 3),
        "a PNG that unpacks to 2 GB": serve_http(_BYTES + png_bomb()),
        "a GIF of 65,535 pixels a side": serve_http(_BYTES + gif_bomb()),
        "H.264 of 16,384x8,640": serve_http(_BYTES + h264_bomb()),
        "a part without end": _endless(_PARTS + _PART + b"\r\n\xff\xd8", b"\1" * _MEGABYTE),
        "a part of 2 GB": _endless(_PARTS + _PART + b"Content-Length: 2000000000\r\n\r\n\xff\xd8", bytes(_MEGABYTE)),
        "headers without end": _endless(b"HTTP/1.1 200 OK\r\n", b"X: " + b"a" * 6000 + b"\r\n"),
        "a header line without end": _endless(b"HTTP/1.1 200 OK\r\nX: ", b"a" * 65536),
        "a playlist without end": _endless(playlist, line * 100),
        "zeros without end": _endless(_BYTES, bytes(_MEGABYTE)),
        "a web page": serve_http(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n" + page),
        "another host": serve_http(_redirect(elsewhere)),
        "a local file": serve_http(_redirect("file:///etc/passwd")),
        "a realm of 3,000 letters": serve_http(b"HTTP/1.1 401 x\r\n" + realm + b"Content-Length: 0\r\n\r\n"),
        "one byte a second": _endless(b"HTTP/1.1 200 OK\r\nX: ", b"a", 1.0),
    }


def _redirect(url: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {url}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()


class HostileCamera(TalkServer):
    """An HTTPS camera that plays while `talk` is None, and otherwise talks so. A context manager."""

    def __init__(self, certificate: Certificate) -> None:
        super().__init__(lambda _: self.talk or self._play)
        self.talk: Talk | None = None
        self.certificate = certificate
        """The one that it shows."""

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}/video"

    def _talk(self, connection: socket.socket, number: int) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.certificate)
        with suppress(OSError):
            connection.settimeout(10)
            super()._talk(context.wrap_socket(connection, server_side=True), number)

    def _play(self, connection: socket.socket) -> None:
        """Play until it turns hostile."""
        read_head(connection)
        connection.sendall(_PARTS)
        while self.talk is None:
            connection.sendall(_part(jpeg()))
            time.sleep(0.1)

    def in_turn(
        self, talks: Mapping[str, Talk], impostor: Certificate, good_s: float, hostile_s: float
    ) -> Iterator[str]:
        """Play, then be hostile in the next way, and so on; yield the name of each way when its time is over.

        The last way is to play with the certificate of an impostor.
        """
        for name, talk in talks.items():
            self.talk = None
            time.sleep(good_s)
            self.talk = talk
            time.sleep(hostile_s)
            yield name
        self.talk, right, self.certificate = serve_http(b"HTTP/1.1 503 x\r\n\r\n"), self.certificate, impostor
        time.sleep(hostile_s)
        yield "the certificate of another authority"
        self.talk, self.certificate = None, right
