"""The answer of a camera to an HTTP request, read until a deadline.

`http.client` reads it, because cameras send headers that stricter libraries refuse.
"""

from __future__ import annotations

import io
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse, IncompleteRead, RemoteDisconnected
from typing import Any

from streamer.capture.sources._deadline import SourceDeadline
from streamer.core.errors import SourceLost
from streamer.core.network_failures import BROKEN_OFF, describe_os_error
from streamer.core.tls import describe_tls_error

READ_BYTES = 1 << 16
PARTIAL_CONTENT = 206


class Wire:
    """A socket as `http.client` needs it, whose reads and writes end at a deadline."""

    def __init__(self, connection: socket.socket, deadline: SourceDeadline) -> None:
        self._socket, self._deadline = connection, deadline

    def send(self, data: bytes) -> None:
        self._socket.settimeout(self._deadline.left())
        self._socket.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Received(self._socket, self._deadline), READ_BYTES)

    def close(self) -> None:
        self._socket.close()


class _Received(io.RawIOBase):
    def __init__(self, connection: socket.socket, deadline: SourceDeadline) -> None:
        self._socket, self._deadline = connection, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._socket.settimeout(self._deadline.left())
        try:
            return self._socket.recv_into(buffer)
        except TimeoutError:
            self._deadline.left()
            raise


@contextmanager
def failures_in_words() -> Iterator[None]:
    """Turn the errors of a conversation into SourceLost."""
    try:
        yield
    except (OSError, HTTPException, ValueError) as error:  # ValueError: a number with thousands of digits
        raise lost(error) from None


def lost(error: Exception) -> SourceLost:
    match error:
        case ssl.SSLError():
            return SourceLost(describe_tls_error(error))
        case RemoteDisconnected() | IncompleteRead():
            return SourceLost(BROKEN_OFF)
        case OSError():
            return SourceLost(describe_os_error(error))
    return SourceLost("the answer is not valid HTTP")


class Answer:
    """The answer to a request. Its body is read with `read`, which raises SourceLost at the client's deadline."""

    def __init__(self, wire: Wire) -> None:
        """Read the header. Raises SourceLost."""
        self._wire = wire
        self._response = HTTPResponse(wire, method="GET")  # type: ignore[arg-type]  # only `makefile` is used
        with failures_in_words():
            self._response.begin()
        self.status = self._response.status
        self.content_type = next(iter(self.headers("content-type")), "").partition(";")[0].strip().lower()
        """Without parameters. It may hold any text."""
        if self.content_type.startswith("multipart/"):
            self._response.length = None  # some cameras give the length of the first picture
        self._head = b""
        self.size = self._response.length
        """Bytes of the body, None if unknown."""

    def headers(self, name: str) -> list[str]:
        return [str(value) for value in self._response.headers.get_all(name, [])]

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes as soon as some have arrived, b"" at the end."""
        if self._head:
            taken, self._head = self._head[:size], self._head[size:]
            return taken
        with failures_in_words():
            return self._response.read1(size)

    def read_all(self, limit: int, what: str) -> bytes:
        """Return the whole body and close. Raises SourceLost if it is longer than `limit`; `what` it is."""
        parts, size = [], 0
        try:
            while data := self.read(READ_BYTES):
                parts.append(data)
                size += len(data)
                if size > limit:
                    raise SourceLost(f"{what} is longer than {limit} bytes")
        finally:
            self.close()
        return b"".join(parts)

    def peek(self, size: int) -> bytes:
        """Return the first `size` bytes of the body, fewer if it is shorter; `read` returns them again."""
        while len(self._head) < size:
            head, self._head = self._head, b""
            data = self.read(READ_BYTES)
            self._head = head + data
            if not data:
                break
        return self._head[:size]

    def close(self) -> None:
        self._wire.close()
