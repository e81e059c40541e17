"""The books of a stream balance whatever happens."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from streamer.capture.frame_accounting import FrameCount
from streamer.types import FrameId, FrameOutcome
from tests.support.agents import assert_identity

FATES: tuple[FrameOutcome, ...] = ("done", "stale", "error", "stopped")


class Books(RuleBasedStateMachine):
    """Capture, a row of inference processes that die, and a plain list of what happened to each frame."""

    def __init__(self) -> None:
        super().__init__()
        self.count = FrameCount()
        self.frames: list[FrameId] = []
        self.fate: dict[FrameId, str] = {}  # "out" or a fate
        self.holder: dict[FrameId, str | None] = {}
        self.owner = 0
        self.epoch = 1

    @property
    def name(self) -> str:
        return f"infer-1-{self.owner:08x}"

    @rule(number=st.integers(1, 4))
    def capture(self, number: int) -> None:
        for _ in range(number):
            self.frames.append(FrameId(self.epoch, len(self.frames)))
            self.count.capture()

    @rule()
    def reconnect(self) -> None:
        self.epoch += 1

    @rule(data=st.data())
    def give(self, data: st.DataObject) -> None:
        if not self.frames:
            return
        frame = data.draw(st.sampled_from(self.frames))
        newest = max(self.fate, default=None)
        allowed = self.holder.get(frame, "") is None or newest is None or frame > newest
        assert self.count.may_lend(frame) == allowed
        if not allowed:
            with pytest.raises(ValueError, match="lent already"):
                self.count.lend(frame, self.name)
            return
        self.count.lend(frame, self.name)
        self.fate[frame], self.holder[frame] = "out", self.name

    @rule(data=st.data(), fate=st.sampled_from(FATES), mine=st.booleans())
    def settle(self, data: st.DataObject, fate: FrameOutcome, mine: bool) -> None:
        if not self.frames:
            return
        frame = data.draw(st.sampled_from(self.frames))
        who = self.name if mine else "infer-9-ffffffff"
        expected = self.holder.get(frame) == who
        assert self.count.settle(frame, who, fate) == expected
        if expected:
            self.fate[frame] = fate
            del self.holder[frame]

    @rule(again=st.booleans())
    def kill(self, again: bool) -> None:
        mine = sorted(frame for frame, holder in self.holder.items() if holder == self.name)
        assert (self.count.reclaim if again else self.count.drop_owner)(self.name) == mine
        for frame in mine:
            if again:
                self.holder[frame] = None
            else:
                self.fate[frame] = "worker_lost"
                del self.holder[frame]
        self.owner += 1

    @rule()
    def give_up(self) -> None:
        self.count.drop_all()
        self.fate.update(dict.fromkeys(self.holder, "worker_lost"))
        self.holder.clear()

    @invariant()
    def balance(self) -> None:
        counts = self.count.counts()
        assert_identity(dict(counts))
        fates = list(self.fate.values())
        assert counts["captured"] == len(self.frames)
        assert counts["not_asked"] == len(self.frames) - len(fates)
        assert counts["done"] == fates.count("done")
        assert counts["in_flight"] == self.count.in_flight == fates.count("out")
        assert counts["dropped"] == {fate: fates.count(fate) for fate in set(fates) - {"done", "out"}}


Books.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestBooks = Books.TestCase
