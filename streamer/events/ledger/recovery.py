"""Replaces a damaged ledger: readable events go into a new file, the old one is kept beside it."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from streamer.core.atomic_file import sync_to_disk
from streamer.core.errors import WireError
from streamer.events.ledger.schema import (
    BROKEN,
    VERSION,
    checksum,
    connect,
    create,
    insert,
    is_number,
    is_time,
    transaction,
)
from streamer.events.schema import Event, decode

log = logging.getLogger(__name__)

HISTORY = 5_000
"""Delivered events that are recovered beside all undelivered ones; more would slow down the start."""
MAX_S = 5.0
"""Maximum seconds of reading: damage may lead SQLite in a circle."""
KEPT = 3
"""Damaged files kept; older ones are deleted."""
_MAX_POSITION = 1 << 40
_UNREADABLE = (*BROKEN, apsw.IOError, apsw.CantOpenError, apsw.InterruptError, MemoryError, OverflowError)


class Recovery(NamedTuple):
    """Result of a recovery."""

    reason: str
    """Cause and numbers, for the log and the `ledger.salvaged` event."""
    has_cursors: bool
    """True if the positions of the sinks were readable; if not, sinks get every recovered event."""


class _Copied(NamedTuple):
    events: int
    lost: int
    """Undelivered events lost for the sink that lost most."""
    has_cursors: bool


def recover(path: Path, error: Exception) -> Recovery:
    """Put a new ledger in the place of a damaged one. May be killed at any moment and run again."""
    new = _new(path)
    for leftover in (new, new.with_name(new.name + "-journal")):
        leftover.unlink(missing_ok=True)
    target = connect(new, "OFF")
    with suppress(*_UNREADABLE):
        target.pragma("journal_mode", "off")
    create(target)
    with transaction(target):
        copied = _copy(path, target)
    target.close()
    sync_to_disk(new)
    kept = path.with_name(f"{path.name}.broken-{time.time_ns()}")
    for end in ("", "-wal"):  # the file itself first: once it is gone, the new one takes its place
        with suppress(FileNotFoundError):
            path.with_name(path.name + end).rename(kept.with_name(kept.name + end))
    finish_recovery(path)
    _delete_old_damaged(path)
    cause = "was written by another version" if isinstance(error, apsw.FormatError) else "was damaged"
    reason = (
        f"the ledger {cause}: {copied.events} events were recovered, {copied.lost} undelivered events were lost, "
        f"the old file is {kept.name}"
    )
    log.error("%s: %s", path, reason)
    log.info("%s: the damage was found by: %s", path, error)
    return Recovery(reason, copied.has_cursors)


def damage_mark(path: Path) -> Path:
    """Return the file that says that the ledger was found damaged while it was used: its next open recovers it."""
    return path.with_name(path.name + ".suspect")


def finish_recovery(path: Path) -> None:
    """Rename the new file to `path` if the old one is gone: then it is complete, else it may be half written."""
    if not path.exists() and _new(path).exists():
        for end in ("-wal", "-shm"):  # of the old file; SQLite would apply them to the new one
            path.with_name(path.name + end).unlink(missing_ok=True)
        _new(path).rename(path)
        sync_to_disk(path.parent)


def _new(path: Path) -> Path:
    return path.with_name(path.name + ".new")


def _delete_old_damaged(path: Path) -> None:
    files = list(path.parent.glob(f"{path.name}.broken-*"))
    newest = sorted({one.name.removesuffix("-wal") for one in files})[-KEPT:]
    for one in files:
        if one.name.removesuffix("-wal") not in newest:
            one.unlink(missing_ok=True)


def _copy(path: Path, target: apsw.Connection) -> _Copied:
    try:
        old = connect(path, "NORMAL")
        old.pragma("cell_size_check", True)
        deadline = time.monotonic() + MAX_S
        old.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
        current = old.pragma("user_version") == VERSION
    except _UNREADABLE:
        return _Copied(0, 0, has_cursors=False)
    with closing(old):
        return _copy_tables(old, target, current)


def _copy_tables(old: apsw.Connection, target: apsw.Connection, current: bool) -> _Copied:
    """Copy what is readable. `current`: the file is of this version and has all tables."""
    cursors = {sink: pos for sink, pos in _rows(old, "SELECT sink, pos FROM cursor") if is_number(pos)}
    sequences: defaultdict[str, int] = defaultdict(int)
    sequences.update(
        (source, sequence)
        for source, sequence in _rows(old, "SELECT source, sequence FROM source")
        if isinstance(source, str) and is_number(sequence)
    )
    read: defaultdict[str, int] = defaultdict(int)  # newest sequence of a source among the readable events
    copied: list[int] = []
    for row, event in _events(old, max(0, min(cursors.values(), default=0) - HISTORY), current):
        with suppress(apsw.ConstraintError):
            pos, _, source, sequence, *_ = row
            insert(target, row, event)
            copied.append(pos)
            read[source] = sequence
    # Sequences are without holes, so they show how many unreadable events followed the last readable one.
    newest = max([*cursors.values(), *copied[-1:]], default=0)
    newest += sum(max(0, last - read[source]) for source, last in sequences.items() if source in read)
    sequences.update({source: max(sequence, sequences[source]) for source, sequence in read.items()})
    target.executemany("INSERT INTO source VALUES (?, ?)", sequences.items())
    target.executemany("INSERT INTO cursor VALUES (?, ?)", cursors.items())
    lost = {sink: newest - pos - sum(one > pos for one in copied) for sink, pos in cursors.items()}
    if current:
        _copy_table(old, target, "dead", 6)
        _copy_table(old, target, "lost", 5)
        _copy_table(old, target, "sending", 2)
        _copy_table(old, target, "deleted", 2)
    target.executemany(
        "INSERT INTO lost VALUES (?, '', ?, 0, 0)", [(sink, events) for sink, events in lost.items() if events > 0]
    )
    return _Copied(len(copied), max(lost.values(), default=0), bool(cursors))


def _copy_table(old: apsw.Connection, target: apsw.Connection, table: str, columns: int) -> None:
    marks = ", ".join("?" * columns)
    for row in _rows(old, f"SELECT * FROM {table}"):
        with suppress(apsw.Error):
            target.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", row)


def _rows(db: apsw.Connection, query: str) -> Iterator[tuple[Any, ...]]:
    """Yield rows until one cannot be read."""
    with suppress(*_UNREADABLE):
        yield from db.execute(query)


def _events(db: apsw.Connection, after: int, current: bool) -> Iterator[tuple[tuple[Any, ...], Event]]:
    """Yield undamaged events after a position, in order; skip damaged places in growing steps."""
    columns = "created, crc, body" if current else "0.0, NULL, body"
    query = f"SELECT pos, id, source, sequence, {columns} FROM events WHERE pos > ? ORDER BY pos"
    step = 1
    while step < _MAX_POSITION:
        try:
            for row in db.execute(query, (after,)):
                valid = _validated(row)
                if valid is not None and valid[0][0] > after:
                    after, step = valid[0][0], 1
                    yield valid
            return
        except _UNREADABLE:
            after, step = after + step, 2 * step


def _validated(row: tuple[Any, ...]) -> tuple[tuple[Any, ...], Event] | None:
    """Return the row with checksum and time, and its event; None when it is damaged."""
    pos, event_id, source, sequence, created, crc, body = row
    if not (is_number(pos) and is_number(sequence) and isinstance(body, bytes)) or crc not in (
        None,
        checksum(pos, body),
    ):
        return None
    with suppress(WireError):
        event = decode(body)
        if (event.id, event.source, event.sequence) == (event_id, source, f"{sequence:016d}"):
            created = created if is_time(created) else time.time()
            return (pos, event_id, source, sequence, created, checksum(pos, body), body), event
    return None
