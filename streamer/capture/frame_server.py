"""Capture's side of the frame transport: answers consumers' requests for the frames of one stream."""

from __future__ import annotations

import logging
import secrets
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import zmq

from streamer.bus.frame_buffers import BufferLost, MappedBuffers
from streamer.bus.frame_client import frames_endpoint
from streamer.bus.frame_protocol import (
    MAX_MESSAGE_BYTES,
    ClientMessage,
    Fetch,
    FrameDescriptor,
    FrameRequest,
    FrameResponse,
    Ping,
    Release,
    Role,
    Settle,
    Wait,
    decode_message,
    encode,
)
from streamer.capture.decode_demand import DecodeDemand
from streamer.capture.encoding import own_encoding
from streamer.capture.frame_slot import DecodedFrame, FrameSlot
from streamer.capture.interfaces import Picture
from streamer.capture.room import Room
from streamer.core.errors import FrameError, SocketLost, WireError
from streamer.core.ipc import Listener, drain, send_or_drop
from streamer.core.logs import RareLog

log = logging.getLogger(__name__)

MAX_LOST_S = 5.0
"""Seconds without a socket after which the process is replaced: the present one may only write in a deleted folder."""
_MAX_PENDING_WAITS = 64
_MAX_KEYFRAME_AGE_S = 0.07
"""While only key frames are decoded, inference gets no older one and waits for the next. The newest frame of a 25 fps
camera may be 40 ms old; 30 ms are for transport."""
_FRESH_ROLES: frozenset[Role] = frozenset({"infer", "remote"})
"""Consumers to which that applies: those with a model, on this host or another one."""


@dataclass(frozen=True, slots=True)
class _PendingWait:
    peer: bytes
    message: Wait
    deadline: float
    """Monotonic second."""


