"""Questions and orders to a running agent: one JSON object per message, each answered with one that has its `id`.

The command line asks the parent (`control.sock`), the parent asks the inference process (`asks.sock`). DEALER to
ROUTER: nobody waits for one that is away.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import zmq

from streamer.core.errors import WireError
from streamer.core.ipc import check_endpoint

MAX_MESSAGE_BYTES = 1 << 20
"""Bytes of a message."""

Message = dict[str, Any]


class Request(NamedTuple):
    """A message and who waits for its answer."""

    peer: bytes
    message: Message


def control_socket(runtime: Path) -> Path:
    """Where the parent listens."""
    return runtime / "control.sock"


def infer_socket(runtime: Path) -> Path:
    """Where the inference process listens."""
    return runtime / "asks.sock"


class RpcServer:
    """Who is asked. Not thread-safe."""

    def __init__(self, path: Path) -> None:
        self.invalid_messages = 0
        """Messages that were none; counted and dropped."""
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
        """To poll for reading; then call `receive`."""
        self.socket.set(zmq.LINGER, 500)
        self.socket.set(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        self.socket.bind(check_endpoint(f"ipc://{path}"))
        path.chmod(0o600)

    def close(self) -> None:
        self.socket.close()

    def receive(self) -> list[Request]:
        """Everything that has arrived, never blocking."""
        found = []
        with contextlib.suppress(zmq.Again):
            while True:
                peer, *parts = self.socket.recv_multipart(zmq.NOBLOCK)
                try:
                    found.append(Request(peer, _decode(b"".join(parts))))
                except WireError:
                    self.invalid_messages += 1
        return found

    def reply(self, asked: Request, **answer: Any) -> None:
        """Who does not listen any more is nobody to tell."""
        with contextlib.suppress(zmq.Again):
            body = json.dumps({**answer, "id": asked.message["id"]}).encode()
            self.socket.send_multipart([asked.peer, body], zmq.NOBLOCK)


class RpcClient:
    """Who asks. Not thread-safe."""

    def __init__(self, path: Path) -> None:
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        """To poll for reading; then call `receive`."""
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.RECONNECT_IVL_MAX, 500)
        self.socket.connect(check_endpoint(f"ipc://{path}"))
        self._last = 0

    def close(self) -> None:
        self.socket.close()

    def send(self, **message: Any) -> int:
        """The message's id. It waits for one who is away."""
        self._last += 1
        with contextlib.suppress(zmq.Again):
            self.socket.send(json.dumps({**message, "id": self._last}).encode(), zmq.NOBLOCK)
        return self._last

    def receive(self) -> list[Message]:
        """Answers that have arrived, never blocking."""
        found = []
        with contextlib.suppress(zmq.Again):
            while True:
                with contextlib.suppress(WireError):
                    found.append(_decode(b"".join(self.socket.recv_multipart(zmq.NOBLOCK))))
        return found


def _decode(body: bytes) -> Message:
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        raise WireError("not JSON") from None
    if not isinstance(message, dict) or not isinstance(message.get("id"), int):
        raise WireError("not a message with an id")
    return message
