"""Writes events into the ledger: numbers them, deletes the oldest, and reports what sinks missed."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import cast

import apsw

from streamer.core.closing import Closing
from streamer.events.build import ledger_event, sink_event
from streamer.events.ledger.cursor import SinkCursor
from streamer.events.ledger.known_ids import delete_events, is_known
from streamer.events.ledger.losses import keep_reported_losses
from streamer.events.ledger.recovery import damage_mark, finish_recovery, recover
from streamer.events.ledger.retention import Retention
from streamer.events.ledger.schema import (
    ADDED_TABLES,
    BROKEN,
    PAGE,
    VERSION,
    checksum,
    connect,
    create,
    insert,
    is_number,
    is_time,
    select_int,
    transaction,
)
from streamer.events.schema import Event, Lost, StatusEvent, encode, numbered

log = logging.getLogger(__name__)

DELETE_BATCH = 512
"""Most events deleted in one commit: more than a commit adds, so that deletion keeps up; few enough to be fast."""
SPARE_PAGES = 256
"""Free pages that are made inside the file when the disk is nearly full."""
LOST_EVERY_S = 60.0
"""Minimum seconds between two reports of losses."""


class Ledger(Closing):
    """The only writer of events; a context manager.

    Raises apsw.FullError while the disk is full: try again later. After any other apsw.Error close the ledger. If
    the file turns out to be damaged, the next open recovers the readable events into a new file.
    """

    def __init__(self, path: Path, agent: str = "agent", retention: Retention | None = None) -> None:
        """Raises apsw.Error if the file cannot be opened. A damaged file is recovered instead."""
        self._path, self._agent, self._retention = path, agent, retention or Retention()
        self._damage_mark = damage_mark(path)
        self._db: apsw.Connection
        self._newest = 0  # position; the oldest is one more than the newest in an empty ledger
        self._oldest = 0
        self._oldest_created = 0.0  # unix second of the oldest event's commit
        self._sequences: dict[str, int] = {}  # newest sequence by source
        self._has_losses = False  # some are recorded and not reported yet
        self._losses_reported_at = -LOST_EVERY_S
        self._readers: list[str] = []
        self._first_position: int | None = None  # of new sinks, if not the newest event
        finish_recovery(path)
        if path.exists() and not path.is_file():  # SQLite would use a pipe or a device
            raise apsw.CantOpenError("not a regular file")
        try:
            if self._damage_mark.exists():
                raise apsw.CorruptError("found damaged while it was used")
            self._open()
        except BROKEN as error:
            recovered = recover(path, error)
            self._damage_mark.unlink(missing_ok=True)
            self._open()
            self._first_position = None if recovered.has_cursors else self._oldest - 1
            self.commit([ledger_event(agent, "salvaged", recovered.reason)])

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.close()
        if isinstance(error, BROKEN):
            with suppress(OSError):  # on a full disk the next process finds the damage again
                self._damage_mark.touch()

    def close(self) -> None:
        self._db.close()

    def check_mark(self) -> None:
        """Raise apsw.CorruptError if a reader in another process has found the file damaged."""
        if self._damage_mark.exists():
            raise apsw.CorruptError("found damaged by a reader")

    @property
    def losses_due(self) -> bool:
        """True if losses are to be reported now: call `commit`, without events if there are none."""
        return self._has_losses and time.monotonic() - self._losses_reported_at >= LOST_EVERY_S

    def commit(self, events: Sequence[Event]) -> int:
        """Store the new ones of `events` in one transaction and return their number; known ids are skipped.

        Each event gets the next sequence of its source here. A commit without events still writes to the disk, so that
        a failing disk is noticed.
        """
        newest, sequences, now = self._newest, dict(self._sequences), time.time()
        with transaction(self._db):
            losses = self._take_losses() if self.losses_due else []
            for event in [*events, *losses]:
                if is_known(self._db, event.id):
                    continue
                newest += 1
                sequence = sequences[event.source] = sequences.get(event.source, 0) + 1
                body = encode(numbered(event, sequence))
                row = (newest, event.id, event.source, sequence, now, checksum(newest, body), body)
                insert(self._db, row, event)
                self._db.execute("INSERT OR REPLACE INTO source VALUES (?, ?)", (event.source, sequence))
            if newest == self._newest:  # nothing was inserted: write anyway, so that a failing disk is noticed
                self._db.pragma("user_version", VERSION)
            new_losses = self._delete_oldest(newest, now)
        added = newest - self._newest
        if self._oldest > self._newest:  # it was empty
            self._oldest_created = now
        self._newest, self._sequences = newest, sequences
        if losses:
            self._has_losses, self._losses_reported_at = False, time.monotonic()
            for loss in losses:
                log.error("sink %s: %s", loss.source.rpartition("/")[2], loss.data.reason)
        if new_losses is not None:
            self._oldest, self._oldest_created = self._find_oldest(newest)
            self._has_losses = self._has_losses or new_losses
        return added

    def cursors(self, sinks: Iterable[str], readers: Iterable[str] = ()) -> dict[str, SinkCursor]:
        """Return a cursor per sink. A new sink starts at the newest event; sinks that are not named are deleted.

        `readers` get a position as sinks do, which their own processes advance. Events are not deleted for their age
        before a reader has read them.
        """
        self._readers = list(readers)
        opened = list(sinks)
        names = [*opened, *self._readers]
        with transaction(self._db):
            for table in ("cursor", "dead", "lost", "sending"):
                stored = [cast(str, sink) for (sink,) in self._db.execute(f"SELECT DISTINCT sink FROM {table}")]
                removed = [(sink,) for sink in stored if sink not in names]
                self._db.executemany(f"DELETE FROM {table} WHERE sink = ?", removed)
            first = self._newest if self._first_position is None else self._first_position
            self._db.executemany("INSERT OR IGNORE INTO cursor VALUES (?, ?)", [(sink, first) for sink in names])
        self._first_position = None
        return {sink: SinkCursor(self._path, sink) for sink in opened}

    def _open(self) -> None:
        self._db = connect(self._path, "FULL")
        try:
            self._db.pragma("journal_mode", "wal")
            if not select_int(self._db, "SELECT count(*) FROM sqlite_master"):
                create(self._db)
            elif self._db.pragma("user_version") != VERSION:
                raise apsw.FormatError("another version of the program wrote it")
            else:
                self._db.execute(ADDED_TABLES)
            if select_int(self._db, "SELECT count(*) FROM sqlite_master WHERE type IN ('trigger', 'view')"):
                raise apsw.FormatError("another program has changed its tables")
            newest = "SELECT max(ifnull((SELECT max(pos) FROM events), 0), ifnull((SELECT max(pos) FROM cursor), 0))"
            self._newest = select_int(self._db, newest)
            self._oldest, self._oldest_created = self._find_oldest(self._newest)
            rows = self._db.execute("SELECT source, sequence FROM source").fetchall()
            self._sequences = {cast(str, source): cast(int, sequence) for source, sequence in rows}
            if not all(map(is_number, [self._newest, *self._sequences.values()])):
                raise apsw.MismatchError("a position or sequence is no number of this program")
            self._has_losses = bool(select_int(self._db, "SELECT count(*) FROM lost"))
        except Exception:
            self._db.close()
            raise

    def _find_oldest(self, newest: int) -> tuple[int, float]:
        """Return position and commit time of the oldest event."""
        row = self._db.execute("SELECT pos, created FROM events ORDER BY pos LIMIT 1").fetchone()
        if row is None:
            return newest + 1, time.time()
        if not is_time(row[1]):
            raise apsw.MismatchError("the commit time of an event is no time")
        return cast(int, row[0]), cast(float, row[1])

    # -- retention

    def _delete_oldest(self, newest: int, now: float) -> bool | None:
        """Delete the oldest events by age or size, at most `DELETE_BATCH`.

        Return whether a sink had not delivered all of them; None when nothing is deleted.
        """
        last = min(self._oldest + DELETE_BATCH - 1, newest - 1)
        if not self._is_too_large():
            if self._oldest_created >= now - self._retention.keep:
                return None
            query = "SELECT ifnull(max(pos), 0) FROM events WHERE pos <= ? AND created < ?"
            last = select_int(self._db, query, last, int(now - self._retention.keep))
            last = min(last, *(self._position(reader) for reader in self._readers), last)
        if last < self._oldest:
            return None
        losses = self._record_losses(last)
        delete_events(self._db, self._oldest, last)
        return losses

    def _position(self, reader: str) -> int:
        return select_int(self._db, "SELECT pos FROM cursor WHERE sink = ?", reader)

    def _is_too_large(self) -> bool:
        """Return True if the limit is exceeded or the disk nearly full: then old events make room inside the file."""
        free = cast(int, self._db.pragma("freelist_count"))
        if (cast(int, self._db.pragma("page_count")) - free) * PAGE > self._retention.max_bytes:
            return True
        disk = os.statvfs(self._path.parent)
        reserve = min(64 << 20, disk.f_blocks * disk.f_frsize // 4)
        return free < SPARE_PAGES and disk.f_bavail * disk.f_frsize < reserve

    def _record_losses(self, last: int) -> bool:
        """Record for each sink which of the events up to `last` it has not delivered; return whether there are any."""
        keep_reported_losses(self._db, last, self._readers)
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

    def _take_losses(self) -> list[StatusEvent]:
        """Delete the recorded losses and return them as one event per sink."""
        by_sink: dict[str, list[tuple[str, int, int, int]]] = {}
        for sink, *row in self._db.execute("DELETE FROM lost RETURNING sink, source, events, first, last").fetchall():
            by_sink.setdefault(cast(str, sink), []).append(cast(tuple[str, int, int, int], tuple(row)))
        return [self._loss_event(sink, rows) for sink, rows in by_sink.items()]

    def _loss_event(self, sink: str, rows: Sequence[tuple[str, int, int, int]]) -> StatusEvent:
        lost = Lost(
            events=sum(events for _, events, _, _ in rows),
            sequences={source: (f"{first:016d}", f"{last:016d}") for source, _, first, last in rows if source},
        )
        reason = f"{lost.events} events were deleted from the ledger before they could be delivered"
        return sink_event(self._agent, sink, "lost", reason, lost=lost)
