"""Reads events from the ledger by position, with filters, for readers that are no sinks."""

from __future__ import annotations

import json
import logging
import math
import os
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import apsw
from pydantic_core import from_json

from streamer.core.errors import ConfigError
from streamer.core.logs import RareLog
from streamer.events.ledger.schema import checked, connect_readonly, is_time

log = logging.getLogger(__name__)

SPAN = 5000
"""Events that one read of a search looks at, so that it holds the connection for a few hundredths of a second."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Selects events. A field that is None selects all."""

    stream: str | None = None
    task: str | None = None
    """The event's subject: a task's name, or for example `stream.down`."""
    text: str | None = None
    """A part of the question, answer or reason; upper and lower case are the same."""
    search: str | None = None
    """Words that must all be in the answer, in any grammatical form; `per*` matches every word that begins so."""
    since: float | None = None
    """Accepted at this unix second or later."""
    incidents: bool = False
    """Incident events only."""

    @property
    def scans(self) -> bool:
        """Return whether a search looks into each event, without an index."""
        looked_at = (self.stream, self.task, self.text)
        return self.search is None and not self.incidents and any(value is not None for value in looked_at)


_Value = int | float | str | bytes
_COLUMNS = "pos, created, body, crc"


class Entry(NamedTuple):
    position: int
    created: float
    """Unix second of its commit; 0 if the file holds no valid one."""
    body: bytes
    """A CloudEvent in JSON."""


class Page(NamedTuple):
    entries: list[Entry]
    """Oldest first."""
    position: int
    """Position at which to continue reading."""
    cut_at: int | None = None
    """Position at which the time for a search was over; None if all events were looked at or enough were found."""
    is_damaged: bool = False
    """The file is damaged, so events after `position` cannot be read."""

    def intact(self) -> Page:
        """Return the page. Raises ConfigError if the file is damaged."""
        if self.is_damaged:
            raise ConfigError(
                f"the ledger is damaged: no event after position {self.position} can be read; check its disk"
            )
        return self


class LedgerQuery:
    """Reads the ledger of a running agent. Thread-safe.

    A ledger that does not exist yet or cannot be read has no events. If the file was replaced, a position beyond the
    end of the new file counts as its beginning. Damaged events are passed over and counted in the log.
    """

    def __init__(self, path: Path, *, is_decoded: bool = False) -> None:
        """`is_decoded`: the reader decodes each event, which finds a body that is no JSON object; nothing else does."""
        self._path, self._is_decoded = path, is_decoded
        self._lock = threading.Lock()
        self._db: apsw.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._damaged = RareLog(log, "damaged event %d passed over, position %s: check the disk of the ledger")
        self._broken = RareLog(log, "ledger damaged, read %d failed, after position %s: check its disk")

    def close(self) -> None:
        with self._lock:
            self._close()

    def head(self) -> int:
        """Return the position of the newest event, 0 when there is none."""
        try:
            return self._bounds()[1]
        except apsw.Error:
            return 0

    def after(self, position: int, limit: int, filter: Filter | None = None, seconds: float = math.inf) -> Page:
        """Return the oldest events after `position`, at most `limit`. A search ends after `seconds`."""
        try:
            first, head = self._bounds()
            start = max(0 if position > head else position, first - 1)
            found, cut_at = self._search(_spans(start, head, filter), limit, filter, seconds, newest=False)
        except apsw.Error as error:
            return Page([], position, is_damaged=self._is_damage(error, position))
        if cut_at is not None:
            return Page(found, cut_at, cut_at)
        return Page(found, found[-1].position if found and len(found) == limit else head)

    def find(self, event_id: str) -> Entry | None:
        """Return the event with this id, or None if the ledger does not hold it or cannot be read."""
        try:
            return next(self._intact(self._execute(f"SELECT {_COLUMNS} FROM events WHERE id = ?", (event_id,))), None)
        except apsw.Error:
            return None

    def of_source(self, source: str) -> Iterator[Entry]:
        """Yield all events of a source, the oldest first; what cannot be read is left out."""
        query = f"SELECT {_COLUMNS} FROM events WHERE source = ? ORDER BY pos"
        try:
            yield from self._intact(self._execute(query, (source,)))
        except apsw.Error:
            return

    def newest(self, limit: int, filter: Filter | None = None, seconds: float = math.inf) -> Page:
        """Return the newest events, at most `limit`. A search ends after `seconds`."""
        try:
            first, head = self._bounds()
            spans = [(high, low) for low, high in _spans(first - 1, head, filter)][::-1]
            found, cut_at = self._search(spans, limit, filter, seconds, newest=True)
        except apsw.Error as error:
            return Page([], 0, is_damaged=self._is_damage(error, 0))
        return Page(found[::-1], head, cut_at)

    def _is_damage(self, error: apsw.Error, position: int) -> bool:
        """Return whether a read failed because the file is damaged, and log it. Others failed for a moment only."""
        is_damage = isinstance(error, (apsw.CorruptError, apsw.NotADBError, apsw.IOError))
        if is_damage:
            self._broken.add(position)
        return is_damage

    def _search(
        self, spans: Iterable[tuple[int, int]], limit: int, filter: Filter | None, seconds: float, newest: bool
    ) -> tuple[list[Entry], int | None]:
        """Return what was found in spans (from, to) of the ledger, and where the time was over."""
        found: list[Entry] = []
        until, cut_at = time.monotonic() + seconds, None
        for start, end in spans:
            if time.monotonic() >= until and cut_at is not None:
                return found, cut_at
            low, high = min(start, end), max(start, end)
            found += self._read(low, high, limit - len(found), filter or Filter(), newest)
            if len(found) >= limit:
                break
            cut_at = end
        return found, None

    def _bounds(self) -> tuple[int, int]:
        """Return the positions of the oldest and the newest event; (1, 0) if there is none."""
        query = "SELECT (SELECT min(pos) FROM events), (SELECT max(pos) FROM events)"
        for first, head in self._execute(query, ()):
            if isinstance(first, int) and isinstance(head, int):
                return first, head
        return 1, 0

    def _read(self, after: int, head: int, limit: int, filter: Filter, newest: bool) -> list[Entry]:
        found: list[Entry] = []
        while True:  # again if damaged ones were among those that were read
            wanted = limit - len(found)
            rows = self._execute(*_query(after, head, wanted, filter, newest))
            found += self._intact(rows)
            if len(rows) < wanted or len(found) == limit:
                return found
            last = rows[-1][0]
            after, head = (after, last - 1) if newest else (last, head)

    def _execute(self, query: str, values: Iterable[_Value]) -> list[tuple[Any, ...]]:
        """Return the rows of a query; none if there is no ledger. Raises apsw.Error if it cannot be read."""
        with self._lock:
            try:
                db = self._open()
                return [] if db is None else db.execute(query, tuple(values)).fetchall()
            except apsw.Error:
                self._close()
                raise

    def _open(self) -> apsw.Connection | None:
        try:
            status = os.stat(self._path)
        except OSError:
            status = None
        if status is None or not stat.S_ISREG(status.st_mode):  # SQLite would wait for the writer of a pipe
            self._close()
            return None
        if self._db is None or self._file != (status.st_dev, status.st_ino):
            self._close()
            self._db = connect_readonly(self._path)
            self._db.create_scalar_function("contains_text", _contains_text, 2)
            self._file = status.st_dev, status.st_ino
        return self._db

    def _intact(self, rows: Iterable[tuple[Any, ...]]) -> Iterator[Entry]:
        """Yield the rows of `_COLUMNS` whose checksum is right and whose body is a JSON object."""
        for position, created, body, crc in rows:
            try:
                checked(position, crc, body)
                is_object = self._is_decoded or isinstance(from_json(body, allow_inf_nan=False), dict)
            except (apsw.CorruptError, ValueError):
                is_object = False
            if is_object:  # the checksum does not contain the time
                yield Entry(position, created if is_time(created) else 0.0, body)
            else:
                self._damaged.add(position)

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
        self._db = self._file = None


