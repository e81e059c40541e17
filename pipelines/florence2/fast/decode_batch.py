"""Answers that are generated together: one row each, over static key and value caches.

A step is a program for a Runner: all that it reads and writes is allocated before, and it waits for nothing. Its sizes
are those of a Bucket.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial

import torch
from torch import Tensor

from pipelines.florence2.fast.buckets import DRAFT_TOKENS, Bucket, Buckets, ExactBuckets, RoundedBuckets
from pipelines.florence2.fast.decoder import Decoder
from pipelines.florence2.fast.graphs import Program, Runner, device_tensor
from pipelines.florence2.fast.logits import LogitsProcessor
from pipelines.florence2.fast.row_buffers import RowBuffers
from pipelines.florence2.fast.snapshot import HostRow, Snapshot
from pipelines.florence2.fast.speculative import DraftMode

PROMPT_ROOM = 32
"""Prompt tokens for which the cross cache is allocated at first; it grows for longer prompts."""
_PROGRAMS = 512
"""Prepared steps that are kept: more than the rounded sizes of the largest batch."""


class DecodeBatch:
    """At most `count` rows. Rows in use are the first `active` ones, so a step costs what is in use."""

    def __init__(
        self,
        decoder: Decoder,
        logits_processor: LogitsProcessor,
        count: int,
        image_tokens: int,
        limit: int,
        drafts: DraftMode,
        runner: Runner,
    ) -> None:
        """`limit` is the longest answer that the checkpoint can generate.

        `drafts`, near: a drafted location is also accepted if `LogitsProcessor.accept_near` chooses it.
        """
        self.active = 0
        self.buckets: Buckets = ExactBuckets()
        self._decoder, self._logits_processor, self._accepts_near = decoder, logits_processor, drafts == "near"
        self._runner = runner
        self._program = lru_cache(_PROGRAMS)(self._prepare)
        self._rows: list[HostRow] = []
        self._start = device_tensor(logits_processor.start, torch.long, decoder.device)
        self._offsets = torch.arange(1 - len(self._start), DRAFT_TOKENS + 1, device=decoder.device)
        self.starts_in_steps = decoder.device.type != "cpu"
        """True where new rows get their forced start from the steps, one token each. On a CPU, a pass of their own is
        cheaper. On a GPU, it would be recorded again for each place that new rows can be at."""
        self._forced = torch.full((decoder.positions,), -1, device=decoder.device)
        """The forced token behind each position, -1 for none."""
        self._forced[: len(self._start) - 1] = self._start[1:]
        self._buffers = RowBuffers(decoder, count, limit, logits_processor.lead)
        if decoder.device.type != "cpu":
            # A graph holds the addresses of the caches, so they do not grow.
            self.buckets = RoundedBuckets(count, decoder.positions, drafts != "off")
            self._buffers.reserve(count, decoder.positions + 1)
        self._buffers.reserve_cross(image_tokens + PROMPT_ROOM)

    def add(
        self, states: Tensor, lengths: Sequence[int], max_tokens: Sequence[int], drafts: Sequence[Sequence[int]]
    ) -> None:
        """Add rows behind the active ones and run their first pass, unless the steps start them.

        `states` (rows, positions, width) is the encoder's output, of which the first `lengths` positions count.
        `max_tokens` bounds each answer. `drafts` are the expected tokens behind the forced start, possibly none; none
        where `starts_in_steps`.
        """
        first, last = self.active, self.active + len(states)
        rows, start = slice(first, last), len(self._start)
        bucket = self._fit(len(states), drafts, start)
        self._buffers.reserve(last, bucket.seen + 1)
        if self._buffers.reserve_cross(states.shape[1]):
            # Graphs hold the addresses of the old cache.
            self._program.cache_clear()
        self._decoder.fill_cross_cache(states, self._buffers.cross[:, :, rows])
        self._buffers.start(rows, lengths, self._start, 0 if self.starts_in_steps else start - 1)
        if self.starts_in_steps:
            self._rows += [HostRow(longest, 1) for longest in max_tokens]
            self.active = last
            return
        self._buffers.write_drafts(rows, drafts, bucket.drafted)
        try:
            self._advance(rows, start, bucket.drafted, bucket.seen)
        except Exception:
            self._buffers.stop(rows)
            raise
        self._rows += [HostRow(longest, start + bucket.drafted + 1) for longest in max_tokens]
        self.active = last

    def step(self, drafts: Sequence[Sequence[int]] = ()) -> None:
        """Generate one token in every row, or the accepted part of its draft and one token more."""
        bucket = self._fit(self.active, drafts, max(row.length for row in self._rows))
        self._buffers.reserve(bucket.rows, bucket.seen + 1)
        self._buffers.write_drafts(slice(0, self.active), drafts, bucket.drafted)
        self._program(bucket)()
        for row in self._rows:
            row.length += bucket.drafted + 1

    @property
    def is_past_end(self) -> bool:
        """True if every row has its most tokens, whatever they are."""
        return all(row.length > row.max_tokens for row in self._rows)

    def prepare(self, bucket: Bucket) -> None:
        """Prepare a step before it is needed. Changes no row."""
        self._program(bucket)

    def snapshot(self) -> Snapshot:
        """Start to copy the progress of all active rows to the host."""
        buffers, longest = self._buffers, max(row.length for row in self._rows)
        rows = slice(0, self.active)
        tokens, measured = buffers.history[rows, buffers.lead :][:, :longest], buffers.measured[rows, :longest]
        return Snapshot((buffers.progress[:, rows], tokens, measured), self._rows, self._logits_processor.uncertainty)

    def remove(self, row: int) -> None:
        """Free a row; the last active row moves into its place."""
        self.active -= 1
        last = self._rows.pop()
        if row != self.active:
            self._buffers.move(self.active, row, last.length)
            self._rows[row] = last
        self._buffers.stop(slice(self.active, self.active + 1))

    def clear(self) -> None:
        """Remove all rows."""
        self.active, self._rows = 0, []
        self._buffers.stop(slice(None))

    def _fit(self, rows: int, drafts: Sequence[Sequence[int]], length: int) -> Bucket:
        drafted = self.buckets.drafted(max(map(len, drafts), default=0))
        return self.buckets.fit(rows, drafted, length)

    def _prepare(self, bucket: Bucket) -> Program:
        program = partial(self._advance, slice(0, bucket.rows), 1, bucket.drafted, bucket.seen)
        # A runner may run the program for a trial. A row that does not run keeps its length.
        running = self._buffers.progress[1]
        before = running.clone()
        running.zero_()
        try:
            return self._runner.prepare(str(bucket), program)
        finally:
            running.copy_(before)

    def _advance(self, rows: slice, pending: int, drafted: int, seen: int) -> None:
        """Run one pass over some rows: their `pending` newest tokens and the drafts behind them.

        Keys and values of a rejected draft stay in the cache behind the row's end. The next pass overwrites them
        before anything attends to them, so nothing is rolled back.
        """
        buffers, processor = self._buffers, self._logits_processor
        history, draft = buffers.history[rows], buffers.draft[rows, :drafted]
        at, running, near = buffers.progress[:, rows]
        written, behind = history[:, buffers.lead :], history[:, buffers.lead + 1 :]
        positions = at[:, None]
        if pending + drafted > 1:
            first = len(self._start) - pending
            positions = positions + self._offsets[first : first + pending + drafted]
        places = positions[:, pending - 1 :]
        if drafted:
            proposed = draft.clamp(min=0)
            behind.scatter_(1, places[:, :-1], proposed)
        visible = self._decoder.visible(positions, seen)
        caches = buffers.own[:, :, rows], buffers.cross[:, :, rows], buffers.bias[rows]
        logits = self._decoder(written.gather(1, positions), positions, visible, *caches, skip=pending - 1)
        scores = processor.adapt(logits, history[:, : buffers.lead + seen], places, visible[:, pending - 1 :])
        tokens = best = scores.argmax(-1)
        if drafted and self._accepts_near:
            chosen = processor.accept_near(scores[:, :-1], best[:, :-1], proposed)
            tokens = torch.cat([chosen, best[:, -1:]], 1)
        measured = processor.uncertainty.measure(scores, tokens)
        if self.starts_in_steps:
            forced = self._forced[at]
            is_forced = forced >= 0
            measured[:, 0].masked_fill_(is_forced, 1)  # its probability
            torch.where(is_forced, forced, tokens[:, 0], out=tokens[:, 0])
        buffers.measured[rows, 1:].scatter_(1, places, measured)
        newest = tokens
        if drafted:
            is_accepted = (tokens[:, :-1] == draft).long().cumprod(1)
            accepted = is_accepted.sum(1, keepdim=True)
            newest = tokens.gather(1, accepted)
            at.addcmul_(accepted[:, 0], running)
            if self._accepts_near:
                near.addcmul_((is_accepted * (tokens != best)[:, :-1]).sum(1), running)
        behind.scatter_(1, places, tokens)
        at += running
        running.masked_fill_(processor.is_end(newest[:, 0]), 0)
