"""Greedy search for the quality `fast`: many answers side by side, each with a draft where one is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from pipelines.florence2.fast.decode_batch import DecodeBatch, RowState
from pipelines.florence2.fast.scheduler import EngineJob
from pipelines.florence2.fast.speculative import Draft, DraftStore
from pipelines.florence2.processor import Generation

DRAFT_TOKENS = 128
"""Draft tokens that are checked in one pass, over all rows; a larger pass takes longer than it saves."""


@dataclass(slots=True, eq=False)
class _Row:
    """The job of one row of the batch."""

    job: EngineJob
    draft: Draft | None
    length: int
    """Tokens of the answer so far, the forced start tokens included."""
    proposed: int = 0
    """Draft tokens in the current pass."""
    done: bool = False

    def propose(self, rows: int) -> Sequence[int]:
        """Return the draft tokens for the next pass over `rows` rows."""
        # The pass also computes the token behind the draft, so one place stays free.
        limit = min(self.job.max_tokens - self.length, DRAFT_TOKENS // rows - 1)
        proposal = self.draft.propose(limit) if self.draft else ()
        self.proposed = len(proposal)
        return proposal

    def update(self, state: RowState) -> None:
        if self.draft and state.length > self.length:
            self.draft.record(self.proposed, state.length - self.length - 1, state.last)
        self.length, self.done = state.length, state.done


class GreedySearch:
    """Rows of a DecodeBatch with the jobs they answer."""

    def __init__(
        self, batch: DecodeBatch, start: int, tokens_per_step: int, locations: range, use_drafts: bool
    ) -> None:
        """`start` is the number of forced start tokens of an answer, `locations` are the ids of location tokens."""
        self.batch = batch
        self.drafts = DraftStore(locations)
        self._start, self._tokens_per_step, self._use_drafts = start, tokens_per_step, use_drafts
        self._rows: list[_Row] = []
        """Entries in the order of the batch's rows."""

    @property
    def jobs(self) -> list[EngineJob]:
        return [row.job for row in self._rows]

    def add(self, jobs: Sequence[EngineJob], states: Tensor, lengths: Sequence[int]) -> None:
        """Start the answers of some jobs; `states` (rows, positions, width) with `lengths` are the encoder's output."""
        rows = [_Row(job, self.drafts.draft(job.key) if self._use_drafts else None, self._start) for job in jobs]
        self.batch.add(states, lengths, [job.max_tokens for job in jobs], [row.propose(len(rows)) for row in rows])
        self._rows += rows

    def update_drafts(self) -> None:
        """Record how much of the first draft tokens was accepted. Waits for the device when there are drafts."""
        if any(row.draft for row in self._rows):
            self._update()

    def step(self) -> None:
        """Generate tokens in every row: `tokens_per_step`, or one pass with drafts. Waits for the device."""
        if all(row.done for row in self._rows):
            return  # with a right draft, the first pass was the whole answer
        if any(row.draft for row in self._rows):
            self.batch.step([row.propose(len(self._rows)) for row in self._rows])
        else:
            for _ in range(self._tokens_per_step):
                self.batch.step()
        self._update()

    def pop_finished(self) -> Iterator[tuple[EngineJob, Generation, Draft | None]]:
        """Remove finished rows and return their jobs, tokens and drafts."""
        # Backwards: `remove` moves the last row into the freed place, and that row was checked before.
        for index in reversed(range(len(self._rows))):
            row = self._rows[index]
            if row.done:
                generation = self.batch.generation(index)
                self.batch.remove(index)
                self._rows[index] = self._rows[-1]
                self._rows.pop()
                yield row.job, generation, row.draft

    def store(self, job: EngineJob, generation: Generation, draft: Draft | None) -> None:
        """Keep a complete answer as the draft of the next one."""
        if self._use_drafts:
            self.drafts.store(job.key, generation.tokens[self._start : -1], draft)

    def clear(self) -> None:
        """Remove all rows, after a failure."""
        self._rows, self.batch.active = [], 0

    def _update(self) -> None:
        for row, state in zip(self._rows, self.batch.read_states(), strict=True):
            row.update(state)