def _spans(after: int, head: int, filter: Filter | None) -> Iterator[tuple[int, int]]:
    """Yield the bounds of consecutive reads: after the first position, up to the second one."""
    step = SPAN if filter is not None and filter.scans else max(1, head - after)
    for start in range(after, head, step):
        yield start, min(head, start + step)


def check_readable(path: Path) -> None:
    """Raise ConfigError when the ledger cannot be read."""
    try:
        with closing(connect_readonly(path)) as db:
            db.execute("SELECT source, sequence FROM source").fetchall()
    except apsw.Error:
        problem = "it is damaged, or no ledger" if path.exists() else "no such file"
        raise ConfigError(f"cannot read {path}: {problem}") from None


def _query(after: int, head: int, limit: int, filter: Filter, newest: bool) -> tuple[str, list[_Value]]:
    terms = ["pos > ?", "pos <= ?"]
    values: list[_Value] = [after, head]
    # A cross join reads the first table from end to end, so incidents are found without the events between them.
    table = "incident CROSS JOIN events USING (pos)" if filter.incidents else "events"
    for key, value in (("stream", filter.stream), ("subject", filter.task)):
        if value is not None:
            # Quotes inside a JSON text are escaped, so this matches the key only.
            terms.append("instr(body, ?)")
            values.append(f'"{key}":{json.dumps(value)}'.encode())
    if filter.text:
        terms.append("contains_text(body, ?)")
        values.append(filter.text)
    if filter.search is not None:
        terms.append("pos IN (SELECT rowid FROM words WHERE words MATCH ?)")
        values.append(_fts_query(filter.search))
    if filter.since is not None:
        terms.append("created >= ?")
        values.append(filter.since)
    order = "DESC" if newest else "ASC"
    return f"SELECT {_COLUMNS} FROM {table} WHERE {' AND '.join(terms)} ORDER BY pos {order} LIMIT ?", [*values, limit]


def _fts_query(text: str) -> str:
    """Return the words of a search for FTS5, quoted so that none is an operator."""
    quoted = []
    for word in text.split():
        plain = word.rstrip("*").replace('"', '""')
        quoted.append(f'"{plain}"' + "*" * (word.endswith("*")))
    return " ".join(quoted) or '""'


def _contains_text(*values: Any) -> bool:
    """Return whether a text value of the event, given as JSON, contains a text; its keys and numbers do not count."""
    body, text = values
    needle = text.casefold()
    if json.dumps(needle, ensure_ascii=False)[1:-1] not in body.decode(errors="replace").casefold():
        return False  # quick: most events are not parsed
    try:
        return any(needle in word.casefold() for word in _texts(from_json(body)))
    except (ValueError, TypeError, LookupError, AttributeError):  # not an event as this version knows it
        return False


def _texts(event: dict[str, Any]) -> Iterator[str]:
    data = event["data"]
    result = data.get("result") or {}
    shapes = (shape for kind in ("boxes", "polygons", "quads") for shape in result.get(kind, ()))
    names = ("name", "task", "outcome", "text", "error", "state", "reason", "stream", "sink", "worker")
    found = [event["subject"], result.get("text"), *(data.get(name) for name in names)]
    yield from (word for word in found if isinstance(word, str))
    yield from (shape["label"] for shape in shapes)
