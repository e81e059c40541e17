"""Where the thread that decodes leaves frames for the thread that answers; also keeps the stream's books.

A frame lies here as it was decoded: it becomes BGR only when somebody fetches it.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from streamer.bus.frame_protocol import MAX_WAIT_S, FrameRequest, MotionGate
from streamer.capture.frame_accounting import Counts, FrameCount
from streamer.capture.motion_gate import SceneState
from streamer.types import FrameId, FrameOutcome, Picture

MAX_IN_FLIGHT = 64
"""Frames that a consumer may hold. No honest one has as many buffers."""


@dataclass(frozen=True, slots=True)
class DecodedFrame:
    """A decoded picture with its stamps. Times as in Frame."""

    id: FrameId
    captured_at: float
    captured_mono: float
    pts: float | None
    picture: Picture
    scene: SceneState | None = None
    """What happened up to it, while somebody wants to know."""


class FrameSlot(ABC):
    """One stream's frames. `put` is called by the decoding thread, everything else by the answering one."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """`wake` is called by the decoding thread whenever there is something new to answer with."""
        self._wake = wake
        self._changed = threading.Condition()
        self._count = FrameCount()
        self._epoch: int | None = None
        self._newest: DecodedFrame | None = None
        self.motion_needed = False
        """Somebody wants to know what happens; for the decoding thread."""
        self._scenes: OrderedDict[FrameId, SceneState] = OrderedDict()
        self.interval = MAX_WAIT_S
        """Seconds between frames that somebody may want, 0 for all; for the decoding thread."""
        self.keyframes_only = False
        """The decoding thread leaves pictures out because of that."""
        self.pending_requests: tuple[FrameRequest, ...] = ()
        """What somebody waits for: the answering thread is woken for nothing else."""

    @property
    def newest(self) -> DecodedFrame | None:
        """The frame that was decoded last."""
        with self._changed:
            return self._newest

    @property
    def in_flight(self) -> int:
        with self._changed:
            return self._count.in_flight

    def counts(self) -> Counts:
        with self._changed:
            return self._count.counts()

    def set_epoch(self, epoch: int | None) -> None:
        """From now on take frames of this connection only; None: of none. Whoever puts another is told so."""
        with self._changed:
            self._epoch = epoch
            self._changed.notify_all()

    def put(self, shot: DecodedFrame) -> bool:
        """Leave a frame. False: this connection is over, stop reading."""
        with self._changed:
            if shot.id.epoch != self._epoch:
                return False
            self._count.capture()
            self._newest = shot
            self._store(shot)
            return shot.id.epoch == self._epoch

    @abstractmethod
    def _store(self, shot: DecodedFrame) -> None:
        """Keep it. Called with the lock held."""

    @abstractmethod
    def next_frame(self, want: FrameRequest) -> DecodedFrame | None:
        """What the inference process would be given for `want`."""

    @abstractmethod
    def peek(self, want: FrameRequest) -> DecodedFrame | None:
        """What a view would be given for `want`. Changes nothing."""

    def lend(self, shot: DecodedFrame, owner: str) -> None:
        """`owner` got the frame that `find` returned."""
        with self._changed:
            self._count.lend(shot.id, owner)
            if shot.scene is not None:
                self._scenes[shot.id] = shot.scene
                while len(self._scenes) > MAX_IN_FLIGHT:
                    self._scenes.popitem(last=False)
            self._on_lent(shot)

    def triggered(self, shot: DecodedFrame, gates: Iterable[MotionGate]) -> frozenset[str]:
        """The tasks for which something has happened; what is not known counts as that it has."""
        with self._changed:
            return frozenset(gate.task for gate in gates if self._is_triggered(shot, gate))

    def _is_triggered(self, shot: DecodedFrame, gate: MotionGate) -> bool:
        since, scene = gate.since, shot.scene
        if since is None or scene is None or since.epoch != shot.id.epoch or gate.area not in scene.counted:
            return True
        if gate.when == "motion":
            return scene.moved.get(gate.area, -1) > since.seq
        earlier = self._scenes.get(since)
        return earlier is None or scene.differs(earlier, gate.area)

    def _wanted(self, shot: DecodedFrame, want: FrameRequest) -> bool:
        """Called with the lock held."""
        if want.max_age is not None and time.monotonic() - shot.captured_mono > want.max_age:
            return False
        happened = want.on_trigger and any(self._is_triggered(shot, gate) for gate in want.motion_gates)
        return want.matches(shot.id, shot.pts, happened)

    @abstractmethod
    def _on_lent(self, shot: DecodedFrame) -> None:
        """It was given. Called with the lock held."""

    def settle(self, frame: FrameId, owner: str, fate: FrameOutcome) -> bool:
        """False when the frame is not that owner's."""
        with self._changed:
            settled = self._count.settle(frame, owner, fate)
            if settled:
                self._on_settled(frame)
            return settled

    @abstractmethod
    def _on_settled(self, frame: FrameId) -> None:
        """Its owner is done with it. Called with the lock held."""

    @abstractmethod
    def release_owner(self, owner: str) -> None:
        """The inference process with this id died."""

    def drop_in_flight(self) -> None:
        """Count everything in flight as lost: nobody will be heard any more."""
        with self._changed:
            self._count.drop_all()


