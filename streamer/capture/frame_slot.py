"""Hands decoded frames from the decoding thread to the serving thread, and keeps the stream's frame accounting.

A frame is stored as it was decoded. It is converted to BGR when a consumer fetches it.
"""

from __future__ import annotations

import math
import threading
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from streamer.bus.frame_protocol import MAX_WAIT_S, FrameRequest, MotionGate
from streamer.capture.frame_accounting import FrameCount
from streamer.capture.interfaces import Picture
from streamer.capture.motion_gate import SceneState
from streamer.events.schema import FrameCounts
from streamer.types import FrameId, FrameOutcome

MAX_IN_FLIGHT = 64
"""Most frames lent at a time. More than any inference process has buffers."""


@dataclass(frozen=True, slots=True)
class DecodedFrame:
    """A decoded picture with its times, as in `types.Frame`."""

    id: FrameId
    captured_at: float
    captured_mono: float
    pts: float | None
    picture: Picture
    scene: SceneState | None = None
    """Motion detector's state after this frame. None: motion was not needed."""


class FrameSlot(ABC):
    """Frames of one stream. The decoding thread calls `put`, the serving thread everything else.

    The serving thread sets `interval`, `motion_needed` and `pending_requests`; the decoding thread sets
    `keyframes_only` and `wake_source`.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        """`wake` is called by the decoding thread when a stored frame matches a pending request."""
        self.interval = MAX_WAIT_S
        """Seconds between the frames that consumers need; 0: every frame."""
        self.needed_at = math.inf
        """Monotonic second at which a consumer needs the next frame; -inf: all are needed, inf: none."""
        self.motion_needed = False
        """A consumer needs motion detection."""
        self.pending_requests: tuple[FrameRequest, ...] = ()
        """Requests of the waits that are not answered yet."""
        self.keyframes_only = False
        """Only key frames are decoded, because `interval` allows it."""
        self.wake_source: Callable[[], None] | None = None
        """Makes the decoding thread look at `needed_at`. None: its source gets all frames."""
        self.newest: DecodedFrame | None = None
        """The frame decoded last, of any epoch."""
        self._wake = wake
        self._changed = threading.Condition()  # reentrant
        self._count = FrameCount()
        self._epoch: int | None = None
        self._scenes: OrderedDict[FrameId, SceneState] = OrderedDict()

    def set_needed_at(self, needed_at: float) -> None:
        """Set when a consumer needs the next frame."""
        if needed_at != self.needed_at:
            self.needed_at = needed_at
            if (wake_source := self.wake_source) is not None:
                wake_source()

    @property
    def in_flight(self) -> int:
        """Number of frames that are lent and not settled."""
        with self._changed:
            return self._count.in_flight

    def counts(self) -> FrameCounts:
        """Return the frame accounting."""
        with self._changed:
            return self._count.counts()

    def set_epoch(self, epoch: int | None) -> None:
        """Accept frames of this epoch only; None: accept none. `put` returns False for any other."""
        with self._changed:
            self._epoch = epoch
            self._changed.notify_all()

    def put(self, frame: DecodedFrame) -> bool:
        """Store a frame. Return False when its epoch is over: the connection must stop reading."""
        with self._changed:
            if frame.id.epoch != self._epoch:
                return False
            self._count.capture()
            self.newest = frame
            self._store(frame)
            return frame.id.epoch == self._epoch

    @abstractmethod
    def _store(self, frame: DecodedFrame) -> None:
        """Make the frame available. Called with the lock held."""

    @abstractmethod
    def next_frame(self, request: FrameRequest) -> DecodedFrame | None:
        """Return the frame that inference may borrow for `request`, or None."""

    @abstractmethod
    def peek(self, request: FrameRequest) -> DecodedFrame | None:
        """Return the frame for a consumer whose frames are not counted, or None. Changes nothing."""

    def lend(self, frame: DecodedFrame, owner: str) -> None:
        """Record that `owner` has the frame that `next_frame` returned."""
        with self._changed:
            self._count.lend(frame.id, owner)
            if frame.scene is not None:
                self._scenes[frame.id] = frame.scene
                while len(self._scenes) > MAX_IN_FLIGHT:
                    self._scenes.popitem(last=False)

    def drop_undecodable(self, frame: DecodedFrame) -> None:
        """Give the frame, which cannot be converted, to no consumer any more."""
        with self._changed:
            self._count.drop_undecodable(frame.id)
            self._discard(frame)

    def discard_newest(self) -> None:
        """Give the newest frame, which is old, to no consumer any more."""
        with self._changed:
            if self.newest is not None:
                self._discard(self.newest)

    @abstractmethod
    def _discard(self, frame: DecodedFrame) -> None:
        """Make the frame unavailable. Called with the lock held."""

    def triggered(self, frame: DecodedFrame, gates: Iterable[MotionGate]) -> frozenset[str]:
        """Return the names of the tasks whose gate is open. A gate that cannot be evaluated is open."""
        with self._changed:
            return frozenset(gate.task for gate in gates if self._is_triggered(frame, gate))

    def _is_triggered(self, frame: DecodedFrame, gate: MotionGate) -> bool:
        since, scene = gate.since, frame.scene
        if since is None or scene is None or since.epoch != frame.id.epoch or gate.area not in scene.masks:
            return True
        if gate.when == "motion":
            return scene.moved.get(gate.area, -1) > since.seq
        earlier = self._scenes.get(since)
        return earlier is None or scene.differs(earlier, gate.area)

    def _matches(self, frame: DecodedFrame, request: FrameRequest) -> bool:
        """Called with the lock held."""
        if request.max_age is not None and time.monotonic() - frame.captured_mono > request.max_age:
            return False
        triggered = request.on_trigger and any(self._is_triggered(frame, gate) for gate in request.motion_gates)
        return request.matches(frame.id, frame.pts, triggered)

    def settle(self, frame: FrameId, owner: str, outcome: FrameOutcome) -> bool:
        """Record the outcome of a lent frame. Return False when `owner` does not have it."""
        with self._changed:
            return self._count.settle(frame, owner, outcome)

    @abstractmethod
    def release_owner(self, owner: str) -> None:
        """Release the frames of a dead inference process."""

    def drop_in_flight(self) -> None:
        """Count all lent frames as lost, when no settlement can arrive any more."""
        with self._changed:
            self._count.drop_all()


class LatestFrameSlot(FrameSlot):
    """Live pace: keeps the newest frame only. `put` never blocks."""

    def __init__(self, wake: Callable[[], None]) -> None:
        super().__init__(wake)
        self._discarded: FrameId | None = None

    def _discard(self, frame: DecodedFrame) -> None:
        self._discarded = frame.id

    def _store(self, frame: DecodedFrame) -> None:
        if any(self._matches(frame, request) for request in self.pending_requests):
            self._wake()

    def next_frame(self, request: FrameRequest) -> DecodedFrame | None:
        with self._changed:
            frame = self.peek(request)
            if frame is None or not self._count.may_lend(frame.id):
                return None
            return frame if self._count.in_flight < MAX_IN_FLIGHT else None

    def peek(self, request: FrameRequest) -> DecodedFrame | None:
        with self._changed:
            frame = self.newest
            if frame is None or frame.id.epoch != self._epoch or frame.id == self._discarded:
                return None
            return frame if self._matches(frame, request) else None

    def release_owner(self, owner: str) -> None:
        """Drop the owner's frames: they are too old for its successor."""
        with self._changed:
            self._count.drop_owner(owner)


