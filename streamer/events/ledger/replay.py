"""Reads the events of one source by sequence, for subscribers that missed some."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from streamer.events.ledger.schema import connect_readonly


class Replay:
    """A read-only connection to the ledger. Used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._db = connect_readonly(path)

    def close(self) -> None:
        self._db.close()

    def latest(self) -> dict[str, int]:
        """Return the newest sequence of each source."""
        rows = self._db.execute("SELECT source, sequence FROM source").fetchall()
        return {cast(str, source): cast(int, sequence) for source, sequence in rows}

    def between(self, source: str, after: int, before: int, limit: int) -> list[bytes]:
        """Return the stored events of a source with `after` < sequence < `before`, the oldest `limit` of them."""
        query = "SELECT body FROM events WHERE source = ? AND sequence > ? AND sequence < ? ORDER BY sequence LIMIT ?"
        rows = self._db.execute(query, (source, after, before, limit)).fetchall()
        return [cast(bytes, body) for (body,) in rows]
