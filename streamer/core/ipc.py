"""ZeroMQ helpers: endpoint check, non-blocking receive and send. Nothing else handles `zmq.Again`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count

import zmq

from streamer.core.errors import ConfigError
from streamer.core.paths import MAX_SOCKET_PATH

LATEST_TOPIC = b"#/"
"""Topic on which a zmq sink publishes the newest sequence of each source; no stream's name begins so."""


def check_endpoint(text: str) -> str:
    """Return `text` if it is a usable `ipc://` endpoint. Raises ConfigError with the remedy."""
    scheme, separator, path = text.partition("://")
    if not separator:
        raise ConfigError(f"not an endpoint: {text}: use ipc:// and a socket path")
    if scheme != "ipc":
        raise ConfigError(f"{scheme} is not supported yet: use ipc:// and a socket path")
    if path.startswith("@"):
        raise ConfigError(f"{text} can be reached by every user of this host: use ipc:// and a socket path")
    if not path or path == "*":
        raise ConfigError("ipc:// needs a socket path")
    if len(path.encode()) > MAX_SOCKET_PATH:
        raise ConfigError(f"socket path of {len(path.encode())} bytes, at most {MAX_SOCKET_PATH} bytes allowed: {path}")
    return text


def replay_endpoint(endpoint: str) -> str:
    """Return the endpoint that replays missed events of a zmq sink."""
    return check_endpoint(f"{endpoint}.replay")


def drain(socket: zmq.Socket[bytes], limit: int | None = None) -> Iterator[list[bytes]]:
    """Yield the multipart messages that have arrived, at most `limit` of them. Never blocks."""
    for number in count():
        if number == limit:
            return
        try:
            yield socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return


def send_or_drop(socket: zmq.Socket[bytes], parts: Sequence[bytes]) -> bool:
    """Send a multipart message. Never blocks. Return False when the queue is full or no peer is connected."""
    try:
        socket.send_multipart(parts, zmq.NOBLOCK)
    except zmq.Again:
        return False
    return True
