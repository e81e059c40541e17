"""One connection to an RTSP server: TLS, authentication, and responses matched to their requests."""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from streamer.core.addresses import connect, resolve
from streamer.core.closing import Closing
from streamer.core.deadline import Deadline
from streamer.core.digest_auth import AuthenticationUnsupportedError, Authenticator
from streamer.core.errors import AddressError, ConfigError, SourceLost, SourceRefused, WireError
from streamer.core.network_failures import describe_os_error, status_failure
from streamer.core.rtsp.message import Message, Splitter
from streamer.core.tls import Tls

PORTS = {"rtsp": 554, "rtsps": 322}
"""Default port of each scheme."""
RECEIVE_BYTES = 64 << 10
USER_AGENT = "streamer"
SEND_S = 4.0
"""Longest wait until the server takes media packets, or a request between them."""
CLOSED = "closed the connection without an answer"
MAX_PENDING = 32
"""Requests whose responses are awaited; the oldest one is forgotten."""


class Server(NamedTuple):
    """An RTSP server and the stream on it, without user and password."""

    scheme: str
    host: str
    port: int
    path: str
    """With query and fragment, as in the URL."""

    @property
    def uri(self) -> str:
        """Absolute URI for requests, always with its port, as FFmpeg writes it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


def parse_url(url: str) -> tuple[Server, Authenticator | None]:
    """Return server and credentials of a valid RTSP URL."""
    parts = urlsplit(url)
    path = url.partition("://")[2][len(parts.netloc) :]
    server = Server(parts.scheme, parts.hostname or "", parts.port or PORTS[parts.scheme], path)
    if parts.username is None and parts.password is None:
        return server, None
    user, password = (unquote(text or "", errors="surrogateescape") for text in (parts.username, parts.password))
    return server, Authenticator(user, password)


class Answer(NamedTuple):
    """A response, with the request that it answers."""

    request: Message
    response: Message
    tag: str
    """Text that `RtspClient.send` was given with the request."""


@dataclass(slots=True)
class _Pending:
    request: Message
    tag: str
    tries: int = 0
    sent_at: float = 0.0


class RtspClient(Closing):
    """Sends requests, with `CSeq` and `Authorization` added, and receives responses and media packets.

    All methods raise SourceLost with a reason for users. Not thread-safe.
    """

    def __init__(self, server: Server, login: Authenticator | None, tls: Tls, deadline: Deadline) -> None:
        """Connect. The deadline also holds for `request`."""
        self._login, self._deadline = login, deadline
        self._splitter = Splitter()
        self._pending: dict[int, _Pending] = {}
        self._cseq = 0
        self._timeout_reason = self._no_answer = f"no answer within {deadline.seconds:g} s"
        with _failures(self._timeout_reason):
            self.socket = _connect(server, tls, deadline)

    def close(self) -> None:
        self.socket.close()

    def request(self, method: str, uri: str, *headers: tuple[str, str], body: bytes = b"") -> Message:
        """Send a request and return its response."""
        with _failures(self._timeout_reason):
            self.socket.settimeout(self._deadline.remaining())
        self.send(Message(f"{method} {uri} RTSP/1.0", headers, body))
        while (items := self.receive()) is not None:
            for item in items:
                if isinstance(item, Answer):
                    return item.response
            with _failures(self._timeout_reason):
                self.socket.settimeout(self._deadline.remaining())
        raise SourceLost(CLOSED)

    def begin_media(self) -> None:
        """Accept media packets from now on, with a few bytes between them that are neither packet nor message."""
        self._splitter.skips_unknown = True
        self.socket.settimeout(SEND_S)
        self._timeout_reason = f"takes no data for {SEND_S:g} s"

    def send(self, request: Message, tag: str = "") -> None:
        """Send a request; its response is received later."""
        with _failures(self._timeout_reason):
            self._transmit(_Pending(request, tag))

    def send_packets(self, packets: bytes) -> None:
        """Send media packets."""
        with _failures(self._timeout_reason):
            self.socket.sendall(packets)

    def receive(self) -> list[bytes | Answer] | None:
        """Wait for data and return the responses and media packets in it, None at the end of the connection.

        With media, call it when the socket is readable: it never waits, for example for the rest of a TLS record.
        """
        with _failures(self._timeout_reason):
            if self._splitter.skips_unknown:
                self.socket.settimeout(0)
            try:
                data = self.socket.recv(RECEIVE_BYTES)
            except (BlockingIOError, ssl.SSLWantReadError):
                return []
            finally:
                if self._splitter.skips_unknown:
                    self.socket.settimeout(SEND_S)
            while isinstance(self.socket, ssl.SSLSocket) and (size := self.socket.pending()):
                data += self.socket.recv(size)
            items = [self._take(item) for item in self._splitter.feed(data)]
        return [item for item in items if item is not None] if data else None

    def failure(self, response: Message) -> SourceLost | None:
        """Return the error that the status of a response means, None for success."""
        status = response.status
        return None if 200 <= status < 300 else status_failure(status, self._login is not None)

    def awaits(self, *methods: str) -> bool:
        """Return True while a request with one of the methods is not answered."""
        return any(pending.request.method in methods for pending in self._pending.values())

    def check_answers(self, *methods: str) -> None:
        """Raise SourceLost if a request with one of the methods is not answered within the seconds of the deadline."""
        latest = time.monotonic() - self._deadline.seconds
        if any(pending.request.method in methods and pending.sent_at < latest for pending in self._pending.values()):
            raise SourceLost(self._no_answer)

    def _take(self, item: bytes | Message) -> bytes | Answer | None:
        if isinstance(item, bytes):
            return item
        if not item.is_response:
            self._answer(item)
            return None
        status = item.status
        pending = self._pop(item.value("CSeq")) if status >= 200 else None
        if pending is None:
            return None
        login = self._login
        if status == 401 and login is not None and login.accept(item.values("WWW-Authenticate"), pending.tries):
            self._transmit(pending)
            return None
        return Answer(pending.request, item, pending.tag)

    def _pop(self, cseq: str) -> _Pending | None:
        """Return the request with this number, the oldest one if the server sent no number."""
        number = int(cseq) if re.fullmatch(r"[0-9]{1,9}", cseq) else next(iter(self._pending), 0)
        return self._pending.pop(number, None)

    def _transmit(self, pending: _Pending) -> None:
        self._cseq += 1
        pending.tries += 1
        pending.sent_at = time.monotonic()
        request = pending.request
        added = [("CSeq", str(self._cseq)), ("User-Agent", USER_AGENT)]
        login = self._login
        if login is not None and (value := login.authorization(request.method, request.uri, request.body)):
            added.append(("Authorization", value))
        own = {name.lower() for name, _ in added} | {"authorization"}
        others = [header for header in request.headers if header[0].lower() not in own]
        self._pending[self._cseq] = pending
        if len(self._pending) > MAX_PENDING:
            del self._pending[next(iter(self._pending))]
        self.socket.sendall(replace(request, headers=(*added, *others)).encode())

    def _answer(self, request: Message) -> None:
        """Answer a request of the server, as FFmpeg would."""
        status = "200 OK" if request.method in ("OPTIONS", "GET_PARAMETER", "SET_PARAMETER") else "501 Not Implemented"
        self.socket.sendall(Message(f"RTSP/1.0 {status}", (("CSeq", request.value("CSeq")),)).encode())


@contextmanager
def _failures(timeout_reason: str) -> Iterator[None]:
    """Turn the errors of a connection into SourceLost."""
    try:
        yield
    except TimeoutError:
        raise SourceLost(timeout_reason) from None
    except AuthenticationUnsupportedError as error:
        raise SourceRefused(str(error)) from None
    except OSError as error:
        raise SourceLost(describe_os_error(error)) from None
    except (
        WireError,
        AddressError,
        ConfigError,
    ) as error:  # a CA file that cannot be read concerns this connection only
        raise SourceLost(str(error)) from None


def _connect(server: Server, tls: Tls, deadline: Deadline) -> socket.socket:
    """Return a connection to the server. Raises OSError, ConfigError, AddressError."""
    context = tls.tls_context() if server.scheme == "rtsps" else None
    addresses = resolve(server.host, in_config=True)
    connection = connect(addresses, server.port, deadline.remaining())
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if context is None:
        return connection
    try:
        connection.settimeout(deadline.remaining())
        return context.wrap_socket(connection, server_hostname=server.host)
    except OSError:
        connection.close()
        raise
