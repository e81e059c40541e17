"""Asking capture processes for frames: the consumer's side.

DEALER to ROUTER, one socket per stream. A consumer waits for a wanted frame without holding any memory, then fetches
it into a buffer of its own, works on it, and settles it. Neither side ever waits for the other's death to be noticed:
a fetch is answered at once, so when a later ping is answered and the fetch was not, it was lost with a capture process
that is dead, and its buffer is free again.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import zmq

from streamer.bus.frame_buffers import NoBuffer, OwnBuffers
from streamer.bus.frame_protocol import (
    MAX_WAIT_S,
    Fetch,
    FrameDescriptor,
    FrameRequest,
    FrameResponse,
    Ping,
    Settle,
    Wait,
    decode_response,
    encode,
)
from streamer.core.errors import WireError
from streamer.core.ipc import check_endpoint, drain, send_or_drop
from streamer.core.logs import RareLog
from streamer.events.schema import FrameCounts
from streamer.types import Frame, FrameId, FrameOutcome

__all__ = ["FrameClient", "FrameRequest", "NoBuffer", "Reply", "frames_endpoint"]

log = logging.getLogger(__name__)

_OVERDUE_S = 0.5
_FAREWELL_S = 0.5
_MAX_PING_GAP_S = 30.0


def frames_endpoint(runtime: Path, stream: str) -> str:
    """The address on which a stream's capture answers. Raises ConfigError when the path is too long for a socket."""
    return check_endpoint(f"ipc://{runtime}/frames-{stream}.sock")


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one `fetch`, `wait` or `ping`."""

    stream: str
    request: int
    frame: Frame | None
    """Of a fetch. Its image is a read-only view of a buffer, valid until `settle`."""
    ready: bool
    """A wanted frame is there to be fetched (again, if it was a fetch that got none)."""
    ended: bool
    """The stream is over: nothing that was wanted will ever come."""
    last_frame_age: float | None = None
    """Seconds since the newest frame was captured."""
    epoch: int | None = None
    seq: int | None = None
    counts: FrameCounts | None = None
    """What became of the stream's frames so far, of a `ping`."""

    @property
    def newest(self) -> FrameId | None:
        """The newest frame there is."""
        return None if self.epoch is None or self.seq is None else FrameId(self.epoch, self.seq)


@dataclass(slots=True)
class _PendingRequest:
    buffer: str | None
    overdue: float
    generation: str | None


@dataclass(slots=True)
class _Link:
    stream: str
    socket: zmq.Socket[bytes]
    pending: dict[int, _PendingRequest] = field(default_factory=dict)
    generation: str | None = None
    ping_at: float = 0.0
    ping_gap: float = _OVERDUE_S


@dataclass(frozen=True, slots=True)
class _Held:
    buffer: str
    generation: str