class BlockingFrameSlot(FrameSlot):
    """File pace: `put` blocks until its frame was fetched or the inference process requests a later one.

    Lent frames are kept until they are settled. If their owner dies they are lent again, to its successor.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        super().__init__(wake)
        self._held: DecodedFrame | None = None
        self._request: FrameRequest | None = None
        self._lent: dict[FrameId, DecodedFrame] = {}

    def _store(self, frame: DecodedFrame) -> None:
        if self._request is not None and not self._matches(frame, self._request):
            return
        self._held = frame
        self._wake()
        # Releases the lock until the frame is fetched or skipped, or its epoch has ended.
        self._changed.wait_for(lambda: self._held is not frame or self._epoch != frame.id.epoch)
        if self._held is frame:
            self._held = None

    def next_frame(self, request: FrameRequest) -> DecodedFrame | None:
        """Return the first frame that matches. Frames before it are skipped for good."""
        with self._changed:
            self._request = request
            for frame_id in self._count.reclaimed():
                if self._matches(self._lent[frame_id], request):
                    return self._lent[frame_id]
                del self._lent[frame_id]
                self._count.drop(frame_id)
            if self._held is not None and not self._matches(self._held, request):
                self._release_held()
            return self._held if self._count.in_flight < MAX_IN_FLIGHT else None

    def peek(self, request: FrameRequest) -> DecodedFrame | None:
        with self._changed:
            return self._held if self._held is not None and self._matches(self._held, request) else None

    def lend(self, frame: DecodedFrame, owner: str) -> None:
        with self._changed:
            super().lend(frame, owner)
            self._request = None
            self._lent[frame.id] = frame
            if self._held is frame:
                self._release_held()

    def settle(self, frame: FrameId, owner: str, outcome: FrameOutcome) -> bool:
        with self._changed:
            settled = super().settle(frame, owner, outcome)
            if settled:
                del self._lent[frame]
            return settled

    def _discard(self, frame: DecodedFrame) -> None:
        self._lent.pop(frame.id, None)
        if self._held is frame:
            self._release_held()

    def release_owner(self, owner: str) -> None:
        """Make the owner's frames available again, oldest first."""
        with self._changed:
            self._request = None
            self._count.reclaim(owner)

    def _release_held(self) -> None:
        self._held = None
        self._changed.notify_all()
