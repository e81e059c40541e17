"""Rows in flight: fixed places with static caches, taken and given back at every step."""

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
"""Tokens of a prompt for which there is room from the start."""
FIRST_ROOM = 64
"""Tokens of an answer for which there is room from the start; doubled when a row gets there."""


class State(NamedTuple):
    """How far a row is."""

    length: int
    """Its tokens, those of the known start included."""
    done: bool
    last: int
    """The token it wrote last."""


class DecodeBatch:
    """At most `count` answers being written. Those in use are the first `active` ones, without gaps.

    Nothing here waits for the device except `look` and `answer`.
    """

    def __init__(self, decoder: Decoder, chooser: LogitsProcessor, count: int, image_tokens: int, limit: int) -> None:
        """`limit` is the longest answer the checkpoint can write."""
        self.active = 0
        self._limit = limit
        self._decoder, self._chooser = decoder, chooser
        self._start = torch.tensor(chooser.start, device=decoder.device)
        self._own = decoder.cache(count, FIRST_ROOM)
        self._cross = decoder.cache(count, image_tokens + PROMPT_ROOM)
        self._bias = self._hidden(count, image_tokens + PROMPT_ROOM)
        self._history = torch.zeros(count, FIRST_ROOM, dtype=torch.long, device=decoder.device)
        self._length = torch.zeros(count, dtype=torch.long, device=decoder.device)
        self._caps = torch.zeros_like(self._length)
        self._done = torch.zeros_like(self._length, dtype=torch.bool)
        self._doubts = torch.zeros(count, FIRST_ROOM, device=decoder.device)
        self._most = [0] * count
        """Per row, what its length can be at most; exact after `look`."""

    def _hidden(self, count: int, places: int) -> Tensor:
        shape = (count, 1, 1, places)
        return torch.full(shape, float("-inf"), dtype=self._decoder.dtype, device=self._decoder.device)

    def add(self, states: Tensor, lengths: Sequence[int], caps: Sequence[int], drafts: Sequence[Sequence[int]]) -> None:
        """Take the next rows and make their first step.

        `states` (rows, places, width) is what the encoder made, `lengths` how much of it counts. `caps` are the
        tokens an answer may have, `drafts` what it is expected to be, behind the known start; may be empty.
        """
        first, last = self.active, self.active + len(states)
        self._reserve_cross(states.shape[1])
        self._decoder.fill_cross_cache(states, self._cross[:, :, first:last])
        self._bias[first:last] = float("-inf")
        for row, length in enumerate(lengths, first):
            self._bias[row, ..., :length] = 0
            self._most[row] = len(self._start)
        self._history[first:last, : len(self._start)] = self._start
        self._length[first:last] = len(self._start)
        self._caps[first:last] = torch.tensor(caps, device=self._caps.device)
        self._done[first:last] = False
        self._advance(first, last, len(self._start), drafts)
        self.active = last

    def step(self, drafts: Sequence[Sequence[int]] = ()) -> None:
        """One token further in every row, or as many as its draft is right and one more."""
        self._advance(0, self.active, 1, drafts or [()] * self.active)

    def fill_cross_cache(self) -> list[State]:
        """How far the rows are. Waits for the device."""
        length = self._length[: self.active]
        last = self._history[: self.active].gather(1, length[:, None] - 1)[:, 0]
        rows = torch.stack([length, self._done[: self.active].long(), last], 1).tolist()
        self._most[: self.active] = [length for length, _, _ in rows]
        return [State(length, bool(done), last) for length, done, last in rows]

    def answer(self, row: int) -> Generation:
        """All that a row has written. Waits for the device."""
        length = self._most[row]
        return Generation(self._history[row, :length].tolist(), self._doubts[row, 1:length].tolist())

    def remove(self, row: int) -> None:
        """Give a row back; the last one moves into its place."""
        self.active -= 1
        last = self.active
        if row != last:
            seen = self._most[last]
            self._own[:, :, row, :, :seen] = self._own[:, :, last, :, :seen]
            self._cross[:, :, row] = self._cross[:, :, last]
            for tensor in (self._bias, self._history, self._doubts, self._length, self._caps, self._done):
                tensor[row] = tensor[last]
            self._most[row] = self._most[last]

    def _advance(self, first: int, last: int, pending: int, drafts: Sequence[Sequence[int]]) -> None:
        """One pass over some rows: their `pending` newest tokens, and drafts behind them.

        Keys and values of a rejected draft stay in the cache behind the row's end, and are written over before
        anything looks at them.
        """
        rows = slice(first, last)
        width = max(len(draft) for draft in drafts)
        seen = max(self._most[rows]) + width
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
        tokens, doubts = self._chooser(logits, history[:, :seen], length)
        right = (tokens[:, :-1] == expected).long().cumprod(1).sum(1, keepdim=True)
        history.scatter_(1, length[:, None] + right, tokens.gather(1, right))
        self._doubts[rows].scatter_(1, length[:, None] + torch.arange(width + 1, device=device), doubts)
        length += (right[:, 0] + 1) * ~done
        done |= self._chooser.is_end(tokens.gather(1, right)[:, 0]) | (length > self._caps[rows])
        for row in range(first, last):
            self._most[row] += width + 1

    def _reserve(self, places: int) -> None:
        room = self._own.shape[4]
        if places > room:
            more = max(places, min(2 * room, self._limit + FIRST_ROOM)) - room
            # All or none: there may be no memory for one of them.
            self._own, self._history, self._doubts = (
                functional.pad(self._own, (0, 0, 0, more)),
                functional.pad(self._history, (0, more)),
                functional.pad(self._doubts, (0, more)),
            )

    def _reserve_cross(self, places: int) -> None:
        if (more := places - self._cross.shape[4]) > 0:
            self._cross, self._bias = (
                functional.pad(self._cross, (0, 0, 0, more)),
                functional.pad(self._bias, (0, more), value=float("-inf")),
            )
