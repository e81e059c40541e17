"""The consumer's side of the frame transport: request frames from capture processes, hold them, settle them.

DEALER to ROUTER, one socket per stream. A consumer sends `wait`, which holds no memory, then `fetch` with a buffer of
its own, uses the frame, and settles it. Capture answers every fetch at once and in order. A fetch that is still
unanswered when a later ping is answered was therefore lost with a dead capture process, and its buffer is free again.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq

from streamer.bus.frame_buffers import NoBuffer, OwnBuffers
from streamer.bus.frame_protocol import (
    MAX_WAIT_S,
    ClientMessage,
    Encoding,
    Fetch,
    FrameDescriptor,
    FrameRequest,
    FrameResponse,
    Ping,
    Release,
    Role,
    Settle,
    Wait,
    decode_response,
    encode,
)
from streamer.core.closing import Closing
from streamer.core.ipc import check_endpoint, receive_valid, send_or_drop
from streamer.core.logs import RareLog
from streamer.events.schema import FrameCounts
from streamer.types import Frame, FrameId, FrameOutcome

__all__ = ["EncodedFrame", "Encoding", "FrameClient", "FrameRequest", "NoBuffer", "Reply", "frames_endpoint"]

log = logging.getLogger(__name__)

_OVERDUE_S = 0.5
"""Seconds after its timeout at which a request is overdue. A ping then finds out whether it was lost."""
_MAX_PING_GAP_S = 30.0
"""Longest interval between pings to a capture process that does not answer. It doubles from `_OVERDUE_S`."""
_CLOSE_S = 0.5
"""Longest wait of `close` for the capture processes to receive the last messages."""


def frames_endpoint(runtime: Path, stream: str) -> str:
    """Return the address of a stream's FrameServer. Raises ConfigError when the socket path is too long."""
    return check_endpoint(f"ipc://{frames_socket(runtime, stream)}")


def frames_socket(runtime: Path, stream: str) -> Path:
    """Return the path of the socket of a stream's FrameServer."""
    return runtime / f"frames-{stream}.sock"


@dataclass(frozen=True, slots=True)
class EncodedFrame:
    """A frame whose picture is encoded. It is not to be settled. Fields as in `types.Frame`."""

    id: FrameId
    captured_mono: float
    pts: float | None
    width: int
    height: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """The result of one `fetch`, `wait` or `ping`, as FrameClient returns it to the consumer.

    Made from a FrameResponse, or by FrameClient itself (`ready` and `ended` False) for a request lost with a dead
    capture process.
    """

    stream: str
    request: int
    """Id that `fetch`, `wait` or `ping` returned."""
    frame: Frame | None
    """The frame of a `fetch`. Its image is a read-only view of a buffer, valid until `settle`."""
    ready: bool
    """A matching frame exists. After a `wait` it can be fetched; after a `fetch` it is `frame`."""
    ended: bool
    """The source ended; no frame will ever match the request."""
    last_frame_age: float | None = None
    """Seconds since the capture of `newest`."""
    newest: FrameId | None = None
    """Newest decoded frame of the stream."""
    counts: FrameCounts | None = None
    """Frame accounting of the stream; after a `ping` only."""
    encoded: EncodedFrame | None = None
    """The frame of a `fetch` with an `encoding`, instead of `frame`, if the camera's own encoding was taken."""


@dataclass(slots=True)
class _PendingRequest:
    buffer: str | None
    overdue: float
    """Monotonic second."""
    generation: str | None
    """Capture process at the time of sending, as far as known."""


@dataclass(slots=True)
class _Link:
    """The connection to one stream's capture process."""

    stream: str
    socket: zmq.Socket[bytes]
    pending: dict[int, _PendingRequest] = field(default_factory=dict)
    generation: str | None = None
    """Capture process that sent the last response."""
    ping_at: float = 0.0
    """Monotonic second of the next ping, if a request is overdue then."""
    ping_gap: float = _OVERDUE_S


