"""Ids of accepted events. Those of the events deleted last are remembered, because their senders may repeat them."""

from __future__ import annotations

import apsw

KEPT = 4096
"""Ids of deleted events that are remembered: more than all copies of events that can be on the way to emit, which a
client sends again until they are acknowledged."""


def is_known(db: apsw.Connection, event_id: str) -> bool:
    """Return whether an event was accepted before. On a small or full disk it may be deleted already."""
    query = "SELECT 1 FROM events WHERE id = ?1 UNION ALL SELECT 1 FROM deleted WHERE id = ?1"
    return db.execute(query, (event_id,)).fetchone() is not None


def delete_events(db: apsw.Connection, first: int, last: int) -> None:
    """Delete the events up to position `last`, of which `first` is the oldest, and remember their ids."""
    ids = db.execute("DELETE FROM events WHERE pos <= ? RETURNING id, pos", (last,)).fetchall()
    db.execute("DELETE FROM incident WHERE pos <= ?", (last,))
    db.execute("DELETE FROM words WHERE rowid BETWEEN ? AND ?", (first, last))
    db.execute("DELETE FROM deleted WHERE pos <= ?", (last - KEPT,))
    db.executemany("INSERT OR REPLACE INTO deleted VALUES (?, ?)", ids)
