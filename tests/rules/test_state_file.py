"""The stored state of the rules tells which incidents are open, together with the ledger."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from streamer.config.model import from_mapping
from streamer.config.rule import RULES, STATE_FILE
from streamer.events.build import command_event
from streamer.events.command_data import CommandData
from streamer.events.ledger import LEDGER_FILE, Ledger
from streamer.rules.engine import Engine
from streamer.rules.state_file import Stored, read, rules_state, write
from tests.support.stories import PERSON, Story, seconds

STORY = Story(
    "visit", {"when": PERSON, "grace": "2s"}, "0 person\n1 person*0.99\n2 person person\n" + seconds(3, 9, "-"), []
)
PAIR = ("gate", "story")


@pytest.mark.parametrize("saved", [0, 1, 2, 3, 9])
def test_open_incidents_follow_from_state_and_ledger(tmp_path: Path, saved: int) -> None:
    """The rules store their state after `saved` answers; later incident events are in the ledger only."""
    engine, states = Engine(STORY.config()), list[str | None]()
    with Ledger(tmp_path / LEDGER_FILE) as ledger:
        ledger.cursors([], [RULES])
        for number, event in enumerate(STORY.events()):
            incidents = engine.process(event)
            ledger.commit([event, *incidents])
            states += [None, *(one.data.state for one in incidents)]
            if number + 1 == saved:
                write(tmp_path / STATE_FILE, Stored(len(states), engine.save()))
        assert states == [None, "start", None, None, "update", None, None, "end", *[None] * 5]
        for position in range(len(states) + 1):
            found = rules_state(tmp_path, tmp_path / LEDGER_FILE, position).open_incidents
            known = [state for state in states[: max(position, read_position(tmp_path))] if state is not None]
            if not known or known[-1] == "end":
                assert found == {}
            else:
                assert json.loads(found[PAIR] or b"")["data"]["state"] == known[-1]


def read_position(folder: Path) -> int:
    try:
        return read(folder / STATE_FILE).position
    except FileNotFoundError:
        return 0


def test_incident_older_than_the_ledger_is_open(tmp_path: Path) -> None:
    engine = Engine(STORY.config())
    engine.process(STORY.events()[0])
    Ledger(tmp_path / LEDGER_FILE).close()
    write(tmp_path / STATE_FILE, Stored(7, engine.save()))
    assert rules_state(tmp_path, tmp_path / LEDGER_FILE, 9).open_incidents == {PAIR: None}


@pytest.mark.parametrize("damage", ["", "{}", "[1]", '{"crc": 1, "position": 1, "engine": {}}', "[" * 100_000])
def test_damaged_state_has_no_open_incidents(tmp_path: Path, damage: str) -> None:
    Ledger(tmp_path / LEDGER_FILE).close()
    (tmp_path / STATE_FILE).write_text(damage)
    with pytest.raises(ValueError, match=r"damaged|Expecting|recursion"):
        read(tmp_path / STATE_FILE)
    assert rules_state(tmp_path, tmp_path / LEDGER_FILE, 9).open_incidents == {}


def test_mode_follows_from_state_and_ledger(tmp_path: Path) -> None:
    config = from_mapping({**STORY.config().raw, "modes": ["home", "away", "night"]})
    engine, modes = Engine(config), ["home"]
    with Ledger(tmp_path / LEDGER_FILE) as ledger:
        ledger.cursors([], [RULES])
        for mode in ("away", "night"):
            event = command_event("home", "mode", CommandData(by="anna", mode=mode))
            engine.process(event)
            ledger.commit([event])
            modes.append(mode)
            if mode == "away":
                write(tmp_path / STATE_FILE, Stored(1, engine.save()))
        found = [rules_state(tmp_path, tmp_path / LEDGER_FILE, position).mode for position in (1, 2)]
    assert found == modes[1:]
