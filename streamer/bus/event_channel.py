"""Transport of events to emit. A client keeps and resends each event until emit has stored it and acknowledges it.

DEALER to ROUTER over `{runtime}/events.sock`. A message is a JSON header and the event's JSON:

    client -> emit   {"v": 1, "id": "5f1c…", "captured_mono": 81234.5}   {"specversion": "1.0", …}
    emit -> client   {"v": 1, "acked": ["5f1c…"], "refused": []}

The socket is a file, so monotonic times never leave the host. `refused` names events that emit cannot parse; the client
drops them.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import zmq
from pydantic import BaseModel, ConfigDict, TypeAdapter

from streamer.core.closing import Closing
from streamer.core.errors import WireError
from streamer.core.ipc import Listener, decode_json, drain, send_or_drop
from streamer.core.logs import RareLog
from streamer.events.schema import Event, StatusEvent, decode, encode

log = logging.getLogger(__name__)

RESEND_S = 1.0
"""Seconds after which an unacknowledged event is sent again."""
MAX_UNACKED = 1000
"""Unacknowledged events from which on a new status event replaces the oldest one, as when the disk is full for days."""
MAX_MESSAGE_BYTES = 8 << 20
"""Bytes per message part. ZeroMQ disconnects a peer that sends a larger one."""


def events_endpoint(runtime: Path) -> str:
    """Return the address of emit's EventServer."""
    return f"ipc://{runtime}/events.sock"


