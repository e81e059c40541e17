"""Answering for a stream's frames: capture's side. Never waits for a consumer."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import zmq

from streamer.bus.frame_buffers import MappedBuffers
from streamer.bus.frame_client import frames_endpoint
from streamer.bus.frame_protocol import (
    MAX_MESSAGE_BYTES,
    MAX_WAIT_S,
    ClientMessage,
    Fetch,
    FrameDescriptor,
    FrameRequest,
    FrameResponse,
    Ping,
    Settle,
    Wait,
    decode_message,
    encode,
)
from streamer.capture.frame_slot import DecodedFrame, FrameSlot
from streamer.core.errors import WireError
from streamer.core.ipc import drain, send_or_drop
from streamer.core.logs import RareLog
from streamer.events.schema import FrameCounts

log = logging.getLogger(__name__)

COUNTED_ROLE = "infer"

_MAX_WAITING = 64
_LOCK_S = 2.0
_DEMAND_S = 20.0
"""How long what somebody asked for counts as needed, at least; a model may take that long for one batch."""
_FRESH_S = 0.07
"""While pictures are left out, an older one is not given: the next key frame is waited for. The newest picture of a
camera of 25 per second may be as old, with 30 ms for the way."""
_FULL_DECODE_S = 20.0
"""For so long no picture is left out, after a key frame has grown old before who waited for it came."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    peer: bytes
    request: Wait
    deadline: float


@dataclass(frozen=True, slots=True)
class _Demand:
    """Seconds between the frames that a consumer wants, and until when that counts."""

    interval: float
    motion: bool
    """It wants to know what happens."""
    until: float


