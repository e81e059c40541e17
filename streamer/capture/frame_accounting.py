"""Counts the outcome of every captured frame of one stream. Pure. This identity holds at any time:

    captured = not_asked + done + dropped (by cause) + in_flight

Only the inference process is counted: frames that views fetch stay `not_asked`.
"""

from __future__ import annotations

from collections import Counter

from streamer.events.schema import FrameCounts
from streamer.types import FrameId, FrameOutcome

WORKER_LOST = "worker_lost"
"""Cause of drop: the inference process died."""
UNDECODABLE = "undecodable"
"""Cause of drop: the frame could not be converted."""


class FrameCount:
    """Each frame is lent at most once and settled at most once, by its owner.

    Exception: a frame whose owner died can be lent again after `reclaim`.
    """

    def __init__(self) -> None:
        self._captured = 0
        self._lent = 0
        self._done = 0
        self._dropped: Counter[str] = Counter()
        self._owners: dict[FrameId, str | None] = {}  # lent and not settled; None: reclaimed
        self._newest: FrameId | None = None

    @property
    def in_flight(self) -> int:
        return len(self._owners)

    def capture(self) -> None:
        """Count a decoded frame."""
        self._captured += 1

    def may_lend(self, frame: FrameId) -> bool:
        """Return True when the frame is newer than all lent ones, or was reclaimed."""
        if frame in self._owners:
            return self._owners[frame] is None
        return self._newest is None or frame > self._newest

    def lend(self, frame: FrameId, owner: str) -> None:
        """Record `owner` as the frame's owner. Raises ValueError when it may not be lent."""
        if not self.may_lend(frame):
            raise ValueError(f"{frame} was lent already")
        if frame not in self._owners:
            self._lent += 1
            self._newest = frame
        self._owners[frame] = owner

    def settle(self, frame: FrameId, owner: str, outcome: FrameOutcome) -> bool:
        """Record the outcome of a lent frame. Return False when `owner` does not have it (any more)."""
        if frame not in self._owners or self._owners[frame] != owner:
            return False
        del self._owners[frame]
        if outcome == "done":
            self._done += 1
        else:
            self._dropped[outcome] += 1
        return True

    def reclaim(self, owner: str) -> None:
        """Make a dead owner's frames lendable again; they stay in flight."""
        self._owners.update(dict.fromkeys(self._owned_by(owner)))

    def reclaimed(self) -> list[FrameId]:
        """Return the frames in flight that have no owner, oldest first."""
        return self._owned_by(None)

    def drop_owner(self, owner: str) -> None:
        """Drop a dead owner's frames."""
        for frame in self._owned_by(owner):
            self.drop(frame)

    def drop(self, frame: FrameId) -> None:
        """Drop a frame in flight whose owner is dead."""
        del self._owners[frame]
        self._dropped[WORKER_LOST] += 1

    def drop_undecodable(self, frame: FrameId) -> None:
        """Drop a frame that nobody holds, because it cannot be converted."""
        if not self.may_lend(frame):
            return  # it was lent before, and is counted by its settlement
        if frame in self._owners:
            del self._owners[frame]
        else:
            self._lent += 1
            self._newest = frame
        self._dropped[UNDECODABLE] += 1

    def drop_all(self) -> None:
        """Drop all frames in flight."""
        for frame in list(self._owners):
            self.drop(frame)

    def counts(self) -> FrameCounts:
        """Return the current terms of the identity."""
        return FrameCounts(
            captured=self._captured,
            not_asked=self._captured - self._lent,
            done=self._done,
            dropped=dict(self._dropped),
            in_flight=self.in_flight,
        )

    def _owned_by(self, owner: str | None) -> list[FrameId]:
        return sorted(frame for frame, current in self._owners.items() if current == owner)
