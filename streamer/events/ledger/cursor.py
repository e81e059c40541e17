"""One sink's position in the ledger, and its dead letters."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import cast

import apsw

from streamer.core.logs import RareLog
from streamer.core.redact import redact
from streamer.events.ledger.schema import (
    MAX_BODY,
    checked,
    connect,
    connect_readonly,
    is_event,
    select_int,
    transaction,
)

log = logging.getLogger(__name__)

MAX_DEAD_LETTERS = 10_000
"""Dead letters kept for each sink; beyond, the oldest are deleted."""


class SinkCursor:
    """A sink's own connection to the ledger. Used by one thread at a time.

    Raises apsw.CorruptError when an event that it reads is damaged.
    """

    def __init__(self, path: Path, sink: str) -> None:
        self._sink = sink
        self._db = connect(path, "NORMAL")
        self._damaged = RareLog(log, "damaged dead letters found %s: not sent again are %d of sink %s", noun="time")
        self.position = select_int(self._db, "SELECT pos FROM cursor WHERE sink = ?", sink)
        """Position of the newest event that is delivered with all before it."""
        self.refused = 0
        """Dead letters since the last `sink.refused` event."""
        self.refusal = ""
        """Reason of the newest dead letter."""

    def close(self) -> None:
        self._db.close()

    def read(self, limit: int) -> list[tuple[int, bytes]]:
        """Return the next events after `position`, each with its position."""
        query = "SELECT pos, crc, body FROM events WHERE pos > ? ORDER BY pos LIMIT ?"
        return [checked(*row) for row in self._db.execute(query, (self.position, limit)).fetchall()]

    def advance(self, position: int) -> None:
        """Store that everything up to `position` is delivered."""
        if position <= self.position:
            return
        self.position = position
        # On a full disk the sink continues; a later position is stored once there is space.
        with suppress(apsw.FullError, apsw.BusyError):
            self._db.execute("UPDATE cursor SET pos = max(pos, ?) WHERE sink = ?", (position, self._sink))

    def find(self, event_id: str) -> int | None:
        """Return the position of an event, or None when the ledger does not hold it (any more)."""
        row = self._db.execute("SELECT pos FROM events WHERE id = ?", (event_id,)).fetchone()
        return None if row is None else cast(int, row[0])

    def dead_letter(self, position: int, reason: str) -> None:
        """Keep the event at `position` as a dead letter: its receiver will never accept it."""
        self.refused, self.refusal = self.refused + 1, redact(reason)
        now = time.time()
        known = "UPDATE dead SET resend = 0, reason = ?, created = ? WHERE sink = ? AND pos = ?"
        self._db.execute(known, (self.refusal, now, self._sink, position))
        new = "INSERT OR IGNORE INTO dead SELECT ?, pos, ?, ?, 0, body FROM events WHERE pos = ?"
        self._db.execute(new, (self._sink, now, self.refusal, position))
        oldest = "SELECT pos FROM dead WHERE sink = ? ORDER BY pos DESC LIMIT 1 OFFSET ?"
        self._db.execute(
            f"DELETE FROM dead WHERE sink = ? AND pos <= ({oldest})", (self._sink, self._sink, MAX_DEAD_LETTERS)
        )

    @property
    def in_doubt(self) -> int | None:
        """Position of the event whose delivery had begun when the process before ended; nobody knows if it arrived."""
        again = "SELECT pos FROM dead WHERE sink = ?1 AND resend"
        query = f"SELECT pos FROM sending WHERE sink = ?1 AND (pos > ?2 OR pos IN ({again}))"
        row = self._db.execute(query, (self._sink, self.position)).fetchone()
        return row[0] if row is not None and isinstance(row[0], int) else None

    def begin(self, position: int) -> None:
        """Store on the disk that the delivery of an event begins: until `settle`, it is in doubt."""
        with suppress(apsw.FullError, apsw.BusyError):  # a full disk stops no notification
            self._db.pragma("synchronous", "FULL")
            try:
                self._db.execute("INSERT OR REPLACE INTO sending VALUES (?, ?)", (self._sink, position))
            finally:
                self._db.pragma("synchronous", "NORMAL")

    def settle(self, positions: Iterable[int] = ()) -> None:
        """Store that no event is in doubt. `positions`: delivered ones, which are no dead letters any more."""
        with suppress(apsw.FullError, apsw.BusyError), transaction(self._db):
            self._db.execute("DELETE FROM sending WHERE sink = ?", (self._sink,))
            self._delete_resent(positions)

    def to_resend(self, limit: int) -> list[tuple[int, bytes]]:
        """Return dead letters for which the user requested another attempt, each with its position."""
        query = "SELECT pos, body FROM dead WHERE sink = ? AND resend AND length(body) < ? ORDER BY pos LIMIT ?"
        rows = self._db.execute(query, (self._sink, MAX_BODY, limit)).fetchall()
        events = [(pos, body) for pos, body in rows if isinstance(pos, int) and isinstance(body, bytes)]
        intact = [(pos, body) for pos, body in events if is_event(body)]
        if len(intact) < len(rows):
            self._damaged.add(len(rows) - len(intact), self._sink)
            damaged = [(self._sink, pos) for pos, body in rows if (pos, body) not in intact]
            self._db.executemany("UPDATE dead SET resend = 0 WHERE sink = ? AND pos = ?", damaged)
        return intact

    def resent(self, events: Sequence[tuple[int, bytes]]) -> None:
        """Delete these dead letters, save those that were refused again."""
        self._delete_resent(position for position, _ in events)

    def _delete_resent(self, positions: Iterable[int]) -> None:
        self._db.executemany(
            "DELETE FROM dead WHERE sink = ? AND pos = ? AND resend", [(self._sink, position) for position in positions]
        )


def advance_reader(path: Path, reader: str, position: int) -> None:
    """Store that a reader in another process has read everything up to `position`. It must have a position already."""
    with closing(SinkCursor(path, reader)) as cursor:
        cursor.advance(position)


def position_of(path: Path, reader: str) -> int | None:
    """Return the position of a reader in another process; None until emit has opened the ledger for it."""
    try:
        with closing(connect_readonly(path)) as db:
            row = db.execute("SELECT pos FROM cursor WHERE sink = ?", (reader,)).fetchone()
    except apsw.Error:
        return None
    return None if row is None else cast(int, row[0])
