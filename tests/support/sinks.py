"""The context of a sink, for tests without an emit process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from streamer.events.ledger import LEDGER_FILE
from streamer.events.schema import encode, numbered
from streamer.events.sinks import SinkContext, SinkSettings
from streamer.types import Sink
from tests.support.sample_events import event


def sink_context(folder: Path = Path(), agent: str = "home", **fields: Any) -> SinkContext:
    return SinkContext(agent, runtime=folder, ledger=folder / LEDGER_FILE, **fields)


def entries(first: int, last: int) -> list[tuple[int, bytes]]:
    """Ledger positions `first` to `last` with an event each, whose sequence and frame have the same number."""
    return [(position, encode(numbered(event(seq=position), position))) for position in range(first, last + 1)]


def padded(size: int) -> bytes:
    """Return an event of this many bytes or a little more, whose id is unlike those of `entries`."""
    return encode(event(stream="yard")).replace(b'"tiny"', b'"' + size * b"x" + b'"')


class RecordedProgress:
    """A `SinkProgress` in memory."""

    def __init__(self, positions: Mapping[str, int] | None = None) -> None:
        """`positions`: what the ledger holds, by event id."""
        self._positions = positions or {}
        self.advanced: list[int] = []
        """Positions, in the order they were stored."""
        self.refused: dict[int, str] = {}
        """Reasons by position of a dead letter."""

    @property
    def position(self) -> int:
        return max(self.advanced, default=0)

    def find(self, event_id: str) -> int | None:
        return self._positions.get(event_id)

    def advance(self, position: int) -> None:
        self.advanced.append(position)

    def dead_letter(self, position: int, reason: str) -> None:
        self.refused[position] = reason

    @property
    def in_doubt(self) -> int | None:
        return None

    def begin(self, position: int) -> None: ...

    def settle(self, positions: Iterable[int] = ()) -> None: ...


IN_LEDGER = {event(seq=position).id: position for position in range(1, 100)}
"""Positions of the events of `entries(1, 99)`."""


@contextmanager
def opened(settings: SinkSettings, folder: Path, **fields: Any) -> Iterator[Sink]:
    """Open a sink whose ledger holds `IN_LEDGER`. `fields` are those of its context."""
    sink = settings.open(sink_context(folder, **fields), RecordedProgress(IN_LEDGER))
    try:
        yield sink
    finally:
        sink.close()
