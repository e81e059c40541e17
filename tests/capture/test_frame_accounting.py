"""The accounting identity holds after any sequence of operations."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from streamer.capture.frame_accounting import FrameCount
from streamer.types import FrameId, FrameOutcome
from tests.support.agents import assert_identity

OUTCOMES: tuple[FrameOutcome, ...] = ("done", "stale", "error", "stopped")


class Accounting(RuleBasedStateMachine):
    """A capture, successive inference processes that die, and the expected state of each frame."""

    def __init__(self) -> None:
        super().__init__()
        self.count = FrameCount()
        self.frames: list[FrameId] = []
        self.states: dict[FrameId, str] = {}  # "in flight", an outcome or "worker_lost"
        self.owners: dict[FrameId, str | None] = {}
        self.generation = 0
        self.epoch = 1

    @property
    def name(self) -> str:
        return f"infer-1-{self.generation:08x}"

    @rule(number=st.integers(1, 4))
    def capture(self, number: int) -> None:
        for _ in range(number):
            self.frames.append(FrameId(self.epoch, len(self.frames)))
            self.count.capture()

    @rule()
    def reconnect(self) -> None:
        self.epoch += 1

    @rule(data=st.data())
    def lend(self, data: st.DataObject) -> None:
        if not self.frames:
            return
        frame = data.draw(st.sampled_from(self.frames))
        newest = max(self.states, default=None)
        allowed = self.owners.get(frame, "") is None or newest is None or frame > newest
        assert self.count.may_lend(frame) == allowed
        if not allowed:
            with pytest.raises(ValueError, match="lent already"):
                self.count.lend(frame, self.name)
            return
        self.count.lend(frame, self.name)
        self.states[frame], self.owners[frame] = "in flight", self.name

    @rule(data=st.data(), outcome=st.sampled_from(OUTCOMES), mine=st.booleans())
    def settle(self, data: st.DataObject, outcome: FrameOutcome, mine: bool) -> None:
        if not self.frames:
            return
        frame = data.draw(st.sampled_from(self.frames))
        owner = self.name if mine else "infer-9-ffffffff"
        expected = self.owners.get(frame) == owner
        assert self.count.settle(frame, owner, outcome) == expected
        if expected:
            self.states[frame] = outcome
            del self.owners[frame]

    @rule(reclaim=st.booleans())
    def kill(self, reclaim: bool) -> None:
        mine = sorted(frame for frame, owner in self.owners.items() if owner == self.name)
        (self.count.reclaim if reclaim else self.count.drop_owner)(self.name)
        for frame in mine:
            if reclaim:
                self.owners[frame] = None
            else:
                self.states[frame] = "worker_lost"
                del self.owners[frame]
        self.generation += 1

    @rule()
    def drop_all(self) -> None:
        self.count.drop_all()
        self.states.update(dict.fromkeys(self.owners, "worker_lost"))
        self.owners.clear()

    @invariant()
    def balance(self) -> None:
        counts = self.count.counts()
        assert_identity(counts.model_dump())
        assert self.count.reclaimed() == sorted(frame for frame, owner in self.owners.items() if owner is None)
        states = list(self.states.values())
        assert counts.captured == len(self.frames)
        assert counts.not_asked == len(self.frames) - len(states)
        assert counts.done == states.count("done")
        assert counts.in_flight == self.count.in_flight == states.count("in flight")
        assert counts.dropped == {state: states.count(state) for state in set(states) - {"done", "in flight"}}


Accounting.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAccounting = Accounting.TestCase
