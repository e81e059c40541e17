"""Greedy search for the quality `fast`: many answers side by side, each with a draft where one is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from pipelines.florence2.fast.buckets import DRAFT_TOKENS
from pipelines.florence2.fast.decode_batch import DecodeBatch
from pipelines.florence2.fast.scheduler import EngineJob
from pipelines.florence2.fast.snapshot import RowState, Snapshot
from pipelines.florence2.fast.speculative import Draft, DraftStore
from pipelines.florence2.processor import Generation


@dataclass(slots=True, eq=False)
class _Row:
    """The job of one row of the batch."""

    job: EngineJob
    draft: Draft | None
    length: int
    """Tokens of the answer so far, the forced start tokens included."""
    proposed: int = 0
    """Draft tokens in the current pass."""
    starting: int = 0
    """Passes until its forced start is complete."""
    generation: Generation | None = None
    """All tokens, once the answer has ended."""

    def propose(self, rows: int) -> Sequence[int]:
        """Return the draft tokens for the next pass over `rows` rows."""
        if self.starting:
            self.starting, self.proposed = self.starting - 1, 0
            return ()
        # The pass also computes the token behind the draft, so one place stays free.
        limit = min(self.job.max_tokens - self.length, DRAFT_TOKENS // rows - 1)
        proposal = self.draft.propose(limit) if self.draft else ()
        self.proposed = len(proposal)
        return proposal

    def update(self, state: RowState) -> None:
        if self.draft and state.length > self.length:
            self.draft.record(self.proposed, state.length - self.length - 1, state.last, state.guesses)
        self.length = state.length


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
        self._unread: tuple[Snapshot, list[_Row]] | None = None
        """A snapshot on its way to the host, and the rows in it."""

    @property
    def jobs(self) -> list[EngineJob]:
        return [row.job for row in self._rows]

    def add(self, jobs: Sequence[EngineJob], states: Tensor, lengths: Sequence[int]) -> None:
        """Start the answers of some jobs; `states` (rows, positions, width) with `lengths` are the encoder's output."""
        rows = [_Row(job, self.drafts.draft(job.key) if self._use_drafts else None, self._start) for job in jobs]
        drafts: list[Sequence[int]] = [()] * len(rows)
        for index, row in enumerate(rows):
            if self.batch.starts_in_steps:
                row.starting = self._start - 1
            else:
                drafts[index] = row.propose(len(rows))
        self.batch.add(states, lengths, [job.max_tokens for job in jobs], drafts)
        self._rows += rows

    def update_drafts(self) -> None:
        """Record how much of the first draft tokens was accepted. Waits for the device when there are drafts."""
        if not self.batch.starts_in_steps and any(row.draft for row in self._rows):
            self._update()

    def step(self) -> None:
        """Generate tokens in every row: `tokens_per_step`, or one pass with drafts.

        Waits for the device when there are drafts or a step is one token. Otherwise an end is noticed one step later.
        """
        if all(row.generation for row in self._rows):
            return  # with a right draft, the first pass was the whole answer
        if self._unread and self.batch.is_past_end:
            self._read_behind()
            return
        if any(row.draft for row in self._rows):
            self.batch.step([row.propose(len(self._rows)) for row in self._rows])
            self._update()
            return
        for _ in range(self._tokens_per_step):
            self.batch.step()
        if self._tokens_per_step == 1:
            self._update()
        else:
            self._read_behind((self.batch.snapshot(), list(self._rows)))

    def pop_finished(self) -> Iterator[tuple[EngineJob, Generation, Draft | None]]:
        """Remove finished rows and return their jobs, tokens and drafts."""
        # Backwards: `remove` moves the last row into the freed place, and that row was checked before.
        for index in reversed(range(len(self._rows))):
            row = self._rows[index]
            if row.generation:
                self.batch.remove(index)
                self._rows[index] = self._rows[-1]
                self._rows.pop()
                yield row.job, row.generation, row.draft

    def store(self, job: EngineJob, generation: Generation, draft: Draft | None) -> None:
        """Keep a complete answer as the draft of the next one."""
        if self._use_drafts:
            self.drafts.store(job.key, generation.tokens[self._start : -1], draft)

    def clear(self) -> None:
        """Remove all rows, after a failure."""
        self._rows, self._unread = [], None
        self.batch.clear()

    def _read_behind(self, newest: tuple[Snapshot, list[_Row]] | None = None) -> None:
        """Read the snapshot that is on its way; `newest` is so now."""
        unread, self._unread = self._unread, newest
        if unread:
            _read(*unread)

    def _update(self) -> None:
        # What is on its way is older.
        self._unread = None
        _read(self.batch.snapshot(), self._rows)


def _read(snapshot: Snapshot, rows: Sequence[_Row]) -> None:
    """Update the rows of a snapshot that were running before it."""
    for index, (row, state) in enumerate(zip(rows, snapshot.read(), strict=True)):
        if row.generation is None:
            row.update(state)
            row.generation = snapshot.generation(index) if state.done else None
