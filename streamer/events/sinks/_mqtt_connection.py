"""A connection to an MQTT broker, used by one thread. Each step has a deadline, and after any error it is closed."""

from __future__ import annotations

import contextlib
import itertools
import logging
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from streamer.core.digest_auth import basic
from streamer.core.errors import AddressError, ConfigError, SinkError, StreamerError, WireError
from streamer.core.network_failures import describe_os_error
from streamer.core.redact import Url
from streamer.core.tls import ClientTls, describe_tls_error
from streamer.events.sinks._mqtt_packets import (
    DISCONNECT_WITH_WILL,
    FAILURE,
    PINGREQ,
    SESSION_TAKEN_OVER,
    Connack,
    Decoder,
    Disconnect,
    Message,
    Packet,
    Pingresp,
    Puback,
    Suback,
    connect,
    describe,
    publish,
    subscribe,
)
from streamer.events.sinks._tcp import StreamClosed, TcpStream

log = logging.getLogger(__name__)

CONNECT_S = 5.0
"""Longest time of each step up to a connection: TCP, proxy, TLS, and the broker's acceptance (CONNACK)."""
KEEPALIVE_S = 30
"""Longest interval without a packet, after which the broker may end the connection. Pings come twice as often."""
MAX_PACKET_BYTES = 256 << 10
"""Size of the largest packet that the broker may send; discovery messages are far smaller."""
_MAX_READS = 64
"""Reads in one `poll`, so that a broker that never stops sending cannot hold the sink."""
_CLOSE_S = 1.0


class SessionTakenOver(SinkError):
    """Another program has connected to the broker with the same client identifier."""


class ClosedWithoutReason(SinkError):
    """The broker has closed the connection, which can mean the same: not every broker says so."""


@dataclass(frozen=True, slots=True)
class Broker:
    """The address of a broker, and how to reach it."""

    url: Url
    tls: ClientTls | None
    proxy: Url | None
    answer_s: float
    """Longest wait for an acknowledgement."""

    @property
    def address(self) -> tuple[str, int]:
        return broker_address(self.url)

    def __str__(self) -> str:
        host, port = self.address
        return f"the broker {host}:{port}"

    @contextlib.contextmanager
    def step(self, failure: str, limit_s: float) -> Iterator[float]:
        """Yield the deadline of one step. Raises SinkError for every way in which it can fail."""
        prefix = f"{self}: {failure}"
        try:
            yield time.monotonic() + limit_s
        except TimeoutError:
            raise SinkError(f"{prefix} within {limit_s:g} s") from None
        except (StreamClosed, ConnectionResetError, BrokenPipeError) as error:
            raise ClosedWithoutReason(f"{prefix}: {_cause(error)}") from None
        except (OSError, AddressError, WireError, ConfigError, ValueError) as error:
            raise SinkError(f"{prefix}: {_cause(error).removeprefix(f'{self.address[0]}: ')}") from None


def broker_address(url: Url) -> tuple[str, int]:
    """Return host and port of a broker's URL."""
    parts = urlsplit(url.reveal())
    return parts.hostname or "", parts.port or (8883 if url.scheme == "mqtts" else 1883)


def _cause(error: Exception) -> str:
    match error:
        case ssl.SSLError():
            return describe_tls_error(error, always_verified=True)
        case OSError(errno=0):
            return str(error.strerror)
        case OSError():
            return describe_os_error(error)
        case StreamerError():
            return str(error)
    return "the host name is not valid"


