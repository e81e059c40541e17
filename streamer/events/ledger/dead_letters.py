"""Dead letters, as the user lists them and has them sent again: events that a sink's receiver refused for good."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import NamedTuple, cast

from streamer.core.errors import ConfigError
from streamer.events.ledger.schema import connect, connect_readonly


class DeadLetter(NamedTuple):
    """An event that a sink could not deliver, as its row in the ledger has it."""

    created: float
    """Unix second of the refusal."""
    sink: str
    reason: str
    resend: int
    """1 once the user asked for another attempt."""
    body: bytes
    """The CloudEvent in JSON."""


def list_dead_letters(ledger: Path) -> list[DeadLetter]:
    """Return the dead letters of all sinks, oldest first."""
    with closing(connect_readonly(ledger)) as db:
        rows = db.execute("SELECT created, sink, reason, resend, body FROM dead ORDER BY created").fetchall()
    return [DeadLetter(*cast(tuple[float, str, str, int, bytes], row)) for row in rows]


def request_resend(ledger: Path, sink: str) -> int:
    """Have a sink deliver its dead letters again, within seconds or at the next start; return how many.

    Raises ConfigError for an unknown sink.
    """
    with closing(connect(ledger, "NORMAL")) as db:
        sinks = [str(name) for (name,) in db.execute("SELECT sink FROM cursor")]
        if sink not in sinks:
            raise ConfigError(f"the ledger has no sink {sink}; its sinks: {', '.join(sinks)}")
        db.execute("UPDATE dead SET resend = 1 WHERE sink = ?", (sink,))
        return db.changes()
