"""The file with the state of the rules: the engine's state, and the ledger position that belongs to it.

It is an SQLite file with a row for each activity. A store writes the rows of the activities that have changed and the
position in one transaction, so a crash leaves a state and the position that belongs to it.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple, cast
from zlib import crc32

import apsw

from streamer.config.model import Config
from streamer.config.rule import RULES, STATE_FILE
from streamer.core.errors import WireError
from streamer.events.ledger.cursor import position_of
from streamer.events.ledger.schema import BROKEN, checked, connect, connect_readonly, transaction
from streamer.events.schema import IncidentEvent, StatusEvent, decode, encode
from streamer.events.sinks import RulesState
from streamer.rules.controls import Controls
from streamer.rules.engine import Engine
from streamer.rules.incident import Incident, Key, Reporter, event_id
from streamer.rules.saved_state import Head, SavedActivity, SavedState, load_activity, load_head

_TABLES = """
CREATE TABLE head (position INTEGER NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE activity (rule TEXT NOT NULL, stream TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (rule, stream));
"""
_PARTS = ("", "-journal", "-wal", "-shm")
"""Ends of the names of the files that SQLite makes."""


class Stored(NamedTuple):
    position: int
    """Ledger position up to which the engine had taken events."""
    state: SavedState


class StateFile:
    """The file as the rules process uses it, which alone writes it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db: apsw.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._checksums: dict[Key, int] = {}
        """Checksum of each row."""

    def close(self) -> None:
        """Close the file. The next `store` replaces it by a new one."""
        if self._db is not None:
            self._db.close()
        self._db, self._checksums = None, {}

    def read(self) -> Stored:
        """Return what the file holds, and continue it. Raises OSError, and ValueError if it is damaged."""
        db = _opened(self._path, lambda: connect(self._path, "FULL"))
        try:
            stored = _read(db)
        except BaseException:
            db.close()
            raise
        self._db, self._file = db, _identity(self._path)
        self._checksums = {key: _checksum(key, body) for key, body in stored.state.activities.items() if body}
        return stored

    def store(self, position: int, engine: Engine) -> None:
        """Store the state of an engine that has taken all events up to `position`; return once it is on the disk.

        Raises OSError and apsw.Error; then the file holds what it held before, and the next call stores both changes.
        """
        if self._db is not None and self._file != _identity(self._path):  # somebody has removed it
            self.close()
        try:
            if self._db is None:
                self._begin(position, engine)
            else:
                self._write(self._db, position, engine.save(engine.activities.settle()))
        except BROKEN:
            self.close()
            raise
        engine.activities.mark_all_stored()

    def delete(self) -> None:
        """Delete the file, if there is one. Raises OSError."""
        self.close()
        for end in _PARTS:
            self._path.with_name(self._path.name + end).unlink(missing_ok=True)

    def _begin(self, position: int, engine: Engine) -> None:
        """Store the whole state in a new file."""
        self.delete()
        db = connect(self._path, "FULL")  # the ledger's position, which is stored afterwards, must not be ahead
        try:
            db.pragma("journal_mode", "wal")
            db.execute(_TABLES)
            self._write(db, position, engine.save())
        except BaseException:
            db.close()
            raise
        self._db, self._file = db, _identity(self._path)

    def _write(self, db: apsw.Connection, position: int, state: SavedState) -> None:
        checksums, rows, gone = dict(self._checksums), list[tuple[str, str, bytes]](), list[Key]()
        for key, body in state.activities.items():
            if body is not None:
                checksums[key] = _checksum(key, body)
                rows.append((*key, body))
            elif checksums.pop(key, None) is not None:
                gone.append(key)
        with transaction(db):
            db.executemany("DELETE FROM activity WHERE rule = ? AND stream = ?", gone)
            db.executemany("INSERT OR REPLACE INTO activity VALUES (?, ?, ?)", rows)
            db.execute("DELETE FROM head")
            crc = _checksum_of_all(position, state.head, checksums)
            db.execute("INSERT INTO head VALUES (?, ?, ?)", (position, crc, state.head))
        self._checksums = checksums


def read(path: Path) -> Stored:
    """Return what `StateFile.store` has stored. Raises OSError, and ValueError if the file is damaged."""
    with closing(_opened(path, lambda: connect_readonly(path))) as db:
        return _read(db)


def rules_state(config: Config, state: Path, ledger: Path, position: int) -> RulesState:
    """Return the state of the rules after the ledger event at `position`. `state`: the agent's state folder.

    The stored state can be older than `position`, so the events after it count too.
    """
    incidents, words = dict[tuple[str, str], bytes](), dict[tuple[str, str], str | None]()
    mode: str | None = None
    try:
        with closing(connect_readonly(ledger)) as db:
            stored = _stored(state / STATE_FILE)
            if stored is not None:
                head = load_head(stored.state.head)
                mode = head.controls.mode
                activities = {
                    key: load_activity(body) for key, body in stored.state.activities.items() if body is not None
                }
                for (rule, stream), saved in activities.items():
                    words[stream, rule] = saved.state.word
                    if saved.state.incident is not None:
                        known = _newest_event(db, saved.state.incident)
                        incidents[stream, rule] = known or _rebuilt_event(config, (rule, stream), saved, head)
            query = (
                "SELECT pos, crc, body FROM events WHERE pos > ? AND pos <= ?"
                " AND (instr(body, ?) OR instr(body, ?) OR instr(body, ?)) ORDER BY pos"
            )
            # Without a readable state the rules begin without knowledge at their position in the ledger.
            first = (position_of(ledger, RULES) or 0) if stored is None else stored.position
            kinds = b'"type":"streamer.incident.', b'"subject":"rules.mode"', b'"subject":"rules.word"'
            for row in db.execute(query, (first, position, *kinds)):
                body = checked(*row)[1]
                event = decode(body)
                if isinstance(event, IncidentEvent):
                    incidents[event.data.stream, event.data.rule] = body
                    if event.data.state == "end":
                        del incidents[event.data.stream, event.data.rule]
                elif isinstance(event, StatusEvent) and event.data.command is not None:
                    mode = event.data.command.mode
                elif isinstance(event, StatusEvent) and event.subject == "rules.word":
                    words[event.data.stream or "", event.data.rule or ""] = event.data.word
    except (AttributeError, KeyError, TypeError, ValueError, apsw.Error, WireError):
        return RulesState()
    return RulesState(mode, incidents, {pair: word for pair, word in words.items() if word is not None})


def _stored(path: Path) -> Stored | None:
    try:
        return read(path)
    except (OSError, ValueError):
        return None


def _newest_event(db: apsw.Connection, incident: Incident) -> bytes | None:
    number = incident.number - 1
    found = event_id(incident.id, "update" if number else "start", number)
    row = db.execute("SELECT pos, crc, body FROM events WHERE id = ?", (found,)).fetchone()
    return None if row is None else checked(*row)[1]


def _rebuilt_event(config: Config, key: Key, saved: SavedActivity, head: Head) -> bytes:
    """Return the newest event of an open incident, which the ledger has deleted, as far as the state knows it."""
    incident, rule, controls = saved.state.incident, config.rules.get(key[0]), Controls(config.modes)
    assert incident is not None
    controls.load(head.controls)
    say = "{rule} at {stream}" if rule is None else rule.say
    reporter = Reporter(config.name, *key, say, saved.rule_hash, controls, descriptions=head.descriptions)
    incident.number -= 1
    return encode(reporter.event(incident, "update" if incident.number else "start", head.clock))


def _opened(path: Path, connection: Callable[[], apsw.Connection]) -> apsw.Connection:
    """Return a connection to an existing file. Raises OSError and ValueError."""
    if not stat.S_ISREG(path.lstat().st_mode):  # SQLite would follow a link, or wait for the writer of a pipe
        raise ValueError("not a regular file")
    try:
        return connection()
    except apsw.Error as error:
        raise ValueError("damaged") from error


def _read(db: apsw.Connection) -> Stored:
    try:
        with db:  # one transaction: the rows and the position belong together
            heads = cast(list[tuple[int, int, bytes]], db.execute("SELECT position, crc, body FROM head").fetchall())
            query = "SELECT rule, stream, body FROM activity ORDER BY rule, stream"
            rows = cast(list[tuple[str, str, bytes]], db.execute(query).fetchall())
        position, crc, head = heads[0]
        activities = {(rule, stream): body for rule, stream, body in rows}
        checksums = {key: _checksum(key, body) for key, body in activities.items()}
        if _checksum_of_all(position, head, checksums) != crc:
            raise ValueError("damaged")
        return Stored(position, SavedState(head, activities))
    except (apsw.Error, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError("damaged") from error


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another one that has its name."""
    try:
        status = path.stat(follow_symlinks=False)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _checksum(key: Key, body: bytes) -> int:
    return crc32(body, crc32("\0".join(key).encode()))


def _checksum_of_all(position: int, head: bytes, checksums: dict[Key, int]) -> int:
    """Return a checksum of the state: each value and each row counts, so none of a damaged file must be used."""
    return (crc32(head, crc32(b"%d" % position)) + sum(checksums.values())) & 0xFFFFFFFF
