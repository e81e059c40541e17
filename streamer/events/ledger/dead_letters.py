"""Dead letters, as the user lists them and has them sent again: events that a sink's receiver refused for good."""

from __future__ import annotations

import logging
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from streamer.core.errors import ConfigError
from streamer.events.ledger.schema import MAX_BODY, connect, connect_readonly, is_event, is_time

log = logging.getLogger(__name__)


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
    """Return the dead letters of all sinks, oldest first. Damaged ones are passed over and counted in the log."""
    query = "SELECT created, sink, reason, resend, body FROM dead WHERE length(body) < ? ORDER BY created"
    with closing(connect_readonly(ledger)) as db:
        letters = [DeadLetter(*row) for row in db.execute(query, (MAX_BODY,)) if _is_valid(*row)]
        ((stored,),) = db.execute("SELECT count(*) FROM dead").fetchall()
    if isinstance(stored, int) and stored > len(letters):
        log.warning("%d damaged dead letters in %s passed over", stored - len(letters), ledger)
    return letters


def _is_valid(created: object, sink: object, reason: object, resend: object, body: object) -> bool:
    return isinstance(sink, str) and isinstance(reason, str) and is_time(created) and is_event(body)


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
