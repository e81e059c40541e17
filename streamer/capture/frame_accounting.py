"""The books of one stream: what became of every frame that was captured. Pure.

    captured = not_asked + done + dropped (by cause) + in_flight

holds exactly, always. Only the inference process counts; whoever just looks (a view) does not.
"""

from __future__ import annotations

from collections import Counter
from typing import TypedDict

from streamer.types import FrameId, FrameOutcome

WORKER_LOST = "worker_lost"


class Counts(TypedDict):
    captured: int
    not_asked: int
    done: int
    dropped: dict[str, int]
    in_flight: int


class FrameCount:
    """Every frame is given out at most once, and settled at most once by whom it was given to.

    The exception is a frame whose owner died: `release` makes it one that can be given again.
    """

    def __init__(self) -> None:
        self._captured = 0
        self._lent = 0
        self._done = 0
        self._dropped: Counter[str] = Counter()
        self._owners: dict[FrameId, str | None] = {}  # given and not settled; None: released
        self._newest: FrameId | None = None

    @property
    def in_flight(self) -> int:
        return len(self._owners)

    def capture(self) -> None:
        """One more frame was decoded."""
        self._captured += 1

    def may_lend(self, frame: FrameId) -> bool:
        """It is newer than all that were given, or was released."""
        if frame in self._owners:
            return self._owners[frame] is None
        return self._newest is None or frame > self._newest

    def lend(self, frame: FrameId, owner: str) -> None:
        """`owner` has it now. Raises ValueError when it must not be given."""
        if not self.may_lend(frame):
            raise ValueError(f"{frame} was given already")
        if frame not in self._owners:
            self._lent += 1
            self._newest = frame
        self._owners[frame] = owner

    def settle(self, frame: FrameId, owner: str, fate: FrameOutcome) -> bool:
        """What `owner` made of it; False when it is not (or no longer) that owner's to settle."""
        if frame not in self._owners or self._owners[frame] != owner:
            return False
        del self._owners[frame]
        if fate == "done":
            self._done += 1
        else:
            self._dropped[fate] += 1
        return True

    def reclaim(self, owner: str) -> list[FrameId]:
        """The owner died: its unsettled frames, oldest first, stay in flight and can be given to another."""
        frames = self._owned_by(owner)
        self._owners.update(dict.fromkeys(frames, None))
        return frames

    def drop_owner(self, owner: str) -> list[FrameId]:
        """The owner died: its unsettled frames are dropped."""
        frames = self._owned_by(owner)
        for frame in frames:
            self.drop(frame)
        return frames

    def drop(self, frame: FrameId) -> None:
        """Give up a frame that is in flight, its owner being dead."""
        del self._owners[frame]
        self._dropped[WORKER_LOST] += 1

    def drop_all(self) -> None:
        """Give up everything that is in flight: nobody will be heard any more."""
        for frame in list(self._owners):
            self.drop(frame)

    def counts(self) -> Counts:
        """The identity's terms, as they stand in status events."""
        return Counts(
            captured=self._captured,
            not_asked=self._captured - self._lent,
            done=self._done,
            dropped=dict(self._dropped),
            in_flight=self.in_flight,
        )

    def _owned_by(self, owner: str) -> list[FrameId]:
        return sorted(frame for frame, holder in self._owners.items() if holder == owner)
