"""ZeroMQ helpers: endpoints, JSON messages, non-blocking receive and send. Nothing else handles `zmq.Again`.

`Listener` is the only place that binds a socket of this host; `bus/curve.py` binds the one for other hosts.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import zmq
from pydantic import TypeAdapter, ValidationError

from streamer.core.errors import ConfigError, WireError
from streamer.core.logs import RareLog
from streamer.core.paths import MAX_SOCKET_PATH
from streamer.core.settings import variable_hint

log = logging.getLogger(__name__)

T = TypeVar("T")

CHECK_S = 1.0
"""Seconds between two looks at a socket file."""
MAX_DRAINED = 1000
"""Messages that are received in one turn, so that a sender that never stops cannot hold up the main loop."""
_NO_SOCKET = "a file is there that is no socket"
_BACKLOG = 128
"""Connections that may wait to be accepted."""

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
    return check_endpoint(f"{check_endpoint(endpoint)}.replay")


def check_socket_files(endpoint: str) -> None:
    """Raise ConfigError if the two sockets of a zmq sink can certainly not be made. Must not change anything."""
    for text in (endpoint, replay_endpoint(endpoint)):
        path = Path(text.partition("://")[2]).absolute()
        try:
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise ConfigError(f"cannot bind {text}: {_NO_SOCKET}: choose another path")
        except FileNotFoundError:
            if not path.parent.is_dir():
                raise ConfigError(
                    f"cannot bind {text}: no such directory: {path.parent}{variable_hint(path)}"
                ) from None
        except OSError as error:
            raise ConfigError(f"cannot bind {text}: {(error.strerror or 'no access').lower()}") from None
        if not os.access(path.parent, os.W_OK):
            raise ConfigError(f"cannot bind {text}: no permission to write {path.parent}")


class Listener:
    """The socket file at which a ZeroMQ socket is reached. It is made again when it was deleted.

    ZeroMQ itself deletes whatever is at the path, before it binds and when it closes. Therefore the file is made here
    and ZeroMQ gets its descriptor. Not thread-safe.
    """

    def __init__(self, zmq_socket: zmq.Socket[bytes], endpoint: str, private: bool = True) -> None:
        """Bind. Raises OSError when that is not possible.

        `private`: the path is in the locked runtime folder. A socket that still answers there is of a dying process of
        this agent and is replaced; elsewhere it is of another program and is left alone.
        """
        self._socket, self._endpoint, self._private = zmq_socket, check_endpoint(endpoint), private
        self._path = Path(endpoint.partition("://")[2])
        self.problem: str | None = None
        """Reason why the socket cannot be reached, if that is so."""
        self._losses = RareLog(log, "socket file lost %s: %s %s", noun="time")
        self._lost_at: float | None = None
        self._bind(replace=private)
        self._check_at = time.monotonic() + CHECK_S

    def check(self) -> None:
        """Bind again if the socket file is gone or dead. Call at every turn; it looks once a second."""
        now = time.monotonic()
        if now < self._check_at:
            return
        self._check_at = now + CHECK_S
        if _identity(self._path) == self._file:
            return
        try:
            self._bind(replace=False)
        except OSError as error:
            self.problem = f"cannot be bound again: {error.strerror}"
            self._lost_at = self._lost_at or now
            self._losses.add(self._path, self.problem)
        else:
            self.problem = self._lost_at = None
            self._losses.add(self._path, "was deleted or replaced and is bound again")

    def lost_for(self) -> float:
        """Return the seconds for which the socket could not be bound again; 0 while it is bound."""
        return 0.0 if self._lost_at is None else time.monotonic() - self._lost_at

    def close(self) -> None:
        """Remove the socket file. Close the ZeroMQ socket before."""
        if _identity(self._path) == self._file:
            self._path.unlink(missing_ok=True)

    def _bind(self, replace: bool) -> None:
        if self._private:
            with suppress(OSError):  # the folder is deleted when a user logs out
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = listen(self._path, replace, 0o600 if self._private else None).detach()
        file = _identity(self._path)
        with suppress(zmq.ZMQError):  # not bound yet
            self._socket.unbind(self._endpoint)  # now, not earlier: it ends the connections that still work
        try:
            self._socket.set(zmq.USE_FD, descriptor)
            self._socket.bind(self._endpoint)
        except zmq.ZMQError as error:
            os.close(descriptor)
            raise OSError(error.errno, error.strerror) from error
        self._file = file


def listen(path: Path, replace: bool = False, mode: int | None = None) -> socket.socket:
    """Return a socket that listens at `path`, in place of a dead socket only. Raises OSError for anything else there.

    With `replace` also in place of a socket that still answers. `mode`: permissions of the file.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        remove_dead_socket(path, replace)
        listener.bind(str(path))
        if mode is not None:
            path.chmod(mode)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def remove_dead_socket(path: Path, replace: bool = False) -> None:
    """Delete the socket file that an ended process has left. Raises OSError when something else is at the path."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise FileExistsError(errno.EEXIST, _NO_SOCKET)
    if not replace and _answers(path):
        raise OSError(errno.EADDRINUSE, "another program uses it")
    path.unlink(missing_ok=True)


def _answers(path: Path) -> bool:
    """Return whether a process listens at a socket file."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        except OSError:
            pass  # its backlog is full, or it belongs to another user
    return True


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells the file at a path from its successor, or None if there is none."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def drain(socket: zmq.Socket[bytes], limit: int = MAX_DRAINED) -> Iterator[list[bytes]]:
    """Yield the multipart messages that have arrived, at most `limit` of them. Never blocks."""
    for _ in range(limit):
        try:
            yield socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return


def drain_authenticated(socket: zmq.Socket[bytes], limit: int = MAX_DRAINED) -> Iterator[tuple[str, list[bytes]]]:
    """Yield like `drain`, with the user id that the authenticator (ZAP) gave to the sender, empty without one."""
    for _ in range(limit):
        try:
            frames = socket.recv_multipart(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return
        try:
            user = str(frames[-1].get("User-Id"))
        except zmq.ZMQError:  # it was not authenticated
            user = ""
        yield user, [frame.bytes for frame in frames]


def receive_valid(
    socket: zmq.Socket[bytes], decode: Callable[[list[bytes]], T], invalid: RareLog, *context: object
) -> Iterator[T]:
    """Yield the decoded messages of one turn; log and drop those on which `decode` raises WireError.

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
    """Parse a JSON message. Raises WireError that names the first wrong field."""
    try:
        return kind.validate_json(body)
    except ValidationError as error:
        raise WireError(wrong_part(error)) from None


def wrong_part(error: ValidationError) -> str:
    """Return which part of a message is wrong. It never holds the part itself."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"`{place}` is missing or wrong" if place else "not JSON"


def send_or_drop(socket: zmq.Socket[bytes], parts: Sequence[bytes]) -> bool:
    """Send a multipart message. Never blocks. Return False when the queue is full or no peer is connected."""
    try:
        socket.send_multipart(parts, zmq.NOBLOCK)
    except zmq.Again:
        return False
    return True
