"""A damaged ledger: what is readable goes into a new file, the old one is set aside."""

from __future__ import annotations

import logging
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw

from streamer.core.errors import WireError
from streamer.events.ledger.schema import (
    BROKEN,
    INSERT_EVENT,
    INSERT_WORDS,
    VERSION,
    checksum,
    connect,
    create,
    transaction,
    words,
)
from streamer.events.schema import Event, decode

log = logging.getLogger(__name__)

HISTORY = 5_000
"""Events taken over besides those that are not delivered yet; a start should be quick."""
MAX_S = 5.0
KEPT = 3
"""Damaged files that are kept."""
_MAX_POSITION = 1 << 40
_UNREADABLE = (*BROKEN, apsw.IOError, apsw.CantOpenError, apsw.InterruptError, MemoryError, OverflowError)


@dataclass(frozen=True, slots=True)
class Recovered:
    reason: str
    """What happened, in words."""
    from_start: bool
    """The places of the sinks could not be read: they get everything that was taken over."""


def recover(path: Path, error: Exception) -> Recovered:
    """Put a new ledger in the place of a damaged one, also when this is killed at any moment and done again."""
    new = _new(path)
    for old in (new, new.with_name(new.name + "-journal")):
        old.unlink(missing_ok=True)
    target = connect(new, "OFF")
    with suppress(*_UNREADABLE):
        target.pragma("journal_mode", "off")
    create(target)
    with transaction(target):
        taken, lost, from_start = _copy(path, target)
    target.close()
    _sync(new)
    aside = path.with_name(f"{path.name}.broken-{time.time_ns()}")
    for end in ("", "-wal"):  # the file itself first: once it is gone, the new one takes its place
        with suppress(FileNotFoundError):
            path.with_name(path.name + end).rename(aside.with_name(aside.name + end))
    finish_recovery(path)
    _forget_old(path)
    reason = (
        f"the ledger could not be read ({error}): {taken} events were taken over, {lost} undelivered ones were lost, "
        f"the old file is {aside.name}"
    )
    log.error("%s: %s", path, reason)
    return Recovered(reason, from_start)


def finish_recovery(path: Path) -> None:
    """Put the new file in its place. Without an old file it is whole; beside one it may be half made."""
    if not path.exists() and _new(path).exists():
        for end in ("-wal", "-shm"):  # of the old one, which would spoil it
            path.with_name(path.name + end).unlink(missing_ok=True)
        _new(path).rename(path)
        _sync(path.parent)


def _new(path: Path) -> Path:
    return path.with_name(path.name + ".new")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _forget_old(path: Path) -> None:
    old = sorted(path.parent.glob(f"{path.name}.broken-*"), key=lambda one: one.name.removesuffix("-wal"))
    names = sorted({one.name.removesuffix("-wal") for one in old})
    for one in old:
        if one.name.removesuffix("-wal") not in names[-KEPT:]:
            one.unlink(missing_ok=True)


def _copy(path: Path, target: apsw.Connection) -> tuple[int, int, bool]:
    """Events taken over, losses of the sink that lost most, and whether the places of the sinks are unknown."""
    try:
        old = connect(path, "NORMAL")
        old.pragma("cell_size_check", True)
        deadline = time.monotonic() + MAX_S
        old.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)  # damage may lead in a circle
        current = old.pragma("user_version") == VERSION
    except _UNREADABLE:
        return 0, 0, True
    try:
        return _copy_from(old, target, current)
    finally:
        old.close()


def _copy_from(old: apsw.Connection, target: apsw.Connection, current: bool) -> tuple[int, int, bool]:
    cursors = {sink: pos for sink, pos in _rows(old, "SELECT sink, pos FROM cursor") if isinstance(pos, int)}
    sequences: defaultdict[str, int] = defaultdict(int)
    sequences.update(
        (source, sequence)
        for source, sequence in _rows(old, "SELECT source, sequence FROM source")
        if isinstance(source, str) and isinstance(sequence, int)
    )
    read: defaultdict[str, int] = defaultdict(int)
    taken: list[int] = []
    for row, event in _events(old, max(0, min(cursors.values(), default=0) - HISTORY), current):
        with suppress(apsw.ConstraintError):
            pos, _, source, sequence, *_ = row
            target.execute(INSERT_EVENT, row)
            taken.append(pos)
            read[source] = sequence
            if found := words(event):
                target.execute(INSERT_WORDS, (pos, found))
    # Behind the last that could be read there may be more: each has a number of its source.
    head = max([*cursors.values(), *taken[-1:]], default=0)
    head += sum(max(0, newest - read[source]) for source, newest in sequences.items() if source in read)
    sequences.update({source: max(sequence, sequences[source]) for source, sequence in read.items()})
    target.executemany("INSERT INTO source VALUES (?, ?)", sequences.items())
    target.executemany("INSERT INTO cursor VALUES (?, ?)", cursors.items())
    lost = {sink: head - pos - sum(one > pos for one in taken) for sink, pos in cursors.items()}
    if current:
        _copy_table(old, target, "dead", 6)
        _copy_table(old, target, "lost", 5)
    target.executemany(
        "INSERT INTO lost VALUES (?, '', ?, 0, 0)", [(sink, events) for sink, events in lost.items() if events > 0]
    )
    return len(taken), max(lost.values(), default=0), not cursors


def _copy_table(old: apsw.Connection, target: apsw.Connection, table: str, columns: int) -> None:
    marks = ", ".join("?" * columns)
    for row in _rows(old, f"SELECT * FROM {table}"):
        with suppress(apsw.Error):
            target.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", row)


def _rows(db: apsw.Connection, query: str, *values: int) -> Iterator[tuple[Any, ...]]:
    """Rows as far as they can be read."""
    with suppress(*_UNREADABLE):
        yield from db.execute(query, values)


def _events(db: apsw.Connection, after: int, current: bool) -> Iterator[tuple[tuple[Any, ...], Event]]:
    """Whole events after a position, in order; around damaged places."""
    columns = "created, crc, body" if current else "0.0, NULL, body"
    query = f"SELECT pos, id, source, sequence, {columns} FROM events WHERE pos > ? ORDER BY pos"
    step = 1
    while step < _MAX_POSITION:
        try:
            for row in db.execute(query, (after,)):
                whole = _whole(row)
                if whole is not None and whole[0][0] > after:
                    after, step = whole[0][0], 1
                    yield whole
            return
        except _UNREADABLE:
            after, step = after + step, 2 * step


def _whole(row: tuple[Any, ...]) -> tuple[tuple[Any, ...], Event] | None:
    """The row if it is one, with its checksum and time, and its event."""
    pos, event_id, source, sequence, created, crc, body = row
    if not isinstance(pos, int) or not isinstance(body, bytes) or crc not in (None, checksum(pos, body)):
        return None
    with suppress(WireError):
        event = decode(body)
        if (event.id, event.source, event.sequence) == (event_id, source, f"{sequence:016d}"):
            created = float(created) or time.time()
            return (pos, event_id, source, sequence, created, checksum(pos, body), body), event
    return None