class StreamLock:
    """Makes sure that one process at most captures a stream, and that its epochs only grow.

    The kernel lets go of the lock when the process dies, so who holds it knows that the one before is dead. The file
    keeps the last epoch, for the case that the clock was set back in between.
    """

    def __init__(self, runtime: Path, stream: str) -> None:
        """Raises RuntimeError when another process keeps the stream for more than 2 s."""
        path = runtime / f"frames-{stream}.lock"
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + _LOCK_S
        while not self._lock():
            if time.monotonic() > deadline:
                os.close(self._descriptor)
                raise RuntimeError(f"another process captures {stream}")
            time.sleep(0.02)
        last = os.pread(self._descriptor, 32, 0)
        self._last = int(last) if last.isdigit() else 0

    def next_epoch(self) -> int:
        """Unix milliseconds now, or one more than the last when the clock says less."""
        self._last = max(self._last + 1, int(time.time() * 1000))
        os.pwrite(self._descriptor, b"%d" % self._last, 0)
        return self._last

    def close(self) -> None:
        os.close(self._descriptor)

    def _lock(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


class FrameServer:
    """Answers what consumers ask of one shelf. Not thread-safe."""

    def __init__(self, runtime: Path, stream: str, slot: FrameSlot) -> None:
        self.ended = False
        """Set when the source has given its last frame."""
        self.end_acknowledged = False
        """The inference process knows that it ended."""
        self.last_heard: float | None = None
        """Monotonic second of the inference process's last message."""
        self._invalid_messages = RareLog(log, "invalid frame request %d dropped: %s")
        self._slot = slot
        self._generation = secrets.token_hex(4)
        self._owner: str | None = None
        self._dead_owners: deque[str] = deque(maxlen=64)
        self._waiting: dict[str, _Waiting] = {}
        self._demands: dict[str, _Demand] = {}
        self._notified_ready: set[str] = set()
        self._full_decode_until = 0.0
        self._buffers = MappedBuffers(runtime)
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
        """To poll for reading; then call `handle`."""
        self.socket.set(zmq.LINGER, 500)  # the last answers; a consumer that is gone must not hold the end up
        self.socket.set(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        self.socket.bind(frames_endpoint(runtime, stream))

    def close(self) -> None:
        self.socket.close()
        self._buffers.close()

    @property
    def next_deadline(self) -> float | None:
        """Monotonic second at which the next wait must be answered."""
        return min((waiting.deadline for waiting in self._waiting.values()), default=None)

    def handle(self) -> None:
        """Answer everything that has arrived, and every wait whose frame came or whose time is up."""
        for parts in drain(self.socket):
            try:
                self._request(parts)
            except WireError as error:
                self._invalid_messages.add(error)
        self._reply_to_waits()

    def _request(self, parts: list[bytes]) -> None:
        if len(parts) != 2:
            raise WireError(f"{len(parts)} parts instead of 2")
        peer, request = parts[0], decode_message(parts[1])
        if request.owner in self._dead_owners:
            return  # sent before it was killed
        if self._is_counted(request.owner):
            self._note_owner(request.owner)
        if isinstance(request, Settle):
            self._settle(request)
        elif isinstance(request, Ping):
            self._reply(peer, request, pong=True)
        else:
            self._supersede(request.owner)
            self._note_demand(request)
            if isinstance(request, Fetch):
                self._fetch(peer, request)
            elif len(self._waiting) < _MAX_WAITING:
                self._waiting[request.owner] = _Waiting(peer, request, time.monotonic() + request.timeout)
            else:
                self._reply(peer, request)

    def _is_counted(self, owner: str) -> bool:
        return owner.partition("-")[0] == COUNTED_ROLE

    def _note_owner(self, owner: str) -> None:
        """There is one inference process; a new one means that the old one is dead."""
        self.last_heard = time.monotonic()
        if self._owner not in (None, owner):
            assert self._owner is not None
            log.info("%s took over from %s", owner, self._owner)
            self._dead_owners.append(self._owner)
            self._waiting.pop(self._owner, None)
            self._demands.pop(self._owner, None)
            self._notified_ready.discard(self._owner)
            self._buffers.forget(self._owner)
            self._slot.release_owner(self._owner)
            self.end_acknowledged = False
        self._owner = owner

    def _settle(self, request: Settle) -> None:
        if request.generation != self._generation or not self._is_counted(request.owner):
            return  # a frame of the capture process before this one, or of a view
        if not self._slot.settle(request.frame, request.owner, request.outcome):
            raise WireError("settles a frame that it does not hold")

    def _supersede(self, owner: str) -> None:
        earlier = self._waiting.pop(owner, None)
        if earlier is not None:
            self._reply(earlier.peer, earlier.request)

    def _note_demand(self, request: Fetch | Wait) -> None:
        every = request.request.interval
        watches = bool(request.request.motion_gates)
        self._demands[request.owner] = _Demand(every, watches, time.monotonic() + max(_DEMAND_S, 2 * every))

    def _publish_demand(self) -> None:
        """Tell the decoding thread what is needed and waited for. Before looking for it: else it might be missed."""
        now = time.monotonic()
        self._demands = {owner: need for owner, need in self._demands.items() if need.until > now}
        every = min((need.interval for need in self._demands.values()), default=MAX_WAIT_S)
        self._slot.interval = every if now > self._full_decode_until else 0.0
        self._slot.motion_needed = any(need.motion for need in self._demands.values())
        self._slot.pending_requests = tuple(waiting.request.request for waiting in self._waiting.values())

    def _next_frame(self, owner: str, want: FrameRequest) -> DecodedFrame | None:
        if not self._is_counted(owner):
            return self._slot.peek(want)
        shot = self._slot.next_frame(want)
        if shot is None or not self._slot.keyframes_only or time.monotonic() - shot.captured_mono < _FRESH_S:
            return shot
        return None

    def _fetch(self, peer: bytes, request: Fetch) -> None:
        shot = self._next_frame(request.owner, request.request)
        if shot is None and self._slot.keyframes_only and request.owner in self._notified_ready:
            self._full_decode_until = time.monotonic() + _FULL_DECODE_S
        self._notified_ready.discard(request.owner)
        if shot is None:
            self._reply_without_frame(peer, request)
            return
        picture = shot.picture
        try:
            image = self._buffers.view(request.buffer, request.owner, picture.width, picture.height)
        except OSError as error:
            log.error("no memory for a frame in the runtime directory: %s", error.strerror)
            self._reply(peer, request)
            return
        picture.write_bgr(image)
        if self._is_counted(request.owner):
            self._slot.lend(shot, request.owner)
        described = FrameDescriptor(
            id=shot.id,
            pts=shot.pts,
            captured_at=shot.captured_at,
            age=time.monotonic() - shot.captured_mono,
            width=picture.width,
            height=picture.height,
            triggered=self._slot.triggered(shot, request.request.motion_gates),
        )
        self._reply(peer, request, frame=described)

    def _reply_to_waits(self) -> None:
        self._publish_demand()
        now = time.monotonic()
        for owner, waiting in list(self._waiting.items()):
            if self._next_frame(owner, waiting.request.request) is not None:
                self._reply(waiting.peer, waiting.request, ready=True)
                self._notified_ready.add(owner)
            elif self.ended or now >= waiting.deadline:
                self._reply_without_frame(waiting.peer, waiting.request)
            else:
                continue
            del self._waiting[owner]

    def _reply_without_frame(self, peer: bytes, request: Fetch | Wait) -> None:
        """There is nothing now, or never again."""
        self._reply(peer, request, ended=self.ended)
        if self.ended and request.owner == self._owner:
            self.end_acknowledged = True

    def _reply(
        self,
        peer: bytes,
        request: ClientMessage,
        *,
        ready: bool = False,
        ended: bool = False,
        pong: bool = False,
        frame: FrameDescriptor | None = None,
    ) -> None:
        newest = self._slot.newest
        answer = FrameResponse(
            id=request.id,
            generation=self._generation,
            ready=ready or frame is not None,
            ended=ended,
            pong=pong,
            newest=newest.id if newest else None,
            newest_age=time.monotonic() - newest.captured_mono if newest else None,
            counts=FrameCounts(**self._slot.counts()) if pong else None,
            frame=frame,
        )
        send_or_drop(self.socket, [peer, encode(answer)])
