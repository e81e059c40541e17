"""An RTSP server whose answers a test writes, for faults that no real server shows on demand."""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from io import BufferedReader
from types import TracebackType
from typing import Self

SDP = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n"
VIDEO = "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:track1\r\n"
SOUND = "m=audio 0 RTP/AVP 0\r\na=control:track2\r\n"


@dataclass(frozen=True)
class Request:
    method: str
    uri: str
    headers: dict[str, str]
    """Values by lower-case name."""
    body: bytes = b""

    @property
    def authorization(self) -> dict[str, str]:
        """The fields of its digest."""
        pairs = re.findall(r'(\w+)=(?:"([^"]*)"|([^",\s]+))', self.headers.get("authorization", ""))
        return {name: quoted or plain for name, quoted, plain in pairs}


Answer = bytes | Iterator[bytes] | None
"""Bytes to send, or parts to send one after the other; None closes the connection."""


def response(status: str, *headers: str, body: str = "") -> bytes:
    """Return a response; `CSEQ` in it is replaced by the number of the request."""
    lines = [f"RTSP/1.0 {status}", "CSeq: CSEQ", *headers]
    if body:
        lines.append(f"Content-Length: {len(body.encode())}")
    return "\r\n".join([*lines, "", body]).encode()


OK = response("200 OK")


def describe(sdp: str) -> bytes:
    return response("200 OK", "Content-Type: application/sdp", body=sdp)


def camera(request: Request) -> Answer:
    """Answer as a camera that never sends a picture."""
    if request.method == "DESCRIBE":
        return describe(SDP + VIDEO)
    if request.method == "SETUP":
        return response("200 OK", "Session: 1", f"Transport: {request.headers['transport']}")
    return response("200 OK", "Session: 1")


def valid_digest(request: Request, password: str, algorithm: str = "md5") -> bool:
    """Return True if a request has the right digest of user `bob`, by RFC 7616 without `qop`."""
    found = request.authorization

    def digest(text: str) -> str:
        return hashlib.new(algorithm, text.encode()).hexdigest()

    if not found:
        return False
    key, target = digest(f"bob:{found['realm']}:{password}"), digest(f"{request.method}:{request.uri}")
    return found["response"] == digest(f"{key}:{found['nonce']}:{target}")


@dataclass
class ScriptedServer:
    """Answers each request by a function, until the end of its `with` block."""

    answer: Callable[[Request], Answer] = camera
    tls: ssl.SSLContext | None = None
    requests: list[Request] = field(default_factory=list)
    packets: list[bytes] = field(default_factory=list)
    connections: int = 0

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for one in (self._listener, *self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def url(self, path: str = "/cam", user: str = "", scheme: str = "rtsp") -> str:
        return f"{scheme}://{user}{'@' if user else ''}127.0.0.1:{self.port}{path}"

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                self._open.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            if self.tls is not None:
                connection = self.tls.wrap_socket(connection, server_side=True)
            with connection, connection.makefile("rb") as lines:
                while (request := self._read(lines)) is not None:
                    self.requests.append(request)
                    answer = self.answer(request)
                    if answer is None:
                        return
                    for part in (answer,) if isinstance(answer, bytes) else answer:
                        connection.sendall(part.replace(b"CSEQ", request.headers.get("cseq", "").encode()))

    def _read(self, lines: BufferedReader) -> Request | None:
        """Return the next request; store the media packets before it."""
        while (first := lines.read(1)) == b"$":
            self.packets.append(lines.read(int.from_bytes(lines.read(3)[1:], "big")))
        start = (first + lines.readline()).decode("latin-1").split()
        headers: dict[str, str] = {}
        while line := lines.readline().decode("latin-1").strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        if len(start) < 2:
            return None
        return Request(start[0], start[1], headers, lines.read(int(headers.get("content-length", 0))))
