"""The ledger, as readers see it who have no place in it: by position, filtered, never writing."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import apsw

_BUSY_MS = 2000


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events. What is None does not matter."""

    stream: str | None = None
    task: str | None = None
    """The event's subject: a task's name, or for example `stream.down`."""
    text: str | None = None
    """Found in what was asked, answered or reported; capitals do not matter."""
    search: str | None = None
    """Words that are all in the answer, in any of their forms; `per*` stands for all that begin so."""
    since: float | None = None
    """Accepted at this unix second or later."""


class Entry(NamedTuple):
    position: int
    body: bytes
    """A CloudEvent in JSON."""


class Page(NamedTuple):
    entries: list[Entry]
    """Oldest first."""
    position: int
    """Where to read on."""


class LedgerQuery:
    """Reads the ledger of a running agent. May be used by several threads.

    A ledger that is not there yet, or cannot be read now, has no events. When another one took its place, a position
    of the old one that is beyond the new one's end counts as its beginning.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._db: apsw.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._filter = Filter()

    def close(self) -> None:
        with self._lock:
            self._close()

    def head(self) -> int:
        """Position of the newest event, 0 when there is none."""
        return self.newest(0).position

    def after(self, position: int, limit: int, wanted: Filter | None = None) -> Page:
        """The oldest events after `position`, at most `limit`."""
        return self._read(position, limit, wanted or Filter(), newest=False)

    def newest(self, limit: int, wanted: Filter | None = None) -> Page:
        """The newest events, at most `limit`."""
        return self._read(0, limit, wanted or Filter(), newest=True)

    def _read(self, after: int, limit: int, wanted: Filter, newest: bool) -> Page:
        with self._lock:
            try:
                db = self._open()
                if db is None:
                    return Page([], 0)
                self._filter = wanted
                ((head,),) = db.execute("SELECT ifnull(max(pos), 0) FROM events").fetchall()
                assert isinstance(head, int)
                after = 0 if after > head else after
                query, values = _query(after, head, limit, wanted, newest)
                entries = [Entry(cast(int, pos), cast(bytes, body)) for pos, body in db.execute(query, values)]
            except apsw.Error:
                self._close()
                return Page([], after)
        if newest:
            return Page(entries[::-1], head)
        return Page(entries, entries[-1].position if len(entries) == limit else head)

    def _open(self) -> apsw.Connection | None:
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            self._close()
            return None
        if self._db is None or self._file != (status.st_dev, status.st_ino):
            self._close()
            self._db = apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READONLY)
            self._db.set_busy_timeout(_BUSY_MS)
            self._db.create_scalar_function("says", self._matches, 1)
            self._file = status.st_dev, status.st_ino
        return self._db

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
        self._db = self._file = None

    def _matches(self, *values: Any) -> bool:
        return matches(values[0], self._filter.text or "")


_Value = int | float | str | bytes


def _query(after: int, head: int, limit: int, wanted: Filter, newest: bool) -> tuple[str, list[_Value]]:
    terms = ["pos > ?", "pos <= ?"]
    values: list[_Value] = [after, head]
    for key, value in (("stream", wanted.stream), ("subject", wanted.task)):
        if value is not None:
            # Quotes inside a JSON text are escaped, so this is found nowhere but where it is meant.
            terms.append("instr(body, ?)")
            values.append(f'"{key}":{json.dumps(value)}'.encode())
    if wanted.text:
        terms.append("says(body)")
    if wanted.search is not None:
        terms.append("pos IN (SELECT rowid FROM words WHERE words MATCH ?)")
        values.append(_match(wanted.search))
    if wanted.since is not None:
        terms.append("created >= ?")
        values.append(wanted.since)
    order = "DESC" if newest else "ASC"
    return f"SELECT pos, body FROM events WHERE {' AND '.join(terms)} ORDER BY pos {order} LIMIT ?", [*values, limit]


def _match(text: str) -> str:
    """The words of a search as FTS5 takes them: quoted, so that none is an operator."""
    quoted = []
    for word in text.split():
        plain = word.rstrip("*").replace('"', '""')
        quoted.append(f'"{plain}"' + "*" * (word.endswith("*")))
    return " ".join(quoted) or '""'


def matches(body: bytes, text: str) -> bool:
    """Does an event say this, in what was asked, answered or reported? Its keys and numbers do not count."""
    needle = text.casefold()
    if json.dumps(needle, ensure_ascii=False)[1:-1] not in body.decode().casefold():
        return False  # most are passed over without being parsed
    event = json.loads(body)
    return any(needle in word.casefold() for word in _words(event))


def _words(event: dict[str, Any]) -> Iterator[str]:
    data = event["data"]
    result = data.get("result") or {}
    shapes = (shape for kind in ("boxes", "polygons", "quads") for shape in result.get(kind, ()))
    names = ("name", "task", "outcome", "text", "error", "state", "reason", "stream", "sink", "worker")
    found = [event["subject"], result.get("text"), *(data.get(name) for name in names)]
    yield from (word for word in found if isinstance(word, str))
    yield from (shape["label"] for shape in shapes)