class FrameServer:
    """Answers the requests for one stream from its FrameSlot. Never blocks. Not thread-safe."""

    def __init__(self, runtime: Path, stream: str, slot: FrameSlot) -> None:
        self.ended = False
        """Set by the capture process when the source has delivered its last frame."""
        self.infer_seen: float | None = None
        """Monotonic second of the last message of an inference process."""
        self.end_acknowledged = False
        """The inference process was sent the response that the source has ended."""
        self._infer: str | None = None
        self._dead_infer: deque[str] = deque(maxlen=64)
        self._slot = slot
        self._generation = secrets.token_hex(4)
        self._demand = DecodeDemand()
        self._waits: dict[str, _PendingWait] = {}
        self._buffers = MappedBuffers(runtime)
        self._rooms: dict[Role, Room] = {role: Room(runtime, role) for role in get_args(Role)}
        self._lost_buffers = RareLog(log, "%s not usable: %s %s", noun="frame buffer")
        self._invalid_messages = RareLog(log, "invalid frame request %d dropped: %s")
        self._undecodable = RareLog(log, "undecodable frame %d dropped: %s")
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
        """To poll for reading; then call `handle`."""
        self.socket.set(zmq.LINGER, 500)  # delivers the last responses, without waiting long for a dead consumer
        self.socket.set(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        self._listener = Listener(self.socket, frames_endpoint(runtime, stream))

    def close(self) -> None:
        self.socket.close()
        self._listener.close()
        self._buffers.close()

    @property
    def no_room(self) -> str | None:
        """Reason why inference gets no frames, if the runtime folder is full."""
        return self._rooms["infer"].problem

    @property
    def next_deadline(self) -> float | None:
        """Monotonic second at which the next pending wait times out."""
        return min((wait.deadline for wait in self._waits.values()), default=None)

    def handle(self) -> None:
        """Answer all messages that have arrived, and every wait whose frame exists or whose time is up."""
        self._listener.check()
        if self._listener.lost_for() > MAX_LOST_S:
            raise SocketLost(f"the socket for frames {self._listener.problem}")
        for parts in drain(self.socket):
            try:
                self._on_message(parts)
            except WireError as error:
                self._invalid_messages.add(error)
        self._publish_demand()
        self._answer_waits()

    def _on_message(self, parts: list[bytes]) -> None:
        if len(parts) != 2:
            raise WireError(f"{len(parts)} parts instead of 2")
        peer, message = parts[0], decode_message(parts[1])
        now = time.monotonic()
        if message.owner in self._dead_infer:
            return  # sent before it died
        if message.role == "infer":
            self._on_infer(message.owner, now)
        if isinstance(message, Settle):
            self._settle(message)
        elif isinstance(message, Ping):
            self._respond(peer, message, pong=True, counts=self._slot.counts())
        elif isinstance(message, Release):
            self._forget(message.owner)
            self._infer = self._infer if message.role != "infer" else None
            self._respond(peer, message, pong=True)
        else:
            self._replace_wait(message.owner)
            self._demand.add(message.owner, message.request, now)
            if isinstance(message, Fetch):
                self._fetch(peer, message)
            elif len(self._waits) < _MAX_PENDING_WAITS:
                self._waits[message.owner] = _PendingWait(peer, message, now + message.timeout)
            else:
                self._respond(peer, message)

    def _on_infer(self, owner: str, now: float) -> None:
        """Release everything that the inference process before `owner` held or waited for.

        Only one serves the stream at a time: one that has not released it is dead when a message has a new id.
        """
        self.infer_seen = now
        dead, self._infer = self._infer, owner
        if dead is None or dead == owner:
            return
        log.info("inference process %s replaced by %s", dead, owner)
        self._dead_infer.append(dead)
        self._forget(dead)

    def _forget(self, owner: str) -> None:
        """Release everything that an inference process held or waited for."""
        self.end_acknowledged = False
        self._waits.pop(owner, None)
        self._demand.remove(owner)
        self._buffers.unmap_owner(owner)
        self._slot.release_owner(owner)

    def _settle(self, message: Settle) -> None:
        if message.generation != self._generation or message.role != "infer":
            return  # the frame is of an earlier capture process, or not counted
        if not self._slot.settle(message.frame, message.owner, message.outcome):
            raise WireError(f"{message.owner} settles a frame that it does not hold")

    def _replace_wait(self, owner: str) -> None:
        earlier = self._waits.pop(owner, None)
        if earlier is not None:
            self._respond(earlier.peer, earlier.message)

    def _publish_demand(self) -> None:
        """Set the demand in the slot. Precedes `_answer_waits`: a frame stored in between must wake this thread."""
        now = time.monotonic()
        self._demand.expire(now)
        for owner, wait in self._waits.items():
            self._demand.on_wait(owner, wait.message.request, now)
        self._slot.interval = self._demand.interval(now)
        self._slot.set_needed_at(self._demand.next_need(now))
        self._slot.motion_needed = self._demand.motion
        self._slot.pending_requests = tuple(wait.message.request for wait in self._waits.values())

    def _answer_waits(self) -> None:
        now = time.monotonic()
        for owner, wait in list(self._waits.items()):
            if self._find(wait.message.role, wait.message.request) is not None:
                self._respond(wait.peer, wait.message, ready=True)
                self._demand.on_ready(owner)
            elif self.ended or now >= wait.deadline:
                self._respond_without_frame(wait.peer, wait.message)
            else:
                continue
            del self._waits[owner]

    def _find(self, role: Role, request: FrameRequest) -> DecodedFrame | None:
        if not self._rooms[role].may_store(time.monotonic()):
            return None
        frame = self._slot.next_frame(request) if role == "infer" else self._slot.peek(request)
        if frame is None or not self._slot.keyframes_only or role not in _FRESH_ROLES:
            return frame
        return frame if time.monotonic() - frame.captured_mono < _MAX_KEYFRAME_AGE_S else None

    def _fetch(self, peer: bytes, message: Fetch) -> None:
        frame = self._find(message.role, message.request)
        self._demand.on_fetch(message, frame is None and self._slot.keyframes_only, time.monotonic())
        if frame is None:
            self._respond_without_frame(peer, message)
            return
        picture, room = frame.picture, self._rooms[message.role]
        try:
            encoded_bytes = _store(picture, message, self._buffers)
        except BufferLost as error:
            self._lost_buffers.add(message.buffer, error)
            self._respond(peer, message, buffer_lost=True)
            return
        except FrameError as error:
            self._undecodable.add(error)
            self._slot.drop_undecodable(frame)
            self._respond_without_frame(peer, message)
            return
        except OSError as error:
            room.on_failure(time.monotonic(), error, picture.width, picture.height)
            self._respond(peer, message)
            return
        room.on_success(time.monotonic())
        if message.role == "infer":
            self._slot.lend(frame, message.owner)
        descriptor = FrameDescriptor(
            id=frame.id,
            pts=frame.pts,
            captured_at=frame.captured_at,
            age=time.monotonic() - frame.captured_mono,
            width=picture.width,
            height=picture.height,
            triggered=self._slot.triggered(frame, message.request.motion_gates),
            encoded_bytes=encoded_bytes,
        )
        self._respond(peer, message, ready=True, frame=descriptor)

    def _respond_without_frame(self, peer: bytes, message: Fetch | Wait) -> None:
        """Respond that no frame matches now or, when the source has ended, that none ever will."""
        self._respond(peer, message, ended=self.ended)
        if self.ended and message.owner == self._infer:
            self.end_acknowledged = True

    def _respond(self, peer: bytes, message: ClientMessage, **fields: Any) -> None:
        """Send a FrameResponse with these fields and the newest frame."""
        newest = self._slot.newest
        response = FrameResponse(
            id=message.id,
            generation=self._generation,
            newest=newest.id if newest else None,
            newest_age=time.monotonic() - newest.captured_mono if newest else None,
            **fields,
        )
        send_or_drop(self.socket, [peer, encode(response)])


def _store(picture: Picture, message: Fetch, buffers: MappedBuffers) -> int | None:
    """Write a picture into the buffer of a Fetch. Return its bytes if it is encoded.

    Raises FrameError, and the errors of `MappedBuffers.view`.
    """
    data = None if message.encoding is None else own_encoding(picture, message.encoding.quality)
    if data is None:
        picture.write_bgr(buffers.view(message.buffer, message.owner, picture.width, picture.height))
        return None
    buffer = buffers.view(message.buffer, message.owner, -(-len(data) // 3), 1)
    buffer.reshape(-1)[: len(data)] = np.frombuffer(data, np.uint8)
    return len(data)
