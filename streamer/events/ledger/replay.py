"""The events of one source by their numbers, for who has missed some. Reads only."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import apsw

from streamer.events.ledger.schema import BUSY_MS


class Replay:
    """Used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        self._db.set_busy_timeout(BUSY_MS)

    def close(self) -> None:
        self._db.close()

    def heads(self) -> dict[str, int]:
        """The newest sequence of each source."""
        rows = self._db.execute("SELECT source, sequence FROM source").fetchall()
        return {cast(str, source): cast(int, sequence) for source, sequence in rows}

    def between(self, source: str, after: int, before: int, limit: int) -> list[bytes]:
        """Events of a source with sequences between the two, both left out, as far as they are still kept."""
        query = "SELECT body FROM events WHERE source = ? AND sequence > ? AND sequence < ? ORDER BY sequence LIMIT ?"
        rows = self._db.execute(query, (source, after, before, limit)).fetchall()
        return [cast(bytes, body) for (body,) in rows]
