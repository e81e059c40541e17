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
from streamer.events.schema import IncidentEvent, StatusEvent, decode
from streamer.events.sinks import RulesState
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


def rules_state(state: Path, ledger: Path, position: int) -> RulesState:
    """Return the state of the rules after the ledger event at `position`. `state`: the agent's state folder.

    The stored state can be older than `position`, so the events after it count too.
    """
    incidents: dict[tuple[str, str], bytes | None] = {}
    try:
        with closing(connect_readonly(ledger)) as db:
            stored = _stored(state / STATE_FILE, position_of(ledger, RULES) or 0)
            mode = stored.engine.get("controls", {}).get("mode")
            for one in stored.engine["activities"]:
                if one["activity"]["incident"] is not None:
                    pair = str(one["stream"]), str(one["rule"])
                    incidents[pair] = _newest_event(db, one["activity"]["incident"])
            query = (
                "SELECT pos, crc, body FROM events WHERE pos > ? AND pos <= ?"
                " AND (instr(body, ?) OR instr(body, ?)) ORDER BY pos"
            )
            kinds = b'"type":"streamer.incident.', b'"subject":"rules.mode"'
            for row in db.execute(query, (stored.position, position, *kinds)):
                body = checked(*row)[1]
                event = decode(body)
                if isinstance(event, IncidentEvent):
                    incidents[event.data.stream, event.data.rule] = body
                    if event.data.state == "end":
                        del incidents[event.data.stream, event.data.rule]
                elif isinstance(event, StatusEvent) and event.data.command is not None:
                    mode = event.data.command.mode
    except (AttributeError, KeyError, TypeError, ValueError, apsw.Error, WireError):
        return RulesState()
    return RulesState(mode, incidents)


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