class LatestFrameSlot(FrameSlot):
    """Keeps the newest frame of the connection. Never holds the decoding thread up."""

    def _store(self, shot: DecodedFrame) -> None:
        if any(self._wanted(shot, want) for want in self.pending_requests):
            self._wake()

    def next_frame(self, want: FrameRequest) -> DecodedFrame | None:
        with self._changed:
            shot = self._fresh(want)
            if shot is None or not self._count.may_lend(shot.id):
                return None
            return shot if self._count.in_flight < MAX_IN_FLIGHT else None

    def peek(self, want: FrameRequest) -> DecodedFrame | None:
        with self._changed:
            return self._fresh(want)

    def _fresh(self, want: FrameRequest) -> DecodedFrame | None:
        shot = self._newest
        return shot if shot is not None and shot.id.epoch == self._epoch and self._wanted(shot, want) else None

    def _on_lent(self, shot: DecodedFrame) -> None:
        """The newest stays for views."""

    def _on_settled(self, frame: FrameId) -> None:
        """Nothing more is kept of it."""

    def release_owner(self, owner: str) -> None:
        """A live picture that is old by now is of no use to the next one."""
        with self._changed:
            self._count.drop_owner(owner)


class BlockingFrameSlot(FrameSlot):
    """Holds one frame, and the decoding thread with it, until it was fetched or the consumer wants a later one.

    Frames that were fetched are kept until they are settled, to be given again when who fetched them died.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        super().__init__(wake)
        self._held: DecodedFrame | None = None
        self._request: FrameRequest | None = None
        self._lent: dict[FrameId, DecodedFrame] = {}
        self._reclaimed: list[DecodedFrame] = []

    def _store(self, shot: DecodedFrame) -> None:
        if self._request is not None and not self._wanted(shot, self._request):
            return  # nobody wants it: read on
        self._held = shot
        self._wake()
        self._changed.wait_for(lambda: self._held is not shot or self._epoch != shot.id.epoch)
        if self._held is shot:
            self._held = None

    def next_frame(self, want: FrameRequest) -> DecodedFrame | None:
        """The first wanted frame. What is not wanted is passed over, for good."""
        with self._changed:
            self._request = want
            while self._reclaimed and not self._wanted(self._reclaimed[0], want):
                self._drop(self._reclaimed.pop(0))
            if self._reclaimed:
                return self._reclaimed[0]
            if self._held is not None and not self._wanted(self._held, want):
                self._release()
            return self._held if self._count.in_flight < MAX_IN_FLIGHT else None

    def peek(self, want: FrameRequest) -> DecodedFrame | None:
        with self._changed:
            return self._held if self._held is not None and self._wanted(self._held, want) else None

    def _on_lent(self, shot: DecodedFrame) -> None:
        self._request = None
        self._lent[shot.id] = shot
        if self._reclaimed and self._reclaimed[0] is shot:
            self._reclaimed.pop(0)
        elif self._held is shot:
            self._release()

    def _on_settled(self, frame: FrameId) -> None:
        self._lent.pop(frame, None)

    def release_owner(self, owner: str) -> None:
        with self._changed:
            self._request = None
            again = {shot.id: shot for shot in self._reclaimed}
            again.update({frame: self._lent[frame] for frame in self._count.reclaim(owner)})
            self._reclaimed = [again[frame] for frame in sorted(again)]

    def _drop(self, shot: DecodedFrame) -> None:
        self._lent.pop(shot.id, None)
        self._count.drop(shot.id)

    def _release(self) -> None:
        self._held = None
        self._changed.notify_all()
