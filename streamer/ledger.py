"""The book of accepted events: one SQLite file, from which every sink reads at its own pace.

What `commit` returned for survives kill -9 and power loss (WAL, synchronous=FULL). One process writes; each sink has
a connection of its own for its place in the book. A place is stored without a sync of its own: after a power loss it
may be a little behind, and the sink gets those events a second time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import apsw

from streamer.events import Event, encode, numbered

log = logging.getLogger(__name__)

KEEP = 100_000
"""Events kept, delivered or not. Also the memory by which a repeated event is known."""
_BUSY_MS = 5000
_TABLES = """
CREATE TABLE IF NOT EXISTS events (pos INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, source TEXT NOT NULL,
    sequence INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS source (source TEXT PRIMARY KEY, sequence INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cursor (sink TEXT PRIMARY KEY, pos INTEGER NOT NULL) WITHOUT ROWID;
"""


class Ledger:
    """The writing end; a context manager. Raises apsw.Error when the disk fails: leave it, and open it anew.

    A file that turns out to be no readable database is set aside, on opening or on leaving: no start meets it twice.
    """

    def __init__(self, path: Path, keep: int = KEEP) -> None:
        self._path = path
        self._keep = keep
        self._head = self._tail = 0  # newest and oldest position
        self._sequences: dict[str, int] = {}  # the newest of each source
        try:
            self._open()
        except (apsw.NotADBError, apsw.CorruptError) as error:
            _set_aside(path, error)  # the agent must start without it
            self._open()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.close()
        if isinstance(error, apsw.CorruptError):
            _set_aside(self._path, error)

    def close(self) -> None:
        self._db.close()

    @property
    def head(self) -> int:
        """Position of the newest event, 0 in an empty book. Positions count from 1 without holes."""
        return self._head

    def commit(self, events: Sequence[Event]) -> int:
        """Store the events that are new, each as the next of its source, in one transaction; return how many were."""
        head, sequences = self._head, dict(self._sequences)
        with _transaction(self._db):
            for event in events:
                if self._knows(event.id):
                    continue
                head += 1
                sequence = sequences.get(event.source, 0) + 1
                sequences[event.source] = sequence
                body = encode(numbered(event, sequence))
                row = (head, event.id, event.source, sequence, body)
                self._db.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?)", row)
                self._db.execute("INSERT OR REPLACE INTO source VALUES (?, ?)", (event.source, sequence))
            tail = self._forget(head)
        new = head - self._head
        self._head, self._tail, self._sequences = head, tail, sequences
        return new

    def readers(self, sinks: Iterable[str]) -> dict[str, Reader]:
        """A reader per sink. A sink seen for the first time starts at the newest event, one not named is forgotten."""
        names = list(sinks)
        with _transaction(self._db):
            stored = [cast(str, sink) for (sink,) in self._db.execute("SELECT sink FROM cursor").fetchall()]
            self._db.executemany("DELETE FROM cursor WHERE sink = ?", [(sink,) for sink in stored if sink not in names])
            self._db.executemany("INSERT OR IGNORE INTO cursor VALUES (?, ?)", [(sink, self._head) for sink in names])
        return {sink: Reader(self._path, sink) for sink in names}

    def _open(self) -> None:
        self._db = _connect(self._path, "FULL")
        try:
            self._db.pragma("journal_mode", "wal")
            self._db.execute(_TABLES)
            self._head = _number(self._db, "SELECT ifnull(max(pos), 0) FROM events")
            self._tail = _number(self._db, "SELECT ifnull(min(pos), 1) FROM events")
            rows = self._db.execute("SELECT source, sequence FROM source")
            self._sequences = {cast(str, source): cast(int, sequence) for source, sequence in rows}
        except apsw.Error:
            self._db.close()
            raise

    def _knows(self, event_id: str) -> bool:
        return self._db.execute("SELECT 1 FROM events WHERE id = ?", (event_id,)).fetchone() is not None

    def _forget(self, head: int) -> int:
        """Delete what is too old, in strokes large enough to be rare; return the oldest position left."""
        if head - self._tail < self._keep + self._keep // 100:
            return self._tail
        tail = head - self._keep + 1
        self._db.execute("DELETE FROM events WHERE pos < ?", (tail,))
        return tail


class Reader:
    """One sink's place in the book. Used by one thread at a time."""

    def __init__(self, path: Path, sink: str) -> None:
        self._sink = sink
        self._db = _connect(path, "NORMAL")
        self.position = _number(self._db, "SELECT pos FROM cursor WHERE sink = ?", sink)
        """The newest event this sink is done with."""

    def close(self) -> None:
        self._db.close()

    def read(self, limit: int) -> list[tuple[int, bytes]]:
        """The next events after `position`, with theirs."""
        query = "SELECT pos, body FROM events WHERE pos > ? ORDER BY pos LIMIT ?"
        rows = self._db.execute(query, (self.position, limit)).fetchall()
        return [(cast(int, pos), cast(bytes, body)) for pos, body in rows]

    def advance(self, position: int) -> None:
        """The sink is done with everything up to `position`."""
        self._db.execute("UPDATE cursor SET pos = ? WHERE sink = ?", (position, self._sink))
        self.position = position

    def find(self, event_id: str) -> int | None:
        """Position of an event, None when it is not in the book (any more)."""
        row = self._db.execute("SELECT pos FROM events WHERE id = ?", (event_id,)).fetchone()
        return None if row is None else cast(int, row[0])


def _set_aside(path: Path, error: apsw.Error) -> None:
    aside = path.with_name(f"{path.name}.broken-{time.time_ns()}")
    path.rename(aside)
    for rest in ("-wal", "-shm"):  # they belong to the broken one and would spoil the new one
        path.with_name(path.name + rest).unlink(missing_ok=True)
    log.error("%s cannot be read (%s): moved to %s, its undelivered events with it", path, error, aside.name)


@contextmanager
def _transaction(db: apsw.Connection) -> Iterator[None]:
    # Not `with db`: on a full disk SQLite rolls back by itself, and the second rollback would hide why.
    # Immediate: a deferred one fails at once when a reader stored its place in between.
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


def _connect(path: Path, synchronous: str) -> apsw.Connection:
    db = apsw.Connection(str(path))
    db.set_busy_timeout(_BUSY_MS)
    db.pragma("synchronous", synchronous)
    return db


def _number(db: apsw.Connection, query: str, *values: str) -> int:
    (number,) = db.execute(query, values).fetchall()[0]
    return cast(int, number)