class _Message(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    v: Literal[1] = 1


class _Header(_Message):
    """First part of an event's message."""

    id: str
    captured_mono: float | None = None


class _Reply(_Message):
    """Emit's answer: ids of events."""

    acked: list[str]
    refused: list[str]


_headers, _replies = TypeAdapter(_Header), TypeAdapter(_Reply)


@dataclass(slots=True)
class _Unacked:
    body: bytes
    captured_mono: float | None
    sent_mono: float | None = None


class EventClient(Closing):
    """Sends events of one process (capture, infer, view, push, parent). Not thread-safe; a context manager.

    At most `window` events are on the wire; more wait here. The inference process makes no results while
    `window_full`. Status events cannot wait for room, so beyond `MAX_UNACKED` the oldest is dropped.
    """

    def __init__(self, runtime: Path, name: str, window: int = 256) -> None:
        self._window = window
        self._unacked: dict[str, _Unacked] = {}  # by event id, in the order of `send`
        self.refused = RareLog(log, "%s lost: emit cannot parse the event %s", logging.ERROR, noun="event")
        """Counts the events that emit could not parse."""
        self._invalid_replies = RareLog(log, "invalid acknowledgement %d dropped: %s")
        self.dropped_statuses = RareLog(log, "status events dropped: %d, emit accepts none", logging.ERROR)
        """Counts the status events dropped because of `MAX_UNACKED`."""
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        """To poll for reading; then call `receive`."""
        self.socket.set(zmq.ROUTING_ID, f"{name}-{os.getpid()}-{secrets.token_hex(4)}".encode())
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.SNDHWM, window)
        self.socket.set(zmq.RCVHWM, window)
        self.socket.set(zmq.RECONNECT_IVL_MAX, 1000)
        # Keeps ZeroMQ from queueing events while emit is absent: `_unacked` has them all.
        self.socket.set(zmq.IMMEDIATE, 1)
        self.socket.connect(events_endpoint(runtime))

    def close(self) -> None:
        self.socket.close()

    @property
    def unacked(self) -> int:
        """Number of events that are not acknowledged."""
        return len(self._unacked)

    @property
    def window_full(self) -> bool:
        """Make no new results until some events are acknowledged."""
        return len(self._unacked) >= self._window

    def send(self, event: Event, captured_mono: float | None) -> None:
        """Queue an event and send it when the window has room.

        `captured_mono`: monotonic second of the frame's capture, from which emit computes `age_ms`. None for a status.
        """
        self.queue(event, captured_mono)
        self.resend()

    def queue(self, event: Event, captured_mono: float | None) -> None:
        """Do as `send`, but let the next `resend` send it: one look at the window for many events."""
        if isinstance(event, StatusEvent):
            self._drop_oldest_status()
        self._unacked[event.id] = _Unacked(encode(event), None if captured_mono is None else float(captured_mono))

    def receive(self) -> list[str]:
        """Return the ids of the events acknowledged or refused since the last call. Never blocks."""
        settled = [event_id for parts in drain(self.socket) for event_id in self._settle(parts)]
        if settled:
            self.resend()  # the window has room now
        return settled

    def resend(self) -> None:
        """Send the events in the window that were never sent or not acknowledged for 1 s. Call at every tick."""
        if not self._unacked:
            return
        if not self.socket.poll(0, zmq.POLLOUT):
            # Emit is absent. When it returns, all events are sent again in order.
            for unacked in self._unacked.values():
                unacked.sent_mono = None
            return
        now = time.monotonic()
        for event_id, unacked in islice(self._unacked.items(), self._window):
            if unacked.sent_mono is not None and now - unacked.sent_mono < RESEND_S:
                continue
            header = _Header(id=event_id, captured_mono=unacked.captured_mono)
            if not send_or_drop(self.socket, [header.model_dump_json().encode(), unacked.body]):
                break
            unacked.sent_mono = now

    def flush(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds until all events are acknowledged. Return False when some are not."""
        deadline = time.monotonic() + timeout
        while self._unacked and (left := deadline - time.monotonic()) > 0:
            self.resend()
            self.socket.poll(int(min(left, 0.1) * 1000) + 1)
            self.receive()
        return not self._unacked

    def _drop_oldest_status(self) -> None:
        if len(self._unacked) < MAX_UNACKED:
            return
        oldest = next((key for key, unacked in self._unacked.items() if unacked.captured_mono is None), None)
        if oldest is not None:
            del self._unacked[oldest]
            self.dropped_statuses.add()

    def _settle(self, parts: Sequence[bytes]) -> list[str]:
        try:
            reply = decode_json(_replies, parts[0])
        except WireError as error:
            self._invalid_replies.add(error)
            return []
        for event_id in self._unacked.keys() & set(reply.refused):
            self.refused.add(event_id)
        return [event_id for event_id in reply.acked + reply.refused if self._unacked.pop(event_id, None)]


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event that has arrived and waits for `ack`."""

    peer: bytes
    event: Event
    captured_mono: float | None


class EventServer(Closing):
    """Receives events in the emit process. Not thread-safe; a context manager."""

    def __init__(self, runtime: Path) -> None:
        self.invalid_messages = RareLog(log, "invalid event message %d dropped, sender %r: %s")
        self._context = zmq.Context()  # not shared: `close` waits until its last acknowledgements are sent
        self.socket: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        """To poll for reading; then call `receive`."""
        self.socket.set(zmq.LINGER, 100)
        self.socket.set(zmq.ROUTER_HANDOVER, 1)
        self.socket.set(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        self._listener = Listener(self.socket, events_endpoint(runtime))

    def close(self) -> None:
        self.socket.close()
        self._listener.close()
        self._context.term()

    def receive(self, limit: int = 256) -> list[Delivery]:
        """Return at most `limit` events that have arrived. Never blocks. Call at least once a second."""
        self._listener.check()
        return [delivery for parts in drain(self.socket, limit) if (delivery := self._read(parts)) is not None]

    def ack(self, deliveries: Iterable[Delivery]) -> None:
        """Acknowledge events that are stored. Clients that have disconnected are skipped."""
        by_peer: dict[bytes, list[str]] = {}
        for delivery in deliveries:
            by_peer.setdefault(delivery.peer, []).append(delivery.event.id)
        for peer, ids in by_peer.items():
            self._answer(peer, ids, [])

    def _read(self, parts: Sequence[bytes]) -> Delivery | None:
        peer, *rest = parts
        event_id: str | None = None
        try:
            if len(rest) != 2:
                raise WireError(f"{len(rest)} parts instead of 2")
            header = decode_json(_headers, rest[0])
            event_id = header.id
            event = decode(rest[1])
            if event.id != event_id:
                raise WireError("header and event have different ids")
            return Delivery(peer, event, header.captured_mono)
        except WireError as error:
            self.invalid_messages.add(peer, error)
            if event_id is not None:
                self._answer(peer, [], [event_id])
            return None

    def _answer(self, peer: bytes, acked: list[str], refused: list[str]) -> None:
        reply = _Reply(acked=acked, refused=refused)
        # If dropped, the client resends the event and gets a new answer.
        send_or_drop(self.socket, [peer, reply.model_dump_json().encode()])