class FrameClient:
    """One per consumer process. Not thread-safe; a context manager."""

    def __init__(self, runtime: Path, role: str, buffers: int) -> None:
        """`role`: letters only; "infer" is the one whose frames are counted. `buffers`: frames it can hold at once."""
        self.owner = f"{role}-{os.getpid()}-{secrets.token_hex(4)}"
        self._invalid_messages = RareLog(log, "invalid frame response %d dropped, stream %s: %s")
        self._runtime = runtime
        self._buffers = OwnBuffers(runtime, self.owner, buffers)
        self._links: dict[str, _Link] = {}
        self._held: dict[tuple[str, FrameId], _Held] = {}
        self._last_id = 0

    def __enter__(self) -> FrameClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait at most 0.5 s until the captures have heard everything, the last settlings too; remove the buffers."""
        until = time.monotonic() + _FAREWELL_S
        for link in self._links.values():
            if link.generation is not None:
                self._await_pong(link, until)
            link.socket.close(linger=0)
        self._links.clear()
        self._buffers.close()

    def sockets(self) -> list[zmq.Socket[bytes]]:
        """To poll for reading; then call `receive`."""
        return [link.socket for link in self._links.values()]

    def connect(self, stream: str) -> None:
        """Ask this stream's capture from now on, whether it is there yet or not."""
        socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        socket.set(zmq.LINGER, 0)
        socket.connect(frames_endpoint(self._runtime, stream))
        self._links[stream] = link = _Link(stream, socket)
        self._ping(link, time.monotonic())  # also tells capture that an earlier owner is dead

    def fetch(self, stream: str, want: FrameRequest) -> int:
        """Ask for a wanted frame, answered at once; gives the request's id. Raises NoBuffer when none is free."""
        buffer = self._buffers.take()
        message = Fetch(id=self._next_id(), owner=self.owner, request=want, buffer=buffer)
        return self._ask(self._links[stream], message, 0.0, buffer)

    def wait(self, stream: str, want: FrameRequest, timeout: float) -> int:
        """Ask to be told when there is a wanted frame, or after `timeout` seconds that there is none.

        A stream's newer `wait` or `fetch` takes its place: it is answered `not ready` then.
        """
        timeout = min(timeout, MAX_WAIT_S)
        message = Wait(id=self._next_id(), owner=self.owner, request=want, timeout=timeout)
        return self._ask(self._links[stream], message, timeout, None)

    def ping(self, stream: str) -> int:
        """Ask how the stream is, answered at once; its reply has `counts`, or was lost with a capture that died."""
        message = Ping(id=self._next_id(), owner=self.owner)
        return self._ask(self._links[stream], message, 0.0, None)

    def receive(self) -> list[Reply]:
        """Everything that has arrived. Never blocks; call it also when nothing has, at least every second."""
        replies = [reply for link in self._links.values() for reply in self._read(link)]
        now = time.monotonic()
        for link in self._links.values():
            if now >= link.ping_at and any(now >= asked.overdue for asked in link.pending.values()):
                self._ping(link, now)
        return replies

    def settle(self, frame: Frame, fate: FrameOutcome) -> None:
        """Tell capture what became of a fetched frame, once, and give its buffer back.

        Raises ValueError for a frame that was not fetched here or was settled already.
        """
        held = self._held.pop((frame.stream, frame.id), None)
        if held is None:
            raise ValueError(f"{frame.stream} {frame.id} is not held")
        self._buffers.give_back(held.buffer)
        self._send(
            self._links[frame.stream],
            Settle(id=self._next_id(), owner=self.owner, generation=held.generation, frame=frame.id, outcome=fate),
        )

    def _await_pong(self, link: _Link, until: float) -> None:
        # A process may end right after this, and zmq's own lingering ends with it: only an answer is sure.
        self._ping(link, time.monotonic())
        asked = self._last_id
        while link.socket.poll(max(0, int((until - time.monotonic()) * 1000))):
            try:
                answer = decode_response(b"".join(link.socket.recv_multipart()))
            except WireError:
                continue
            if answer.pong and answer.id == asked:
                return

    def _next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def _ask(self, link: _Link, message: Fetch | Wait | Ping, timeout: float, buffer: str | None) -> int:
        overdue = time.monotonic() + timeout + _OVERDUE_S
        link.pending[message.id] = _PendingRequest(buffer, overdue, link.generation)
        self._send(link, message)
        return message.id

    def _ping(self, link: _Link, now: float) -> None:
        self._send(link, Ping(id=self._next_id(), owner=self.owner))
        link.ping_at = now + link.ping_gap
        link.ping_gap = min(2 * link.ping_gap, _MAX_PING_GAP_S)

    def _send(self, link: _Link, message: Fetch | Wait | Settle | Ping) -> None:
        # ZeroMQ queues 1000 messages for an absent capture process. A later ping reports a dropped one as lost.
        send_or_drop(link.socket, [encode(message)])

    def _read(self, link: _Link) -> Iterator[Reply]:
        for parts in drain(link.socket):
            try:
                answer = decode_response(b"".join(parts))
            except WireError as error:
                self._invalid_messages.add(link.stream, error)
                continue
            link.generation = answer.generation
            if answer.pong:
                link.ping_gap = _OVERDUE_S
                yield from self._lost(link, answer)
            if answer.id in link.pending:
                yield self._reply(link, answer)

    def _lost(self, link: _Link, pong: FrameResponse) -> Iterator[Reply]:
        """What was asked before the ping, of a capture process that died without an answer."""
        now = time.monotonic()
        for request, asked in list(link.pending.items()):
            elsewhere = asked.generation is not None and asked.generation != pong.generation
            if request < pong.id and (asked.buffer is not None or elsewhere or now >= asked.overdue):
                del link.pending[request]
                if asked.buffer is not None:
                    self._buffers.give_back(asked.buffer)
                yield Reply(link.stream, request, None, ready=False, ended=False)

    def _reply(self, link: _Link, answer: FrameResponse) -> Reply:
        asked = link.pending.pop(answer.id)
        frame = None
        if asked.buffer is not None and answer.frame is not None:
            frame = self._hold(link, asked.buffer, answer.generation, answer.frame)
        elif asked.buffer is not None:
            self._buffers.give_back(asked.buffer)
        newest = answer.newest
        return Reply(
            stream=link.stream,
            request=answer.id,
            frame=frame,
            ready=answer.ready,
            ended=answer.ended,
            last_frame_age=answer.newest_age,
            epoch=newest.epoch if newest else None,
            seq=newest.seq if newest else None,
            counts=answer.counts,
        )

    def _hold(self, link: _Link, buffer: str, generation: str, described: FrameDescriptor) -> Frame:
        self._held[link.stream, described.id] = _Held(buffer, generation)
        return Frame(
            stream=link.stream,
            epoch=described.id.epoch,
            seq=described.id.seq,
            captured_at=described.captured_at,
            captured_mono=time.monotonic() - described.age,
            pts=described.pts,
            image=self._buffers.view(buffer, described.width, described.height),
            triggered=described.triggered,
        )
