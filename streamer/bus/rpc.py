"""Questions and orders to a running agent: one JSON object per message, each answered with one that has its `id`.

The command line asks the parent (`control.sock`), the parent asks the inference process (`asks.sock`). DEALER to
ROUTER: nobody waits for one that is away.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

import zmq

from streamer.core.errors import WireError
from streamer.core.ipc import check_endpoint, drain, send_or_drop
from streamer.core.logs import RareLog
from streamer.core.redact import redact

log = logging.getLogger(__name__)

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
        self._invalid_messages = RareLog(log, "invalid request %d dropped: %s")
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
        requests = []
        for peer, *parts in drain(self.socket):
            try:
                requests.append(Request(peer, _decode(b"".join(parts))))
            except WireError as error:
                self._invalid_messages.add(error)
        return requests

    def reply(self, request: Request, **response: Any) -> None:
        """Answer a request. Dropped when the client has disconnected or reads nothing."""
        send_or_drop(self.socket, [request.peer, json.dumps({**response, "id": request.message["id"]}).encode()])

    def reply_error(self, request: Request, error: Exception) -> None:
        """Answer with the error's text, redacted here because the client does not know the agent's secrets."""
        self.reply(request, error=redact(str(error)))


class RpcClient:
    """Who asks. Not thread-safe."""

    def __init__(self, path: Path) -> None:
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        """To poll for reading; then call `receive`."""
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.RECONNECT_IVL_MAX, 500)
        self.socket.connect(check_endpoint(f"ipc://{path}"))
        self._invalid_messages = RareLog(log, "invalid response %d dropped: %s")
        self._last = 0

    def close(self) -> None:
        self.socket.close()

    def send(self, **message: Any) -> int:
        """The message's id. It waits for one who is away."""
        self._last += 1
        send_or_drop(self.socket, [json.dumps({**message, "id": self._last}).encode()])
        return self._last

    def receive(self) -> list[Message]:
        """Answers that have arrived, never blocking."""
        responses = []
        for parts in drain(self.socket):
            try:
                responses.append(_decode(b"".join(parts)))
            except WireError as error:
                self._invalid_messages.add(error)
        return responses


def _decode(body: bytes) -> Message:
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        raise WireError("not JSON") from None
    if not isinstance(message, dict) or not isinstance(message.get("id"), int):
        raise WireError("not a message with an id")
    return message