class FrameClient(Closing):
    """Requests frames of any number of streams; one per consumer process. Not thread-safe; a context manager."""

    def __init__(self, runtime: Path, role: Role, buffers: int) -> None:
        """`buffers`: number of frames that can be held at once."""
        self._role = role
        self._owner = f"{role}-{os.getpid()}-{secrets.token_hex(4)}"
        self._runtime = runtime
        self._buffers = OwnBuffers(runtime, self._owner, buffers)
        self._links: dict[str, _Link] = {}
        self._held: dict[tuple[str, FrameId], tuple[str, str]] = {}
        """Buffer and capture process of each fetched frame that is not settled, by stream and frame."""
        self._last_id = 0
        self._invalid_messages = RareLog(log, "invalid frame response %d dropped, stream %s: %s")
        self._lost_buffers = RareLog(log, "%s replaced: another program deleted or cut %s", noun="frame buffer")

    def close(self) -> None:
        """Wait at most 0.5 s until the capture processes have received all messages, then remove the buffers."""
        deadline = time.monotonic() + _CLOSE_S
        for link in self._links.values():
            if link.generation is not None:
                self._await_response(link, self.ping(link.stream), deadline)
            link.socket.close(linger=0)
        self._links.clear()
        self._buffers.close()

    def sockets(self) -> list[zmq.Socket[bytes]]:
        """Return the sockets to poll for reading; call `receive` when one is readable."""
        return [link.socket for link in self._links.values()]

    def connect(self, stream: str) -> None:
        """Connect to a stream's capture process, which may start later."""
        socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        socket.set(zmq.LINGER, 0)
        socket.connect(frames_endpoint(self._runtime, stream))
        self._links[stream] = link = _Link(stream, socket)
        self._ping(link, time.monotonic())  # capture learns at once that an earlier `infer` process is dead

    def disconnect(self, stream: str, is_final: bool = False) -> bool:
        """Give up a stream of which no frame is held. False if its capture process does not confirm that in 0.5 s.

        Nothing is sent to it any more, so that another process can be the only one. After False the stream is kept.
        `is_final`: it is given up in any case, at once if the capture process is not known.
        """
        link = self._links[stream]
        if is_final and link.generation is None:
            self._drop(link)
            return True
        message = Release(**self._head())
        confirmed = self._await_response(link, self._request(link, message, 0.0), time.monotonic() + _CLOSE_S)
        if confirmed or is_final:
            self._drop(link)
        return confirmed or is_final

    def fetch(
        self, stream: str, request: FrameRequest, next_need: float | None = None, encoding: Encoding | None = None
    ) -> int:
        """Request a matching frame now and return the request's id. Raises NoBuffer when all buffers are in use.

        `next_need`: seconds until another frame is needed, and `encoding`: as in `Fetch`.
        """
        buffer = self._buffers.reserve()
        message = Fetch(**self._head(), request=request, buffer=buffer, next_need=next_need, encoding=encoding)
        return self._request(self._links[stream], message, 0.0, buffer)

    def wait(self, stream: str, request: FrameRequest, timeout: float) -> int:
        """Request a reply when a frame matches, or after `timeout` seconds. Return the request's id.

        A later `wait` or `fetch` on the same stream replaces this one: its reply then says `ready=False`.
        """
        message = Wait(**self._head(), request=request, timeout=min(timeout, MAX_WAIT_S))
        return self._request(self._links[stream], message, message.timeout)

    def ping(self, stream: str) -> int:
        """Request the stream's state and return the request's id. The reply has `counts` unless capture died."""
        return self._request(self._links[stream], Ping(**self._head()), 0.0)

    def receive(self) -> list[Reply]:
        """Return the replies that have arrived. Never blocks. Call at least once a second: it also detects losses."""
        replies = [reply for link in self._links.values() for reply in self._read(link)]
        now = time.monotonic()
        for link in self._links.values():
            if now >= link.ping_at and any(now >= pending.overdue for pending in link.pending.values()):
                self._ping(link, now)
        return replies

    def settle(self, frame: Frame, outcome: FrameOutcome) -> None:
        """Report the outcome of a fetched frame to capture and free its buffer.

        Raises ValueError for a frame that was not fetched here or is settled already.
        """
        held = self._held.pop((frame.stream, frame.id), None)
        if held is None:
            raise ValueError(f"{frame.stream} {frame.id} is not held")
        buffer, generation = held
        self._buffers.release(buffer)
        message = Settle(**self._head(), generation=generation, frame=frame.id, outcome=outcome)
        self._send(self._links[frame.stream], message)

    def _drop(self, link: _Link) -> None:
        """Forget a capture process. It may still write to the buffers of requests that it has not answered."""
        for pending in link.pending.values():
            if pending.buffer is not None:
                self._buffers.replace(pending.buffer)
        link.socket.close(linger=0)
        del self._links[link.stream]

    def _await_response(self, link: _Link, request: int, deadline: float) -> bool:
        """Return whether the request was answered in time. Other replies are dropped."""
        # The process may exit right afterwards, which ends ZeroMQ's lingering: only a response proves delivery.
        while link.socket.poll(max(0, int((deadline - time.monotonic()) * 1000))):
            if any(reply.request == request for reply in self._read(link)):
                return True
        return False

    def _head(self) -> dict[str, Any]:
        """Return the fields that every message has, with a new id."""
        self._last_id += 1
        return {"id": self._last_id, "owner": self._owner, "role": self._role}

    def _request(
        self, link: _Link, message: Fetch | Wait | Ping | Release, timeout: float, buffer: str | None = None
    ) -> int:
        overdue = time.monotonic() + timeout + _OVERDUE_S
        link.pending[message.id] = _PendingRequest(buffer, overdue, link.generation)
        self._send(link, message)
        return message.id

    def _ping(self, link: _Link, now: float) -> None:
        self._send(link, Ping(**self._head()))
        link.ping_at = now + link.ping_gap
        link.ping_gap = min(2 * link.ping_gap, _MAX_PING_GAP_S)

    def _send(self, link: _Link, message: ClientMessage) -> None:
        # ZeroMQ queues 1000 messages for an absent capture process. A later pong reveals that this one was dropped.
        send_or_drop(link.socket, [encode(message)])

    def _read(self, link: _Link) -> Iterator[Reply]:
        for response in receive_valid(link.socket, decode_response, self._invalid_messages, link.stream):
            link.generation = response.generation
            if response.pong:
                link.ping_gap = _OVERDUE_S
                yield from self._lost(link, response)
            if response.id in link.pending:
                yield self._reply(link, response)

    def _lost(self, link: _Link, pong: FrameResponse) -> Iterator[Reply]:
        """Yield replies for requests sent before the ping that a dead capture process never answered."""
        now = time.monotonic()
        for request, pending in list(link.pending.items()):
            other_process = pending.generation is not None and pending.generation != pong.generation
            if request < pong.id and (pending.buffer is not None or other_process or now >= pending.overdue):
                del link.pending[request]
                if pending.buffer is not None:
                    self._buffers.release(pending.buffer)
                yield Reply(link.stream, request, None, ready=False, ended=False)

    def _reply(self, link: _Link, response: FrameResponse) -> Reply:
        pending = link.pending.pop(response.id)
        frame = encoded = None
        if pending.buffer is not None and response.frame is not None and response.frame.encoded_bytes is not None:
            encoded = _encoded(response.frame, self._buffers.read(pending.buffer, response.frame.encoded_bytes))
            self._buffers.release(pending.buffer)
        elif pending.buffer is not None and response.frame is not None:
            frame = self._hold(link, pending.buffer, response.generation, response.frame)
        elif pending.buffer is not None and response.buffer_lost:
            self._lost_buffers.add(pending.buffer)
            self._buffers.replace(pending.buffer)
        elif pending.buffer is not None:
            self._buffers.release(pending.buffer)
        return Reply(
            stream=link.stream,
            request=response.id,
            frame=frame,
            ready=response.ready,
            ended=response.ended,
            last_frame_age=response.newest_age,
            newest=response.newest,
            counts=response.counts,
            encoded=encoded,
        )

    def _hold(self, link: _Link, buffer: str, generation: str, descriptor: FrameDescriptor) -> Frame:
        self._held[link.stream, descriptor.id] = (buffer, generation)
        return Frame(
            stream=link.stream,
            epoch=descriptor.id.epoch,
            seq=descriptor.id.seq,
            captured_at=descriptor.captured_at,
            captured_mono=time.monotonic() - descriptor.age,
            pts=descriptor.pts,
            image=self._buffers.view(buffer, descriptor.width, descriptor.height),
            triggered=descriptor.triggered,
        )


def _encoded(descriptor: FrameDescriptor, data: bytes) -> EncodedFrame:
    mono = time.monotonic() - descriptor.age
    return EncodedFrame(descriptor.id, mono, descriptor.pts, descriptor.width, descriptor.height, data)
