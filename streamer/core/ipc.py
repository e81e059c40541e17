"""ZeroMQ helpers: endpoint check, JSON messages, non-blocking receive and send. Nothing else handles `zmq.Again`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import TypeVar

import zmq
from pydantic import TypeAdapter, ValidationError

from streamer.core.errors import ConfigError, WireError
from streamer.core.logs import RareLog
from streamer.core.paths import MAX_SOCKET_PATH

T = TypeVar("T")

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
    for _ in count() if limit is None else range(limit):
        try:
            yield socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return


def receive_valid(
    socket: zmq.Socket[bytes], decode: Callable[[list[bytes]], T], invalid: RareLog, *context: object
) -> Iterator[T]:
    """Yield the decoded messages that have arrived; log and drop those on which `decode` raises WireError.

    The arguments of the log message are `context` and the error.
    """
    for parts in drain(socket):
        try:
            message = decode(parts)
        except WireError as error:
            invalid.add(*context, error)
        else:
            yield message


def decode_json(kind: TypeAdapter[T], body: bytes) -> T:
    """Parse a JSON message. Raises WireError with the first problem."""
    try:
        return kind.validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise WireError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def send_or_drop(socket: zmq.Socket[bytes], parts: Sequence[bytes]) -> bool:
    """Send a multipart message. Never blocks. Return False when the queue is full or no peer is connected."""
    try:
        socket.send_multipart(parts, zmq.NOBLOCK)
    except zmq.Again:
        return False
    return True
