"""Reads events from the ledger by position, with filters, for readers that are no sinks."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import apsw

from streamer.core.errors import ConfigError
from streamer.events.ledger.schema import connect_readonly


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


class Entry(NamedTuple):
    position: int
    body: bytes
    """A CloudEvent in JSON."""


class Page(NamedTuple):
    entries: list[Entry]
    """Oldest first."""
    position: int
    """Position at which to continue reading."""


class LedgerQuery:
    """Reads the ledger of a running agent. Thread-safe.

    A ledger that does not exist yet or cannot be read has no events. If the file was replaced, a position beyond the
    end of the new file counts as its beginning.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._db: apsw.Connection | None = None
        self._file: tuple[int, int] | None = None

    def close(self) -> None:
        with self._lock:
            self._close()

    def head(self) -> int:
        """Return the position of the newest event, 0 when there is none."""
        return self.newest(0).position

    def after(self, position: int, limit: int, filter: Filter | None = None) -> Page:
        """Return the oldest events after `position`, at most `limit`."""
        return self._read(position, limit, filter or Filter(), newest=False)

    def newest(self, limit: int, filter: Filter | None = None) -> Page:
        """Return the newest events, at most `limit`."""
        return self._read(0, limit, filter or Filter(), newest=True)

    def _read(self, after: int, limit: int, filter: Filter, newest: bool) -> Page:
        with self._lock:
            try:
                db = self._open()
                if db is None:
                    return Page([], 0)
                ((head,),) = db.execute("SELECT ifnull(max(pos), 0) FROM events").fetchall()
                assert isinstance(head, int)
                after = 0 if after > head else after
                query, values = _query(after, head, limit, filter, newest)
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
            self._db = connect_readonly(self._path)
            self._db.create_scalar_function("contains_text", _contains_text, 2)
            self._file = status.st_dev, status.st_ino
        return self._db

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
        self._db = self._file = None


def check_readable(path: Path) -> None:
    """Raise ConfigError when the ledger cannot be read."""
    try:
        with closing(connect_readonly(path)) as db:
            db.execute("SELECT source, sequence FROM source").fetchall()
    except apsw.Error as error:
        raise ConfigError(f"cannot read {path}: {error}") from None


_Value = int | float | str | bytes


def _query(after: int, head: int, limit: int, filter: Filter, newest: bool) -> tuple[str, list[_Value]]:
    terms = ["pos > ?", "pos <= ?"]
    values: list[_Value] = [after, head]
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
    return f"SELECT pos, body FROM events WHERE {' AND '.join(terms)} ORDER BY pos {order} LIMIT ?", [*values, limit]


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
    if json.dumps(needle, ensure_ascii=False)[1:-1] not in body.decode().casefold():
        return False  # quick: most events are not parsed
    event = json.loads(body)
    return any(needle in word.casefold() for word in _texts(event))


def _texts(event: dict[str, Any]) -> Iterator[str]:
    data = event["data"]
    result = data.get("result") or {}
    shapes = (shape for kind in ("boxes", "polygons", "quads") for shape in result.get(kind, ()))
    names = ("name", "task", "outcome", "text", "error", "state", "reason", "stream", "sink", "worker")
    found = [event["subject"], result.get("text"), *(data.get(name) for name in names)]
    yield from (word for word in found if isinstance(word, str))
    yield from (shape["label"] for shape in shapes)
