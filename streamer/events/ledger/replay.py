"""Reads the events of one source by sequence, for subscribers that missed some. Damaged rows are passed over."""

from __future__ import annotations

import logging
from pathlib import Path

import apsw

from streamer.core.logs import RareLog
from streamer.events.ledger.schema import MAX_BODY, checked, connect_readonly, is_number

log = logging.getLogger(__name__)


class Replay:
    """A read-only connection to the ledger. Used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._db = connect_readonly(path)
        self._damaged = RareLog(log, "damaged event %d not replayed: %s")

    def close(self) -> None:
        self._db.close()

    def latest(self) -> dict[str, int]:
        """Return the newest sequence of each source."""
        rows = self._db.execute("SELECT source, sequence FROM source").fetchall()
        return {str(source): sequence for source, sequence in rows if isinstance(sequence, int) and is_number(sequence)}

    def between(self, source: str, after: int, before: int, limit: int) -> list[bytes]:
        """Return the stored events of a source with `after` < sequence < `before`, the oldest `limit` of them."""
        query = (
            "SELECT pos, crc, body FROM events WHERE source = ? AND sequence > ? AND sequence < ? AND length(body) < ?"
            " ORDER BY sequence LIMIT ?"
        )
        events = []
        for row in self._db.execute(query, (source, after, before, MAX_BODY, limit)).fetchall():
            try:
                events.append(checked(*row)[1])
            except apsw.CorruptError as error:
                self._damaged.add(error)
        return events