class Connection:
    """An accepted connection. Every method may raise SinkError; only `close` may be called after that."""

    def __init__(self, broker: Broker, client_id: str, will: Message, on_message: Callable[[Message], None]) -> None:
        """Connect. `on_message` gets the messages of subscriptions."""
        self._broker, self._on_message = broker, on_message
        self._decoder = Decoder(MAX_PACKET_BYTES)
        self._acks: deque[Puback] = deque()
        self._greeting: deque[Connack | Suback] = deque()
        self._message_ids = itertools.cycle(range(1, 1 << 16))
        self._sent_at, self._pinged_at = time.monotonic(), 0.0
        self._stream = _open_stream(broker)
        try:
            accepted = self._greet(client_id, will)
        except BaseException:
            self._stream.close()
            raise
        self.window, self.max_bytes = accepted.window, accepted.max_bytes
        """Limits of the broker: unacknowledged messages, and bytes of one packet."""
        self._ping_s = min(accepted.keepalive_s or KEEPALIVE_S, KEEPALIVE_S) / 2

    def close(self) -> None:
        """Make the broker publish the will, and close."""
        with contextlib.suppress(OSError):
            self._stream.send(DISCONNECT_WITH_WILL, time.monotonic() + _CLOSE_S)
        self.abandon()

    def abandon(self) -> None:
        self._stream.close()

    def subscribe(self, topic_filter: str) -> None:
        """Subscribe. A broker that does not allow it sends no messages; the sink works without them."""
        with self._broker.step("no SUBACK", self._broker.answer_s) as deadline:
            self._send(subscribe(next(self._message_ids), topic_filter), deadline)
            while not self._greeting:
                self._read(deadline)
        answer = self._greeting.popleft()
        if answer.reason >= FAILURE:
            log.info("the broker refuses the subscription to %s: %s", topic_filter, describe(answer.reason))

    def encode(self, message: Message, content_type: str) -> tuple[int, bytes] | None:
        """Return a new message id and the packet, or None if the packet is larger than the broker accepts."""
        message_id = next(self._message_ids)
        packet = publish(message_id, message, content_type)
        return (message_id, packet) if len(packet) <= self.max_bytes else None

    def send(self, packet: bytes) -> None:
        with self._broker.step("it takes no message", self._broker.answer_s) as deadline:
            self._send(packet, deadline)

    def next_ack(self, since: float) -> Puback:
        """Return the next acknowledgement, which must come within the limit after monotonic second `since`."""
        with self._broker.step("no acknowledgement", self._broker.answer_s):
            deadline = since + self._broker.answer_s
            while not self._acks:
                self._read(deadline)
            if time.monotonic() > deadline:
                raise TimeoutError
        return self._acks.popleft()

    def poll(self) -> None:
        """Handle what has arrived, and ping the broker from time to time, while no message is unacknowledged."""
        with self._broker.step("the connection was lost", self._broker.answer_s) as deadline:
            with contextlib.suppress(TimeoutError):
                for _ in range(_MAX_READS):
                    self._read(0.0)
            self._acks.clear()
            now = time.monotonic()
            if self._pinged_at and now - self._pinged_at > self._broker.answer_s:
                raise ConnectionError(0, f"no answer to a ping within {self._broker.answer_s:g} s")
            if not self._pinged_at and now - self._sent_at >= self._ping_s:
                self._send(PINGREQ, deadline)
                self._pinged_at = now

    def _greet(self, client_id: str, will: Message) -> Connack:
        url = urlsplit(self._broker.url.reveal())
        user, password = (None if text is None else unquote(text) for text in (url.username, url.password))
        with self._broker.step("no CONNACK", CONNECT_S) as deadline:
            self._send(connect(client_id, KEEPALIVE_S, will, user, password, MAX_PACKET_BYTES), deadline)
            while not self._greeting:
                self._read(deadline)
            answer = self._greeting.popleft()
            if not isinstance(answer, Connack):
                raise WireError("it sends a SUBACK first")
            if answer.reason:
                raise WireError(f"it refuses the connection: {describe(answer.reason)}")
        return answer

    def _send(self, packet: bytes, deadline: float) -> None:
        self._stream.send(packet, deadline)
        self._sent_at = time.monotonic()

    def _read(self, deadline: float) -> None:
        """Wait for bytes and handle the packets in them."""
        for packet in self._decoder.feed(self._stream.receive(deadline)):
            self._handle(packet)
        if deadline and time.monotonic() > deadline:  # also when bytes never stop coming
            raise TimeoutError

    def _handle(self, packet: Packet) -> None:
        match packet:
            case Message():
                self._on_message(packet)
            case Puback():
                self._acks.append(packet)
            case Pingresp():
                self._pinged_at = 0.0
            case Disconnect(reason) if reason == SESSION_TAKEN_OVER:
                raise SessionTakenOver(f"{self._broker}: another program has taken over the session")
            case Disconnect(reason):
                raise WireError(f"it ended the connection: {describe(reason)}")
            case Connack() | Suback():
                self._greeting.append(packet)


def _open_stream(broker: Broker) -> TcpStream:
    """Connect, through the proxy if there is one, and start TLS."""
    host, port = broker.address
    proxy = None if broker.proxy is None else urlsplit(broker.proxy.reveal())
    with broker.step("no TCP connection" if proxy is None else "no connection to the proxy", CONNECT_S) as deadline:
        first = (host, port) if proxy is None else (proxy.hostname or "", proxy.port or 80)
        stream = TcpStream(*first, deadline)
    try:
        if proxy is not None:
            with broker.step("no connection through the proxy", CONNECT_S) as deadline:
                stream.open_tunnel(host, port, _proxy_login(proxy.username, proxy.password), deadline)
        if broker.tls is not None:
            with broker.step("no TLS connection", CONNECT_S) as deadline:
                stream.start_tls(broker.tls.tls_context(), host, deadline)
    except BaseException:
        stream.close()
        raise
    return stream


def _proxy_login(user: str | None, password: str | None) -> str:
    if user is None:
        return ""
    return f"Proxy-Authorization: {basic(unquote(user), unquote(password or ''))}\r\n"
