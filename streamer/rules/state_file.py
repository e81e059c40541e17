"""The file with the state of the rules: the engine's state, and the ledger position that belongs to it."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import apsw

from streamer.config.rule import RULES, STATE_FILE
from streamer.core import atomic_file
from streamer.core.errors import WireError
from streamer.events.ledger.cursor import position_of
from streamer.events.ledger.schema import checked, connect_readonly
from streamer.events.schema import IncidentEvent, decode
from streamer.rules.incident import event_id


class Stored(NamedTuple):
    position: int
    """Ledger position up to which the engine had taken events."""
    engine: dict[str, Any]
    """Result of `Engine.save`."""


def read(path: Path) -> Stored:
    """Return what `write` has stored. Raises OSError, and ValueError if the file is damaged."""
    try:
        stored = json.loads(atomic_file.read(path))
        if stored.pop("crc") != _checksum(stored):
            raise ValueError("damaged")
        return Stored(int(stored["position"]), dict(stored["engine"]))
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("damaged") from error


def write(path: Path, stored: Stored) -> None:
    """Store a state; return once it is on the disk. Raises OSError."""
    data = stored._asdict()
    atomic_file.write(path, json.dumps({"crc": _checksum(data), **data}))


def open_incidents(state: Path, ledger: Path, position: int) -> dict[tuple[str, str], bytes | None]:
    """Return the incidents that are open after the ledger event at `position`, by stream and rule.

    The value is the newest event of the incident, None if the ledger no longer has it. `state` is the agent's state
    folder. The stored state can be older than `position`, so the incident events after it count too.
    """
    try:
        with closing(connect_readonly(ledger)) as db:
            stored = _stored(state / STATE_FILE, position_of(ledger, RULES) or 0)
            incidents = {
                (str(one["stream"]), str(one["rule"])): _newest_event(db, one["activity"]["incident"])
                for one in stored.engine["activities"]
                if one["activity"]["incident"] is not None
            }
            query = "SELECT pos, crc, body FROM events WHERE pos > ? AND pos <= ? AND instr(body, ?) ORDER BY pos"
            for row in db.execute(query, (stored.position, position, b'"type":"streamer.incident.')):
                body = checked(*row)[1]
                event = decode(body)
                if isinstance(event, IncidentEvent):
                    incidents[event.data.stream, event.data.rule] = body
                    if event.data.state == "end":
                        del incidents[event.data.stream, event.data.rule]
    except (KeyError, TypeError, ValueError, apsw.Error, WireError):
        return {}
    return incidents


def _stored(path: Path, first_position: int) -> Stored:
    """Return the stored state; without a readable one the rules begin without knowledge at `first_position`."""
    try:
        return read(path)
    except (OSError, ValueError):
        return Stored(first_position, {"activities": []})


def _newest_event(db: apsw.Connection, incident: dict[str, Any]) -> bytes | None:
    number = int(incident["number"]) - 1
    found = event_id(str(incident["id"]), "update" if number else "start", number)
    row = db.execute("SELECT pos, crc, body FROM events WHERE id = ?", (found,)).fetchone()
    return None if row is None else checked(*row)[1]


def _checksum(stored: dict[str, Any]) -> int:
    """Return a checksum of the state: each value counts, so none of a damaged file must be used."""
    return crc32(json.dumps(stored).encode())
