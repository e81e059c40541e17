"""ZeroMQ sockets between hosts: always encrypted and authenticated with CURVE.

The served socket admits the hosts whose public keys `HostKeys` has. libzmq asks an authenticator (ZAP, an inproc
socket) at each handshake; without ZAP_ENFORCE_DOMAIN it would admit every key while nothing answers there.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Iterator
from typing import NamedTuple

import zmq
from zmq.utils.monitor import parse_monitor_message

from streamer.bus.host_keys import HostKeys
from streamer.core.closing import Closing
from streamer.core.errors import ConfigError, StreamerError
from streamer.core.ipc import drain, drain_authenticated, send_or_drop

log = logging.getLogger(__name__)

_ZAP_ENDPOINT, _DOMAIN = "inproc://zeromq.zap.01", b"streamer"
HANDSHAKE_S = 3.0
"""Seconds after which a connection without a complete handshake is closed."""
_HEARTBEAT_S, _SILENCE_S = 1.0, 3.0
"""Interval of libzmq's heartbeats, and the silence after which it closes a half-open connection."""
_CONNECT_S = 1.0
"""Longest attempt to connect. The kernel alone repeats lost packets after 1, 2, 4 … s, also when the link is back."""
_RECONNECT_S, _MAX_RECONNECT_S = 0.1, 0.4
"""Pause between two attempts to connect."""
_PEERS_S = 1.0
"""Seconds after which a forgotten host loses a connection that it has."""
_QUEUED_REQUESTS, _QUEUED_ANSWERS = 64, 8
"""Messages that wait for each connection. Answers above the limit are lost."""
_BACKLOG = 64
"""Connections that may wait to be accepted."""
_MISMATCH = 0x11000002
"""ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH."""


def _set_common(socket: zmq.Socket[bytes]) -> None:
    socket.set(zmq.LINGER, 0)
    socket.set(zmq.HANDSHAKE_IVL, int(HANDSHAKE_S * 1000))
    socket.set(zmq.HEARTBEAT_IVL, int(_HEARTBEAT_S * 1000))
    socket.set(zmq.HEARTBEAT_TIMEOUT, int(_SILENCE_S * 1000))
    socket.set(zmq.HEARTBEAT_TTL, int(_SILENCE_S * 1000))


def _monitored(socket: zmq.Socket[bytes], events: int) -> zmq.Socket[bytes]:
    monitor: zmq.Socket[bytes] = socket.get_monitor_socket(events)
    return monitor


def _events(monitor: zmq.Socket[bytes]) -> Iterator[tuple[int, int]]:
    """Yield kind and value of the events of a socket."""
    for parts in drain(monitor):
        event = parse_monitor_message(parts)
        yield int(event["event"]), int(event["value"])


class PeerMessage(NamedTuple):
    """A message of an admitted host."""

    peer: str
    """Name of the host."""
    route: bytes
    """Its connection, for the answer."""
    body: bytes


class CurveServer(Closing):
    """Receives requests of known hosts and answers them. Never blocks. Not thread-safe."""

    def __init__(self, keys: HostKeys, host: str, port: int, max_request: int, queued: int = _QUEUED_ANSWERS) -> None:
        """Raises ConfigError if there is no key, or the address cannot be used. `max_request`: bytes.

        `queued`: answers that may wait for each connection.
        """
        self._keys, own = keys, keys.own()
        self._key_file = _identity(keys)
        self._peers: dict[str, str] = {}
        self._peers_until = 0.0
        self._refusals: list[str] = []
        self._context = zmq.Context()  # of its own: the authenticator is for this socket only
        self._zap: zmq.Socket[bytes] = self._context.socket(zmq.REP)
        self._zap.bind(_ZAP_ENDPOINT)
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        _set_common(self._socket)
        self._socket.set(zmq.MAXMSGSIZE, max_request)
        self._socket.set(zmq.RCVHWM, _QUEUED_REQUESTS)
        self._socket.set(zmq.SNDHWM, queued)
        self._socket.set(zmq.BACKLOG, _BACKLOG)
        self._socket.set(zmq.IPV6, int(":" in host))
        self._socket.set(zmq.ZAP_DOMAIN, _DOMAIN)
        self._socket.set(zmq.ZAP_ENFORCE_DOMAIN, 1)
        self._socket.set(zmq.CURVE_SERVER, 1)
        self._socket.set(zmq.CURVE_SECRETKEY, own.secret)
        failures = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        self._monitor = _monitored(self._socket, failures)
        try:
            self._socket.bind(f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}")
        except zmq.ZMQError as error:
            self.close()
            raise ConfigError(f"cannot serve other hosts on {host} port {port}: {error.strerror}") from None
        self.port = int(self._socket.get_string(zmq.LAST_ENDPOINT).rpartition(":")[2])

    def close(self) -> None:
        self._socket.disable_monitor()
        for socket in (self._monitor, self._socket, self._zap):
            socket.close(0)
        self._context.term()

    def sockets(self) -> list[zmq.Socket[bytes]]:
        """Return the sockets to poll for reading; call `receive` when one is readable."""
        return [self._socket, self._zap, self._monitor]

    def receive(self) -> list[PeerMessage]:
        """Authenticate new connections, and return the messages that have arrived."""
        self._authenticate()
        for kind, value in _events(self._monitor):
            self._refusals.append(_describe_failure(kind, value))
        now = time.monotonic()
        if now >= self._peers_until:
            self._peers_until = now + _PEERS_S
            self._peers = self._known([])
        messages = []
        for user, parts in drain_authenticated(self._socket):
            if len(parts) == 2 and user in self._peers:
                messages.append(PeerMessage(self._peers[user], *parts))
        return messages

    def send(self, route: bytes, parts: list[bytes]) -> bool:
        """Send an answer. Return False if it was dropped: too many wait for the connection."""
        return send_or_drop(self._socket, [route, *parts])

    def take_refusals(self) -> list[str]:
        """Return why connections were refused since the last call, one text for each."""
        refusals, self._refusals = self._refusals, []
        return refusals

    def is_key_replaced(self) -> bool:
        """Return whether this host has another key than this socket."""
        return _identity(self._keys) != self._key_file

    def _authenticate(self) -> None:
        """Answer the authentication requests of libzmq (RFC 27)."""
        for parts in drain(self._zap):
            version, number, _, address, _, mechanism, *credentials = parts
            key = credentials[0].hex() if mechanism == b"CURVE" and credentials else ""
            if key in (known := self._known(self._refusals)):
                self._peers = known
                answer = [b"200", b"OK", key.encode(), b""]
            else:
                answer = [b"400", b"unknown key", b"", b""]
                place = address.decode("ascii", "replace")[:45]
                self._refusals.append(f"{place} has the key {key or 'none'}, which is not allowed here")
            self._zap.send_multipart([version, number, *answer])

    def _known(self, refusals: list[str]) -> dict[str, str]:
        """Return the names of the known hosts by public key. Why a file cannot be used is added to `refusals`."""
        try:
            known, problems = self._keys.peers()
        except ConfigError as error:
            known, problems = {}, [error]
        refusals += [f"a known host is not admitted: {problem}" for problem in problems]
        return {key.hex(): name for name, key in known.items()}


