"""The writing end of the ledger."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

import apsw

from streamer.events.build import ledger_event, sink_event
from streamer.events.ledger.cursor import SinkCursor
from streamer.events.ledger.recovery import finish_recovery, recover
from streamer.events.ledger.retention import Retention
from streamer.events.ledger.schema import (
    BROKEN,
    INSERT_EVENT,
    INSERT_WORDS,
    PAGE,
    VERSION,
    connect,
    create,
    event_row,
    number,
    transaction,
    words,
)
from streamer.events.schema import Event, Lost, StatusEvent, encode, numbered

log = logging.getLogger(__name__)

DELETE_BATCH = 512
"""Events deleted in one commit at most: more than come in with one, and few enough to be quick."""
SPARE_PAGES = 256
"""Free pages inside the file that are made when the disk is nearly full."""
LOST_EVERY_S = 60.0
"""How often losses are told at most."""


class Ledger:
    """A context manager. Raises apsw.FullError while the disk is full: try again later. Any other apsw.Error: leave it.

    A file that turns out to be damaged is set aside when it is opened the next time, with what is readable taken over.
    """

    def __init__(self, path: Path, agent: str = "agent", keep: Retention | None = None) -> None:
        """Raises apsw.Error when the file cannot be opened for another reason than damage."""
        self._path, self._agent, self._keep = path, agent, keep or Retention()
        self._suspect = path.with_name(path.name + ".suspect")
        self._db: apsw.Connection
        self._head = self._tail = 0  # newest and oldest position
        self._oldest = 0.0  # unix second at which the oldest was committed
        self._sequences: dict[str, int] = {}  # the newest of each source
        self._losses = False  # some are written down and not told yet
        self._start: int | None = None  # the place of sinks that are seen for the first time, if not the newest event
        self._told_at = -LOST_EVERY_S
        finish_recovery(path)
        try:
            if self._suspect.exists():
                raise apsw.CorruptError("found damaged while it was used")
            self._open()
        except BROKEN as error:
            saved = recover(path, error)
            self._suspect.unlink(missing_ok=True)
            self._open()
            self._start = self._tail - 1 if saved.from_start else None
            self.commit([ledger_event(agent, "salvaged", saved.reason)])

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.close()
        if isinstance(error, BROKEN):
            self._suspect.touch()

    def close(self) -> None:
        self._db.close()

    @property
    def head(self) -> int:
        """Position of the newest event, 0 in an empty book. Positions count from 1."""
        return self._head

    @property
    def has_news(self) -> bool:
        """Losses are to be told: commit, if need be nothing."""
        return self._losses and time.monotonic() - self._told_at >= LOST_EVERY_S

    def commit(self, events: Sequence[Event]) -> int:
        """Store the events that are new, each as the next of its source, in one transaction; return how many were.

        Without any it still writes, so that it shows whether the disk works.
        """
        head, sequences, now = self._head, dict(self._sequences), time.time()
        with transaction(self._db):
            told = self._tell_losses() if self.has_news else []
            for event in [*events, *told]:
                if self._knows(event.id):
                    continue
                head += 1
                sequence = sequences.get(event.source, 0) + 1
                sequences[event.source] = sequence
                body = encode(numbered(event, sequence))
                self._db.execute(INSERT_EVENT, event_row(head, event, sequence, now, body))
                self._db.execute("INSERT OR REPLACE INTO source VALUES (?, ?)", (event.source, sequence))
                if found := words(event):
                    self._db.execute(INSERT_WORDS, (head, found))
            if head == self._head:
                self._db.pragma("user_version", VERSION)
            forgot = self._forget(head, now)
        new = head - self._head
        if self._tail > self._head:  # it was empty
            self._oldest = now
        self._head, self._sequences = head, sequences
        if told:
            self._losses, self._told_at = False, time.monotonic()
        if forgot is not None:
            self._tail, self._oldest, losses = forgot
            self._losses = self._losses or losses
        return new

    def readers(self, sinks: Iterable[str]) -> dict[str, SinkCursor]:
        """A reader per sink. A sink seen for the first time starts at the newest event, one not named is forgotten."""
        names = list(sinks)
        with transaction(self._db):
            for table in ("cursor", "dead", "lost"):
                stored = [cast(str, sink) for (sink,) in self._db.execute(f"SELECT DISTINCT sink FROM {table}")]
                gone = [(sink,) for sink in stored if sink not in names]
                self._db.executemany(f"DELETE FROM {table} WHERE sink = ?", gone)
            start = self._head if self._start is None else self._start
            self._db.executemany("INSERT OR IGNORE INTO cursor VALUES (?, ?)", [(sink, start) for sink in names])
        self._start = None
        return {sink: SinkCursor(self._path, sink) for sink in names}

    def _open(self) -> None:
        self._db = connect(self._path, "FULL")
        try:
            self._db.pragma("journal_mode", "wal")
            if not number(self._db, "SELECT count(*) FROM sqlite_master"):
                create(self._db)
            elif self._db.pragma("user_version") != VERSION:
                raise apsw.FormatError("another version of the program wrote it")
            newest = "SELECT max(ifnull((SELECT max(pos) FROM events), 0), ifnull((SELECT max(pos) FROM cursor), 0))"
            self._head = number(self._db, newest)
            self._tail, self._oldest = self._ends(self._head)
            rows = self._db.execute("SELECT source, sequence FROM source")
            self._sequences = {cast(str, source): cast(int, sequence) for source, sequence in rows}
            self._losses = bool(number(self._db, "SELECT count(*) FROM lost"))
        except Exception:
            self._db.close()
            raise

    def _ends(self, head: int) -> tuple[int, float]:
        """Position of the oldest event, and the unix second of its commit."""
        row = self._db.execute("SELECT pos, created FROM events ORDER BY pos LIMIT 1").fetchone()
        return (head + 1, time.time()) if row is None else (cast(int, row[0]), cast(float, row[1]))

    def _knows(self, event_id: str) -> bool:
        return self._db.execute("SELECT 1 FROM events WHERE id = ?", (event_id,)).fetchone() is not None

    # -- what is too old, or too much

    def _forget(self, head: int, now: float) -> tuple[int, float, bool] | None:
        """Delete the oldest if that is due; what is the oldest then, when it came, and whether a sink missed some."""
        last = min(self._tail + DELETE_BATCH - 1, head - 1)
        if not self._too_much():
            if self._oldest >= now - self._keep.keep:
                return None
            query = "SELECT ifnull(max(pos), 0) FROM events WHERE pos <= ? AND created < ?"
            last = number(self._db, query, last, int(now - self._keep.keep))
        if last < self._tail:
            return None
        missed = self._note_losses(last)
        self._db.execute("DELETE FROM events WHERE pos <= ?", (last,))
        self._db.execute("DELETE FROM words WHERE rowid BETWEEN ? AND ?", (self._tail, last))
        return *self._ends(head), missed

    def _too_much(self) -> bool:
        """By the limit; or the disk is nearly full: then the file does not grow, it reuses the room of the oldest."""
        free = cast(int, self._db.pragma("freelist_count"))
        if (cast(int, self._db.pragma("page_count")) - free) * PAGE > self._keep.max_bytes:
            return True
        disk = os.statvfs(self._path.parent)
        reserve = min(64 << 20, disk.f_blocks * disk.f_frsize // 4)
        return free < SPARE_PAGES and disk.f_bavail * disk.f_frsize < reserve

    def _note_losses(self, last: int) -> bool:
        """Write down for each sink what is deleted before it was delivered."""
        behind = self._db.execute("SELECT sink, pos FROM cursor WHERE pos < ?", (last,)).fetchall()
        for sink, position in behind:
            self._db.execute(
                "INSERT INTO lost SELECT ?, source, count(*), min(sequence), max(sequence) FROM events"
                " WHERE pos > ? AND pos <= ? GROUP BY source ON CONFLICT (sink, source)"
                " DO UPDATE SET events = events + excluded.events, last = excluded.last",
                (sink, position, last),
            )
            self._db.execute("UPDATE cursor SET pos = ? WHERE sink = ?", (last, sink))
        return bool(behind)

    def _tell_losses(self) -> list[StatusEvent]:
        """One event for each sink that missed some."""
        by_sink: dict[str, list[tuple[str, int, int, int]]] = {}
        for sink, *row in self._db.execute("DELETE FROM lost RETURNING sink, source, events, first, last").fetchall():
            by_sink.setdefault(cast(str, sink), []).append(cast(tuple[str, int, int, int], tuple(row)))
        told = []
        for sink, rows in by_sink.items():
            lost = Lost(
                events=sum(events for _, events, _, _ in rows),
                sequences={source: (f"{first:016d}", f"{last:016d}") for source, _, first, last in rows if source},
            )
            reason = f"{lost.events} events were deleted from the ledger before they could be delivered"
            log.error("sink %s: %s", sink, reason)
            told.append(sink_event(self._agent, sink, "lost", reason, lost=lost))
        return told
