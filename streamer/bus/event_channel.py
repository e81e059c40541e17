"""Events on their way to emit: each is kept by its maker until emit says that it is safe.

DEALER to ROUTER over `{runtime}/events.sock`. A message is a JSON header and the event's JSON:

    maker -> emit   {"v": 1, "id": "5f1c…", "captured_mono": 81234.5}   {"specversion": "1.0", …}
    emit -> maker   {"v": 1, "acked": ["5f1c…"], "refused": []}

The monotonic time never leaves the host: the socket is a file. `refused` is said of an event that emit cannot read,
which no repetition would change.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import zmq

from streamer.core.errors import WireError
from streamer.core.ipc import drain, send_or_drop
from streamer.core.logs import RareLog
from streamer.events.schema import Event, StatusEvent, decode, encode

log = logging.getLogger(__name__)

VERSION = 1
RESEND_S = 1.0
MAX_STATUSES = 1000
"""That are kept while emit takes nothing, as with a full disk for days; beyond, the oldest are thrown away."""
MAX_MESSAGE = 8 << 20
"""Bytes of the largest part of a message; whoever sends more is cut off."""


def events_endpoint(runtime: Path) -> str:
    return f"ipc://{runtime}/events.sock"


@dataclass(slots=True)
class _Unacked:
    body: bytes
    captured_mono: float | None
    sent_mono: float | None = None


class EventClient:
    """The maker's end: capture, infer and the parent have one each. Not thread-safe; a context manager.

    At most `window` events are on the wire. More are kept in line: whoever makes results stops while `full`, and of
    statuses, which nobody can stop, the oldest make room for the newest.
    """

    def __init__(self, runtime: Path, name: str, window: int = 256) -> None:
        self._window = window
        self._unacked: dict[str, _Unacked] = {}  # in the order they were made
        self.refused = 0
        """Events that emit could not read and nobody will see."""
        self.dropped_statuses = RareLog(log, "status events dropped: %d, emit accepts none", logging.ERROR)
        """Counts status events dropped because more than `MAX_STATUSES` were unacknowledged."""
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        """To poll for reading; then call `receive`."""
        self.socket.set(zmq.ROUTING_ID, f"{name}-{os.getpid()}-{secrets.token_hex(4)}".encode())
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.SNDHWM, window)
        self.socket.set(zmq.RCVHWM, window)
        self.socket.set(zmq.RECONNECT_IVL_MAX, 1000)
        # Nothing waits inside zmq for an emit that is away: what was not sent is still in `_kept`.
        self.socket.set(zmq.IMMEDIATE, 1)
        self.socket.connect(events_endpoint(runtime))

    def __enter__(self) -> EventClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    @property
    def unacked(self) -> int:
        return len(self._unacked)

    @property
    def window_full(self) -> bool:
        """The window is used up: make no new results until some are acked."""
        return len(self._unacked) >= self._window

    def send(self, event: Event, captured_mono: float | None) -> None:
        """Keep the event until it is acked and send it when there is room.

        `captured_mono` is the monotonic second its frame was captured, from which emit takes its age.
        """
        if isinstance(event, StatusEvent):
            self._make_room()
        self._unacked[event.id] = _Unacked(encode(event), None if captured_mono is None else float(captured_mono))
        self.resend()

    def receive(self) -> list[str]:
        """Ids that were acked since the last call, never blocking."""
        acked = [event_id for parts in drain(self.socket) for event_id in self._settle(parts)]
        if acked:
            self.resend()  # what stood in line
        return acked

    def resend(self) -> None:
        """Send again what is unacked for over a second, and for the first time what stood in line. Call every tick."""
        if not self.socket.poll(0, zmq.POLLOUT):
            # Emit is away. All of it goes again, in its order, before anything newer.
            for kept in self._unacked.values():
                kept.sent_mono = None
            return
        now = time.monotonic()
        for number, (event_id, kept) in enumerate(self._unacked.items()):
            if number >= self._window:
                break
            if kept.sent_mono is not None and now - kept.sent_mono < RESEND_S:
                continue
            if not self._put(event_id, kept):
                break
            kept.sent_mono = now

    def flush(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds until everything is acked; False when it was not."""
        deadline = time.monotonic() + timeout
        while self._unacked and (left := deadline - time.monotonic()) > 0:
            self.resend()
            self.socket.poll(int(min(left, 0.1) * 1000) + 1)
            self.receive()
        return not self._unacked

    def _make_room(self) -> None:
        if len(self._unacked) < MAX_STATUSES:
            return
        oldest = next((key for key, kept in self._unacked.items() if kept.captured_mono is None), None)
        if oldest is not None:
            del self._unacked[oldest]
            self.dropped_statuses.add()

    def _put(self, event_id: str, kept: _Unacked) -> bool:
        header = {"v": VERSION, "id": event_id, "captured_mono": kept.captured_mono}
        return send_or_drop(self.socket, [json.dumps(header).encode(), kept.body])

    def _settle(self, parts: Sequence[bytes]) -> list[str]:
        try:
            answer = _object(parts[0])
        except WireError as error:
            log.warning("dropped an answer of emit: %s", error)
            return []
        for event_id in answer["refused"]:
            if self._unacked.pop(event_id, None):
                self.refused += 1
                log.error("emit cannot read event %s", event_id)
        return [event_id for event_id in answer["acked"] if self._unacked.pop(event_id, None)]


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event that arrived and waits for its ack."""

    peer: bytes
    event: Event
    captured_mono: float | None


class EventServer:
    """Emit's end. Not thread-safe; a context manager."""

    def __init__(self, runtime: Path) -> None:
        self.invalid_messages = RareLog(log, "invalid event message %d dropped, sender %r: %s")
        self._context = zmq.Context()  # its own, so that `close` can wait for the last acks to leave
        self.socket: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        """To poll for reading; then call `receive`."""
        self.socket.set(zmq.LINGER, 100)
        self.socket.set(zmq.ROUTER_HANDOVER, 1)
        self.socket.set(zmq.MAXMSGSIZE, MAX_MESSAGE)
        self.socket.bind(events_endpoint(runtime))

    def __enter__(self) -> EventServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()
        self._context.term()

    def receive(self, limit: int = 256) -> list[Delivery]:
        """At most `limit` events that have arrived, never blocking."""
        return [delivery for parts in drain(self.socket, limit) if (delivery := self._read(parts)) is not None]

    def ack(self, deliveries: Iterable[Delivery]) -> None:
        """Tell the makers that these are safe. A maker that is gone is nobody to tell."""
        by_peer: dict[bytes, list[str]] = {}
        for delivery in deliveries:
            by_peer.setdefault(delivery.peer, []).append(delivery.event.id)
        for peer, ids in by_peer.items():
            self._answer(peer, acked=ids)

    def _read(self, parts: Sequence[bytes]) -> Delivery | None:
        peer, *rest = parts
        event_id: str | None = None
        try:
            header, body = _two(rest)
            event_id, captured_mono = _checked(header)
            event = decode(body)
            if event.id != event_id:
                raise WireError("header and event differ in their id")
            return Delivery(peer, event, captured_mono)
        except WireError as error:
            self.invalid_messages.add(peer, error)
            if event_id is not None:
                self._answer(peer, refused=[event_id])
            return None

    def _answer(self, peer: bytes, acked: Sequence[str] = (), refused: Sequence[str] = ()) -> None:
        answer = json.dumps({"v": VERSION, "acked": acked, "refused": refused}).encode()
        send_or_drop(self.socket, [peer, answer])  # if dropped, the client sends the event again and gets a new answer


def _two(parts: Sequence[bytes]) -> tuple[dict[str, Any], bytes]:
    if len(parts) != 2:
        raise WireError(f"{len(parts)} parts instead of 2")
    return _object(parts[0]), parts[1]


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise WireError("not JSON") from None
    if not isinstance(value, dict) or value.get("v") != VERSION:
        raise WireError(f"not a message of version {VERSION}")
    return value


def _checked(header: dict[str, Any]) -> tuple[str, float | None]:
    event_id, captured_mono = header.get("id"), header.get("captured_mono")
    if not isinstance(event_id, str):
        raise WireError("no id")
    if captured_mono is not None and not (isinstance(captured_mono, float) and isfinite(captured_mono)):
        raise WireError("captured_mono is not a time")
    return event_id, captured_mono