def _describe_failure(kind: int, value: int) -> str:
    if kind == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
        if value == _MISMATCH:
            return "a connection without CURVE: every other host must use encryption"
        return "a connection with a wrong key for this host, or damaged data"
    if value == errno.EAGAIN:
        return f"a connection without a handshake within {HANDSHAKE_S:g} s"
    return "a connection that ended during its handshake: it is without CURVE, or has another key for this host"


def _identity(keys: HostKeys) -> tuple[int, int] | None:
    try:
        found = keys.secret_file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


class LinkFailed(StreamerError):
    """A connection to another host could not be made, or has ended. Make a new one later."""


class CurveClient(Closing):
    """One connection to another host, which libzmq makes again while it was never complete. Not thread-safe."""

    def __init__(
        self, keys: HostKeys, peer: str, host: str, port: int, max_answer: int, queued: int = _QUEUED_ANSWERS
    ) -> None:
        """`host`: an address. `max_answer`: bytes. `queued`: answers that may wait.

        Raises ConfigError for missing keys.
        """
        self._peer, own = peer, keys.own()
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        """To poll for reading; then call `receive`."""
        _set_common(self.socket)
        self.socket.set(zmq.CURVE_SERVERKEY, keys.peer(peer))
        self.socket.set(zmq.CURVE_PUBLICKEY, own.public)
        self.socket.set(zmq.CURVE_SECRETKEY, own.secret)
        self.socket.set(zmq.MAXMSGSIZE, max_answer)
        self.socket.set(zmq.RCVHWM, queued)
        self.socket.set(zmq.IMMEDIATE, 1)  # nothing is queued for a connection that does not exist
        self.socket.set(zmq.CONNECT_TIMEOUT, int(_CONNECT_S * 1000))
        self.socket.set(zmq.RECONNECT_IVL, int(_RECONNECT_S * 1000))
        self.socket.set(zmq.RECONNECT_IVL_MAX, int(_MAX_RECONNECT_S * 1000))
        self.socket.set(zmq.IPV6, int(":" in host))
        failures = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
        ends = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        self.monitor = _monitored(self.socket, failures | ends)
        """To poll for reading; then call `receive`."""
        self.is_complete = False
        """The handshake has succeeded."""
        self.socket.connect(f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}")

    def close(self) -> None:
        self.socket.disable_monitor()
        self.monitor.close(0)
        self.socket.close(0)

    def send(self, body: bytes) -> bool:
        """Send a request. Return False while there is no connection."""
        return send_or_drop(self.socket, [body])

    def receive(self) -> list[list[bytes]]:
        """Return the answers that have arrived. Raises LinkFailed when the host refuses, or the connection ends."""
        answers = list(drain(self.socket))
        for kind, _ in _events(self.monitor):
            if kind == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.is_complete = True
            elif kind == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                raise LinkFailed("does not know the key of this host: run `streamer keys allow` there")
            elif kind != zmq.EVENT_DISCONNECTED:
                raise LinkFailed(f"has another key than that of `{self._peer}` here, or serves no other hosts there")
            elif self.is_complete:
                raise LinkFailed("the connection broke off")
        return answers
