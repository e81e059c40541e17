"""Sizes of a decode step: those in use, or on a GPU a few rounded ones, each of which is recorded as a graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

DRAFT_TOKENS = 128
"""Draft tokens that are checked in one pass, over all rows; a larger pass takes longer than it saves."""
_SMALLEST = 64
"""Positions of the shortest rounded cache."""


class Bucket(NamedTuple):
    """Sizes of a step. Rows and positions that are not in use change no token of the others."""

    rows: int
    drafted: int
    """Draft tokens per row."""
    seen: int
    """Positions of the caches that are read."""

    def __str__(self) -> str:
        return f"step of {self.rows} rows with {self.drafted} draft tokens over {self.seen} positions"


class Buckets(Protocol):
    """The sizes of steps for what is in use."""

    def drafted(self, tokens: int, /) -> int:
        """Return the draft tokens per row of a step whose longest draft has `tokens`."""

    def fit(self, rows: int, drafted: int, length: int, /) -> Bucket:
        """Return the sizes of a step; `length` is that of the longest answer so far, `drafted` is rounded already."""

    def __iter__(self) -> Iterator[Bucket]:
        """Yield all sizes, none where those in use are not known before."""


class ExactBuckets:
    """The sizes in use, for a CPU: there each row and position costs time."""

    def drafted(self, tokens: int, /) -> int:
        return tokens

    def fit(self, rows: int, drafted: int, length: int, /) -> Bucket:
        return Bucket(rows, drafted, length + drafted)

    def __iter__(self) -> Iterator[Bucket]:
        return iter(())


class RoundedBuckets:
    """Powers of two and the largest size, for a GPU: there a launch costs more than a row."""

    def __init__(self, rows: int, positions: int, drafts: bool) -> None:
        """Give the largest sizes, and whether steps can have drafts."""
        self._drafts = drafts
        self._rows = powers(1, rows)
        self._seen = powers(_SMALLEST, positions)

    def drafted(self, tokens: int, /) -> int:
        return (1 << tokens.bit_length()) - 1

    def fit(self, rows: int, drafted: int, length: int, /) -> Bucket:
        return Bucket(first_fitting(self._rows, rows), drafted, first_fitting(self._seen, length + drafted))

    def __iter__(self) -> Iterator[Bucket]:
        """Yield all sizes, those of steps without drafts first."""
        powers_of_width = range(DRAFT_TOKENS.bit_length() if self._drafts else 1)
        for width in [(1 << power) - 1 for power in powers_of_width]:
            for rows in self._rows:
                fewest = rows // 2 + 1
                if width == 0 or width <= self.drafted(DRAFT_TOKENS // fewest - 1):
                    yield from (Bucket(rows, width, seen) for seen in self._seen if seen > width)


def powers(smallest: int, largest: int, growth: int = 2) -> list[int]:
    """Return the sizes from `smallest` on, each `growth` times the one before, up to `largest`."""
    sizes = [smallest]
    while sizes[-1] < largest:
        sizes.append(growth * sizes[-1])
    return [*sizes[:-1], largest]


def first_fitting(sizes: Sequence[int], needed: int) -> int:
    """Return the first of the ascending sizes that is not below `needed`."""
    return next(size for size in sizes if size >= needed)
