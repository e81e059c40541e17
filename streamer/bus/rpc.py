"""Requests to a running agent: one JSON object per message; a response repeats the `id` of its request.

The command line calls the parent (`control.sock`), the parent calls the inference process (`infer.sock`), and whoever
commands the rules calls the rules process (`rules.sock`). DEALER to ROUTER, so that neither side blocks while the other
is absent.
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any, NamedTuple

import zmq

from streamer.core.errors import NoReply, WireError
from streamer.core.ipc import Listener, check_endpoint, receive_valid, send_or_drop
from streamer.core.logs import RareLog
from streamer.core.redact import redact

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 1 << 20
"""Bytes per message. ZeroMQ disconnects a peer that sends a larger one."""

Message = dict[str, Any]


class Request(NamedTuple):
    """A message and the ZeroMQ identity of its sender."""

    peer: bytes
    message: Message


def control_socket(runtime: Path) -> Path:
    """Return the path of the parent's socket."""
    return runtime / "control.sock"


def rules_socket(runtime: Path) -> Path:
    """Return the path of the rules process's socket."""
    return runtime / "rules.sock"


def infer_socket(runtime: Path, target: str | None = None) -> Path:
    """Return the path of an inference process's socket. `target`: its number, None where there is only one;
    see also `other_target`."""
    return runtime / (f"infer-{target}.sock" if target else "infer.sock")


def other_target(target: str | None) -> str | None:
    """Return the second target of the same device: a swap of the model starts a process there, beside the first.

    None and `b`, `0` and `0b`, and so on.
    """
    return device_of(target) if target != device_of(target) else f"{target or ''}b"


def device_of(target: str | None) -> str | None:
    """Return the first of the two targets of a device."""
    return target and (target.removesuffix("b") or None)


class RpcServer:
    """Receives requests and replies. Not thread-safe."""

    def __init__(self, path: Path) -> None:
        self._invalid_messages = RareLog(log, "invalid request %d dropped: %s")
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
        """To poll for reading; then call `receive`."""
        self.socket.set(zmq.LINGER, 500)
        self.socket.set(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        self._listener = Listener(self.socket, f"ipc://{path}")

    def close(self) -> None:
        self.socket.close()
        self._listener.close()

    def receive(self) -> list[Request]:
        """Return the requests that have arrived. Never blocks."""
        self._listener.check()
        return list(receive_valid(self.socket, _decode_request, self._invalid_messages))

    def reply(self, request: Request, **response: Any) -> None:
        """Answer a request. Dropped when the client has disconnected or reads nothing."""
        send_or_drop(self.socket, [request.peer, json.dumps({**response, "id": request.message["id"]}).encode()])

    def reply_error(self, request: Request, reason: str) -> None:
        """Answer with the reason of a refusal, redacted here because the client does not know the agent's secrets."""
        self.reply(request, error=redact(reason))


class RpcClient:
    """Sends requests. Not thread-safe."""

    def __init__(self, path: Path) -> None:
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        """To poll for reading; then call `receive`."""
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.RECONNECT_IVL_MAX, 500)
        self._endpoint = check_endpoint(f"ipc://{path}")
        self.socket.connect(self._endpoint)
        self._invalid_messages = RareLog(log, "invalid response %d dropped: %s")
        self._last_id = 0

    def close(self) -> None:
        self.socket.close()

    def drop_unsent(self) -> None:
        """Forget the requests that are queued because the server is absent."""
        self.socket.disconnect(self._endpoint)
        self.socket.connect(self._endpoint)

    def send(self, **message: Any) -> int:
        """Send a request and return its id. Without blocking: it is queued while the server is absent."""
        self._last_id += 1
        send_or_drop(self.socket, [json.dumps({**message, "id": self._last_id}).encode()])
        return self._last_id

    def receive(self) -> list[Message]:
        """Return the responses that have arrived. Never blocks."""
        return list(receive_valid(self.socket, _decode, self._invalid_messages))


def request(path: Path, message: Message, timeout: float) -> Message:
    """Send one request and return its response. Blocks. Raises NoReply after `timeout` seconds."""
    client = RpcClient(path)
    try:
        request_id, deadline = client.send(**message), time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            client.socket.poll(round(left * 1000) + 1)
            for response in client.receive():
                if response["id"] == request_id:
                    return response
    finally:
        client.close()
    raise NoReply(f"no answer within {timeout:g} s")


def _decode_request(parts: list[bytes]) -> Request:
    return Request(parts[0], _decode(parts[1:]))


def _decode(parts: list[bytes]) -> Message:
    try:
        message = json.loads(b"".join(parts))
    except (ValueError, RecursionError):
        raise WireError("not JSON") from None
    if not isinstance(message, dict) or not isinstance(message.get("id"), int):
        raise WireError("not an object with an integer id")
    return message
