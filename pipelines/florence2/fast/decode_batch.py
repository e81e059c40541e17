"""Answers that are generated together: one row each, over static key and value caches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from pipelines.florence2.fast.decoder import Decoder
from pipelines.florence2.fast.logits import LogitsProcessor
from pipelines.florence2.processor import Generation

PROMPT_ROOM = 32
"""Prompt tokens for which the cross cache is allocated at first; it grows for longer prompts."""
FIRST_ROOM = 64
"""Answer tokens for which the caches are allocated at first; they are doubled when a row reaches the end."""


class RowState(NamedTuple):
    """Progress of one row."""

    length: int
    """Tokens of the answer, the forced start tokens included."""
    done: bool
    last: int
    """Id of the newest token."""


class DecodeBatch:
    """At most `count` rows. Rows in use are the first `active` ones, so a step costs what is in use.

    Only `read_states` and `generation` wait for the device.
    """

    def __init__(
        self,
        decoder: Decoder,
        logits_processor: LogitsProcessor,
        count: int,
        image_tokens: int,
        limit: int,
        accepts_near: bool = False,
    ) -> None:
        """`limit` is the longest answer that the checkpoint can generate.

        `accepts_near`: a drafted location is also accepted if `LogitsProcessor.accept_near` chooses it.
        """
        self.active = 0
        self._limit, self._accepts_near = limit, accepts_near
        self._decoder, self._logits_processor = decoder, logits_processor
        self._start = torch.tensor(logits_processor.start, device=decoder.device)
        self._own = decoder.cache(count, FIRST_ROOM)
        self._cross = decoder.cache(count, image_tokens + PROMPT_ROOM)
        shape = (count, 1, 1, image_tokens + PROMPT_ROOM)
        self._bias = torch.full(shape, float("-inf"), dtype=decoder.dtype, device=decoder.device)
        self._history = torch.zeros(count, FIRST_ROOM, dtype=torch.long, device=decoder.device)
        self._length = torch.zeros(count, dtype=torch.long, device=decoder.device)
        self._max_tokens = torch.zeros_like(self._length)
        self._done = torch.zeros_like(self._length, dtype=torch.bool)
        self._near = torch.zeros_like(self._length)
        """Accepted locations of each row that were not the best ones."""
        self._uncertainty = torch.zeros(count, FIRST_ROOM, device=decoder.device)
        self._max_length = [0] * count
        """Upper bound of each row's length; exact after `read_states`."""

    def add(
        self, states: Tensor, lengths: Sequence[int], max_tokens: Sequence[int], drafts: Sequence[Sequence[int]]
    ) -> None:
        """Add rows behind the active ones and run their first pass.

        `states` (rows, positions, width) is the encoder's output, of which the first `lengths` positions count.
        `max_tokens` bounds each answer. `drafts` are the expected tokens behind the forced start, possibly none.
        """
        first, last = self.active, self.active + len(states)
        self._reserve_cross(states.shape[1])
        self._decoder.fill_cross_cache(states, self._cross[:, :, first:last])
        self._bias[first:last] = float("-inf")
        for row, length in enumerate(lengths, first):
            self._bias[row, ..., :length] = 0
            self._max_length[row] = len(self._start)
        self._history[first:last, : len(self._start)] = self._start
        self._length[first:last] = len(self._start)
        self._max_tokens[first:last] = torch.tensor(max_tokens, device=self._max_tokens.device)
        self._done[first:last] = False
        self._near[first:last] = 0
        self._advance(first, last, len(self._start), drafts)
        self.active = last

    def step(self, drafts: Sequence[Sequence[int]] = ()) -> None:
        """Generate one token in every row, or the accepted part of its draft and one token more."""
        self._advance(0, self.active, 1, drafts or [()] * self.active)

    def read_states(self) -> list[RowState]:
        """Return the progress of all active rows. Waits for the device."""
        length = self._length[: self.active]
        last = self._history[: self.active].gather(1, length[:, None] - 1)[:, 0]
        rows = torch.stack([length, self._done[: self.active].long(), last], 1).tolist()
        self._max_length[: self.active] = [length for length, _, _ in rows]
        return [RowState(length, bool(done), last) for length, done, last in rows]

    def generation(self, row: int) -> Generation:
        """Return all tokens of a row. Waits for the device; valid after `read_states`."""
        length = self._max_length[row]
        uncertainty = self._uncertainty[row, 1:length].tolist()
        return Generation(self._history[row, :length].tolist(), uncertainty, int(self._near[row]))

    def remove(self, row: int) -> None:
        """Free a row; the last active row moves into its place."""
        self.active -= 1
        last = self.active
        if row != last:
            length = self._max_length[last]
            self._own[:, :, row, :, :length] = self._own[:, :, last, :, :length]
            self._cross[:, :, row] = self._cross[:, :, last]
            for tensor in (self._bias, self._history, self._uncertainty):
                tensor[row] = tensor[last]
            for tensor in (self._length, self._max_tokens, self._done, self._near):
                tensor[row] = tensor[last]
            self._max_length[row] = self._max_length[last]

    def _advance(self, first: int, last: int, pending: int, drafts: Sequence[Sequence[int]]) -> None:
        """Run one pass over some rows: their `pending` newest tokens and the drafts behind them.

        Keys and values of a rejected draft stay in the cache behind the row's end. The next pass overwrites them
        before anything attends to them, so nothing is rolled back.
        """
        rows = slice(first, last)
        width = max(len(draft) for draft in drafts)
        seen = max(self._max_length[rows]) + width
        self._reserve(seen + 1)
        history, length, done = self._history[rows], self._length[rows], self._done[rows]
        device = length.device
        expected = torch.tensor([[*draft, *[-1] * (width - len(draft))] for draft in drafts], device=device).long()
        if width:
            history.scatter_(1, length[:, None] + torch.arange(width, device=device), expected.clamp(min=0))
        at = length - pending
        ids = history.gather(1, at[:, None] + torch.arange(pending + width, device=device))
        caches = self._own[:, :, rows], self._cross[:, :, rows], self._bias[rows]
        logits = self._decoder(ids, at, seen, *caches, skip=pending - 1)
        scores = self._logits_processor.adapt(logits, history[:, :seen], length)
        tokens = best = scores.argmax(-1)
        if self._accepts_near and width:
            chosen = self._logits_processor.accept_near(scores[:, :-1], best[:, :-1], expected)
            tokens = torch.cat([chosen, best[:, -1:]], 1)
        uncertainty = self._logits_processor.uncertainty(scores, tokens)
        is_accepted = (tokens[:, :-1] == expected).long().cumprod(1)
        accepted = is_accepted.sum(1, keepdim=True)
        self._near[rows] += (is_accepted * (tokens != best)[:, :-1]).sum(1) * ~done
        history.scatter_(1, length[:, None] + accepted, tokens.gather(1, accepted))
        self._uncertainty[rows].scatter_(1, length[:, None] + torch.arange(width + 1, device=device), uncertainty)
        length += (accepted[:, 0] + 1) * ~done
        is_end = self._logits_processor.is_end(tokens.gather(1, accepted)[:, 0])
        done |= is_end | (length > self._max_tokens[rows])
        for row in range(first, last):
            self._max_length[row] += width + 1

    def _reserve(self, positions: int) -> None:
        room = self._own.shape[4]
        if positions > room:
            more = max(positions, min(2 * room, self._limit + FIRST_ROOM)) - room
            # One assignment: when an allocation fails, all three keep their old size.
            self._own, self._history, self._uncertainty = (
                functional.pad(self._own, (0, 0, 0, more)),
                functional.pad(self._history, (0, more)),
                functional.pad(self._uncertainty, (0, more)),
            )

    def _reserve_cross(self, positions: int) -> None:
        if (more := positions - self._cross.shape[4]) > 0:
            self._cross, self._bias = (
                functional.pad(self._cross, (0, 0, 0, more)),
                functional.pad(self._bias, (0, more), value=float("-inf")),
            )
