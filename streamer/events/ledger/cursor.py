"""One sink's place in the ledger, and the events it would never take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import cast

import apsw

from streamer.events.ledger.schema import checked, connect, number

MAX_DEAD_LETTERS = 10_000
"""Dead letters kept for each sink, the newest."""


class SinkCursor:
    """Used by one thread at a time. Raises apsw.CorruptError when what it reads is damaged."""

    def __init__(self, path: Path, sink: str) -> None:
        self._sink = sink
        self._db = connect(path, "NORMAL")
        self.position = number(self._db, "SELECT pos FROM cursor WHERE sink = ?", sink)
        """The newest event this sink is done with."""

    def close(self) -> None:
        self._db.close()

    def read(self, limit: int) -> list[tuple[int, bytes]]:
        """The next events after `position`, with theirs."""
        query = "SELECT pos, crc, body FROM events WHERE pos > ? ORDER BY pos LIMIT ?"
        return [checked(*row) for row in self._db.execute(query, (self.position, limit)).fetchall()]

    def advance(self, position: int) -> None:
        """The sink is done with everything up to `position`."""
        if position <= self.position:
            return
        self.position = position
        # On a full disk the sink goes on, and its place is stored with the next one that finds room.
        with suppress(apsw.FullError, apsw.BusyError):
            self._db.execute("UPDATE cursor SET pos = max(pos, ?) WHERE sink = ?", (position, self._sink))

    def find(self, event_id: str) -> int | None:
        """Position of an event, None when it is not in the book (any more)."""
        row = self._db.execute("SELECT pos FROM events WHERE id = ?", (event_id,)).fetchone()
        return None if row is None else cast(int, row[0])

    def dead_letter(self, position: int, reason: str) -> None:
        """The sink will never take this event: keep it as a dead letter."""
        again = "UPDATE dead SET resend = 0, reason = ?, created = ? WHERE sink = ? AND pos = ?"
        now = time.time()
        self._db.execute(again, (reason, now, self._sink, position))
        new = "INSERT OR IGNORE INTO dead SELECT ?, pos, ?, ?, 0, body FROM events WHERE pos = ?"
        self._db.execute(new, (self._sink, now, reason, position))
        oldest = "SELECT pos FROM dead WHERE sink = ? ORDER BY pos DESC LIMIT 1 OFFSET ?"
        self._db.execute(
            f"DELETE FROM dead WHERE sink = ? AND pos <= ({oldest})", (self._sink, self._sink, MAX_DEAD_LETTERS)
        )

    def to_resend(self, limit: int) -> list[tuple[int, bytes]]:
        """Dead letters that the user wants to be tried again, with their positions."""
        query = "SELECT pos, body FROM dead WHERE sink = ? AND resend ORDER BY pos LIMIT ?"
        rows = self._db.execute(query, (self._sink, limit)).fetchall()
        return [(cast(int, pos), cast(bytes, body)) for pos, body in rows]

    def resent(self, events: Sequence[tuple[int, bytes]]) -> None:
        """The sink has taken them, but for those that it refused again."""
        self._db.executemany(
            "DELETE FROM dead WHERE sink = ? AND pos = ? AND resend", [(self._sink, position) for position, _ in events]
        )
