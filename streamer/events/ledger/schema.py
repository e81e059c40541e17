"""Tables of the ledger file, how to open it, and the checksum of its rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zlib import crc32

import apsw
from pydantic_core import from_json

from streamer.events.schema import Event, IncidentEvent, ResultEvent

VERSION = 2
BUSY_MS = 5000
"""Longest wait of a connection for the write lock of another one."""
PAGE = 4096
"""Bytes of a page, SQLite's default."""
MAX_NUMBER = 1 << 53
"""Positions and sequences are below this; a larger one is not of this program."""
MAX_TIME = 1e11
"""A later unix second is not of this program."""
MAX_BODY = 16 << 20
"""Largest body that is read, in bytes; twice the largest event that is accepted."""
BROKEN = (
    apsw.CorruptError,
    apsw.NotADBError,
    apsw.FormatError,
    apsw.SQLError,
    apsw.ConstraintError,
    apsw.MismatchError,
    UnicodeDecodeError,
)
"""Errors of a damaged file. A failing or full disk raises others."""
TABLES = """
CREATE TABLE events (pos INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, source TEXT NOT NULL,
    sequence INTEGER NOT NULL, created REAL NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL);
CREATE UNIQUE INDEX events_by_source ON events (source, sequence);
CREATE TABLE source (source TEXT PRIMARY KEY, sequence INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE cursor (sink TEXT PRIMARY KEY, pos INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE dead (sink TEXT NOT NULL, pos INTEGER NOT NULL, created REAL NOT NULL, reason TEXT NOT NULL,
    resend INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (sink, pos)) WITHOUT ROWID;
CREATE TABLE lost (sink TEXT NOT NULL, source TEXT NOT NULL, events INTEGER NOT NULL, first INTEGER NOT NULL,
    last INTEGER NOT NULL, PRIMARY KEY (sink, source)) WITHOUT ROWID;
CREATE VIRTUAL TABLE words USING fts5
    (text, content='', contentless_delete=1, tokenize='porter unicode61 remove_diacritics 2');
"""
ADDED_TABLES = """
CREATE TABLE IF NOT EXISTS sending (sink TEXT PRIMARY KEY, pos INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS deleted (id TEXT PRIMARY KEY, pos INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS incident (pos INTEGER PRIMARY KEY);
"""
"""Tables that an older file of this version lacks: events in delivery, ids of the events deleted last, and positions of
the incident events, which are few: an index by type would have an entry for each event."""


def connect(path: Path, synchronous: str) -> apsw.Connection:
    """Open the ledger for writing, and create the file if it is missing."""
    db = apsw.Connection(str(path))
    try:
        db.set_busy_timeout(BUSY_MS)
        db.pragma("synchronous", synchronous)
    except Exception:
        db.close()  # closed later, it would take the WAL of the file that replaced this one
        raise
    return db


def connect_readonly(path: Path) -> apsw.Connection:
    """Open an existing ledger for reading. Raises apsw.Error when that fails."""
    if not path.is_file():  # SQLite would wait for the writer of a pipe
        raise apsw.CantOpenError("not a regular file")
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    db.set_busy_timeout(BUSY_MS)
    return db


def create(db: apsw.Connection) -> None:
    """Create the tables in an empty file."""
    with transaction(db):
        db.execute(TABLES + ADDED_TABLES)
        db.pragma("user_version", VERSION)


def select_int(db: apsw.Connection, query: str, *values: str | int) -> int:
    """Return the single number that a query selects."""
    (found,) = db.execute(query, values).fetchall()[0]
    if not isinstance(found, int):
        raise apsw.MismatchError(f"no number: {query}")
    return found


def checksum(pos: int, body: bytes) -> int:
    """Return the CRC of an event at its position."""
    return crc32(body, pos & 0xFFFFFFFF)


def checked(pos: object, crc: object, body: object) -> tuple[int, bytes]:
    """Return position and body of a row. Raises apsw.CorruptError for a flipped bit, which SQLite does not notice."""
    if not isinstance(pos, int) or not isinstance(body, bytes) or checksum(pos, body) != crc:
        raise apsw.CorruptError(f"the event at {pos} is damaged")
    return pos, body


def is_number(value: object) -> bool:
    """Return whether a value of the file is a position or sequence that this program can have written."""
    return isinstance(value, int) and 0 <= value < MAX_NUMBER


def is_time(value: object) -> bool:
    """Return whether a value of the file is a unix second that this program can have written."""
    return isinstance(value, float) and 0 < value < MAX_TIME


def is_event(body: object) -> bool:
    """Return whether a body without a checksum is a JSON object with the fields that every reader uses."""
    try:
        event = from_json(body) if isinstance(body, bytes) else None
    except ValueError:
        return False
    return (
        isinstance(event, dict)
        and all(isinstance(event.get(key), str) for key in ("id", "type", "subject"))
        and isinstance(event.get("data"), dict)
    )


def insert(db: apsw.Connection, row: tuple[Any, ...], event: Event) -> None:
    """Insert an event: its row for the table `events`, and its text for searches."""
    db.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    if isinstance(event, IncidentEvent):
        db.execute("INSERT INTO incident VALUES (?)", (row[0],))
    if text := _search_text(event):
        db.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (row[0], text))


def _search_text(event: Event) -> str:
    """Return the text by which a search finds an event: captions, labels, recognized text."""
    if not isinstance(event, ResultEvent) or event.data.result is None:
        return ""
    result = event.data.result
    labels = {shape.label for shapes in (result.boxes, result.polygons, result.quads) for shape in shapes}
    return " ".join([result.text or "", *sorted(labels)]).strip()


@contextmanager
def transaction(db: apsw.Connection) -> Iterator[None]:
    """Commit at the end, roll back on an exception."""
    # Not `with db`: on a full disk SQLite rolls back by itself, and the second rollback would hide the cause.
    # Immediate: a deferred transaction fails at once when a sink stored its position in between.
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")
