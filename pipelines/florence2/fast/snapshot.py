"""Progress of answers, copied to the host while a GPU goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pipelines.florence2.fast.graphs import HostCopy
from pipelines.florence2.processor import Generation
from pipelines.florence2.uncertainty import Uncertainty


class RowState(NamedTuple):
    """Progress of one row."""

    length: int
    """Tokens of the answer, the forced start tokens included."""
    done: bool
    last: int
    """Id of the newest token."""
    guesses: list[int]
    """Ids that the newest pass chose behind that token, each as if the draft tokens before it were right."""


@dataclass(slots=True, eq=False)
class HostRow:
    """A row as the host knows it."""

    max_tokens: int
    length: int
    """Upper bound of its length. Exact after a snapshot is read, and on a GPU passes behind it."""


class Snapshot:
    """Progress of all rows at one moment, on its way to the host."""

    def __init__(self, tensors: Sequence[Tensor], rows: Sequence[HostRow], uncertainty: Uncertainty) -> None:
        """`tensors` are the vectors of the rows, their tokens, and the measurements for their uncertainty."""
        self._copy = HostCopy(*tensors)
        self._rows = [(row, row.length) for row in rows]
        self._uncertainty = uncertainty

    def read(self) -> list[RowState]:
        """Return the progress of each row. Waits for the device."""
        progress, tokens, _ = self._copy.wait()
        places, running, _ = progress.tolist()
        # A row runs on behind its maximum length until the host notices.
        newest = [min(place, row.max_tokens) for place, (row, _) in zip(places, self._rows, strict=True)]
        last = tokens.gather(1, torch.tensor(newest)[:, None])[:, 0].tolist()
        states = []
        for index, (row, bound) in enumerate(self._rows):
            row.length -= bound - places[index] - 1
            self._rows[index] = row, places[index] + 1
            is_done = not running[index] or newest[index] == row.max_tokens
            guesses = tokens[index, places[index] + 1 : bound].tolist()
            states.append(RowState(newest[index] + 1, is_done, last[index], guesses))
        return states

    def generation(self, row: int) -> Generation:
        """Return all tokens of a row. Waits for the device."""
        (at, _, near), tokens, measured = self._copy.wait()
        length = min(int(at[row]), self._rows[row][0].max_tokens) + 1
        uncertainty = self._uncertainty.finish(measured[row, 1:length], tokens[row, 1:length])
        return Generation(tokens[row, :length].tolist(), uncertainty.tolist(), int(near[row]))
