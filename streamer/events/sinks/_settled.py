"""Positions of events that a sink need not deliver again although an earlier event is still to be delivered."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from streamer.events.sinks._base import SinkProgress


class SettledEvents:
    """Tracks which events of the present batch are accepted or dead letters, and advances the position behind them."""

    def __init__(self, progress: SinkProgress) -> None:
        self._progress = progress
        self._batch: Sequence[tuple[int, bytes]] = ()
        self._settled: set[int] = set()

    def start(self, batch: Sequence[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        """Return the events of a batch that are not settled. A batch that failed is given again."""
        self._batch = batch
        self._settled &= {position for position, _ in batch}
        return [one for one in batch if one[0] not in self._settled]

    def add(self, position: int) -> None:
        self._settled.add(position)

    def refuse(self, position: int, reason: str) -> None:
        """Make an event a dead letter."""
        self._progress.dead_letter(position, reason)
        self._settled.add(position)

    def advance(self) -> None:
        """Store the position of the last event before the first one that is not settled."""
        settled = list(itertools.takewhile(self._settled.__contains__, (position for position, _ in self._batch)))
        if settled:
            self._progress.advance(settled[-1])
        if len(settled) == len(self._batch):
            self._settled.clear()  # a dead letter of this batch that is sent again is not settled
