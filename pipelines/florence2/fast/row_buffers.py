"""The tensors of a decode batch, one row per answer: caches, tokens, and the progress of each row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pipelines.florence2.fast.buckets import DRAFT_TOKENS
from pipelines.florence2.fast.decoder import Decoder
from pipelines.florence2.fast.graphs import device_tensor

FIRST_ROOM = 64
"""Answer tokens for which the caches are allocated at first; they are doubled when a row reaches the end."""
_BLOCK = 64
"""Positions of the cross cache on a GPU are a multiple of this: fused attention reads blocks."""


class RowBuffers:
    """Tensors that grow with the rows and positions in use. A row of zeros is valid padding."""

    def __init__(self, decoder: Decoder, count: int, limit: int, lead: int) -> None:
        """`count` is the largest number of rows and `limit` the longest answer.

        `lead` is the number of columns before the first token, see `LogitsProcessor`.
        """
        self._count, self._limit, self.lead = count, limit, lead
        device = decoder.device
        self._block = 1 if device.type == "cpu" else _BLOCK
        self.own, self.cross = decoder.cache(0, 0), decoder.cache(0, 0)
        """Keys and values of the answer's tokens, and of the encoder's output."""
        self.bias = torch.zeros(0, 1, 1, 0, dtype=decoder.dtype, device=device)
        """0 for positions of the encoder's output, -inf for padding."""
        self.history = torch.zeros(0, lead, dtype=torch.long, device=device)
        """The lead, and the tokens."""
        self.measured = torch.zeros(0, 0, device=device)
        """Measurements for the uncertainty of each token."""
        self.draft = torch.zeros(0, DRAFT_TOKENS, dtype=torch.long, device=device)
        self.progress = torch.zeros(3, 0, dtype=torch.long, device=device)
        """Position of each row's newest token; 1 until its end, then 0; its accepted locations that were not the best
        ones."""

    def reserve(self, rows: int, positions: int) -> None:
        """Allocate at least so many rows, and positions of answers."""
        held, room = self.measured.shape
        if rows > held:
            held = max(rows, min(2 * held, self._count))
        if positions > room:
            room = max(positions, min(2 * room, self._limit + FIRST_ROOM), FIRST_ROOM)
        if (held, room) == self.measured.shape:
            return
        # One assignment: when an allocation fails, all keep their old size.
        self.own, self.cross, self.bias, self.history, self.measured, self.draft, self.progress = (
            _grown(self.own, (2, held), (4, room)),
            _grown(self.cross, (2, held)),
            _grown(self.bias, (0, held)),
            _grown(self.history, (0, held), (1, self.lead + room)),
            _grown(self.measured, (0, held), (1, room)),
            _grown(self.draft, (0, held)),
            _grown(self.progress, (1, held)),
        )

    def reserve_cross(self, positions: int) -> bool:
        """Allocate at least so many positions of the encoder's output; return whether the tensors are other ones."""
        room = self.cross.shape[4]
        if positions <= room:
            return False
        more = -(-positions // self._block) * self._block
        self.cross, bias = _grown(self.cross, (4, more)), _grown(self.bias, (3, more))
        if room:
            bias[..., room:] = -torch.inf
        self.bias = bias
        return True

    def start(self, rows: slice, lengths: Sequence[int], tokens: Tensor, at: int) -> None:
        """Start rows with the first `tokens` of an answer, the newest of which is the one `at` a position.

        `lengths` positions of the encoder's output count.
        """
        device, count = self.bias.device, len(tokens)
        used = torch.arange(self.bias.shape[3], device=device) < device_tensor(lengths, torch.long, device)[:, None]
        self.bias[rows, 0, 0] = torch.zeros_like(used, dtype=self.bias.dtype).masked_fill_(~used, -torch.inf)
        self.history[rows, self.lead : self.lead + count] = tokens
        self.measured[rows, :count] = 1  # the probability of a forced token
        self.progress[:, rows] = device_tensor([[at], [1], [0]], torch.long, device)

    def stop(self, rows: slice) -> None:
        """Make rows padding: a step of a GPU contains rows that are not in use, and reads few positions of them."""
        self.progress[:, rows] = 0

    def move(self, source: int, target: int, length: int) -> None:
        """Copy a row, of which the first `length` positions count."""
        self.own[:, :, target, :, :length] = self.own[:, :, source, :, :length]
        self.cross[:, :, target] = self.cross[:, :, source]
        self.progress[:, target] = self.progress[:, source]
        for tensor in (self.bias, self.history, self.measured):
            tensor[target] = tensor[source]

    def write_drafts(self, rows: slice, drafts: Sequence[Sequence[int]], width: int) -> None:
        """Write the drafts of some rows; -1 behind a draft is never accepted."""
        if width:
            padded = [[*draft, *[-1] * (width - len(draft))] for draft in drafts]
            self.draft[rows, :width] = device_tensor(padded, torch.long, self.draft.device)


def _grown(tensor: Tensor, *sizes: tuple[int, int]) -> Tensor:
    """Return a tensor with zeros behind, so that some dimensions have the given sizes."""
    shape = list(tensor.shape)
    for dimension, size in sizes:
        shape[dimension] = size
    if shape == list(tensor.shape):
        return tensor
    grown = tensor.new_zeros(shape)
    grown[tuple(map(slice, tensor.shape))] = tensor
    return grown
