"""The stored state of the rules tells which incidents are open, together with the ledger."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import apsw
import pytest

from streamer.config.model import from_mapping
from streamer.config.rule import RULES, STATE_FILE
from streamer.events.build import command_event
from streamer.events.command_data import CommandData
from streamer.events.ledger import LEDGER_FILE, Ledger
from streamer.events.schema import IncidentEvent, decode
from streamer.rules.engine import Engine
from streamer.rules.state_file import StateFile, Stored, read, rules_state
from tests.support.stories import PERSON, Story, run, seconds, told

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
            incidents = run(engine, [event])
            ledger.commit([event, *incidents])
            states += [None, *(one.data.state for one in incidents)]
            if number + 1 == saved:
                store(tmp_path, len(states), engine)
        assert states == [None, "start", None, None, "update", None, None, "end", *[None] * 5]
        for position in range(len(states) + 1):
            found = rules_state(STORY.config(), tmp_path, tmp_path / LEDGER_FILE, position).open_incidents
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


@pytest.mark.parametrize("answers", [1, 3])
def test_incident_older_than_the_ledger_is_open(tmp_path: Path, answers: int) -> None:
    """The ledger has deleted its newest event; the state still knows what the page and MQTT show of it."""
    engine, ledger = Engine(STORY.config()), tmp_path / LEDGER_FILE
    newest = run(engine, STORY.events()[:answers])[-1]
    Ledger(ledger).close()
    store(tmp_path, 7, engine)
    found = decode(rules_state(STORY.config(), tmp_path, ledger, 9).open_incidents[PAIR])
    assert isinstance(found, IncidentEvent)
    assert (found.id, found.source, found.subject) == (newest.id, newest.source, newest.subject)
    assert found.data == newest.data.model_copy(update={"reason": None, "evidence": ()})


def change_a_row(path: Path) -> None:
    with closing(apsw.Connection(str(path))) as db:
        db.execute("UPDATE activity SET body = replace(body, 'gate', 'yard')")


def lose_a_row(path: Path) -> None:
    with closing(apsw.Connection(str(path))) as db:
        db.execute("DELETE FROM activity")


def move_position(path: Path) -> None:
    with closing(apsw.Connection(str(path))) as db:
        db.execute("UPDATE head SET position = position + 1")


def lose_the_head(path: Path) -> None:
    with closing(apsw.Connection(str(path))) as db:
        db.execute("DELETE FROM head")


def flip_bytes(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:5000] + bytes(byte ^ 1 for byte in content[5000:]))


DAMAGE: list[Callable[[Path], object]] = [
    change_a_row, lose_a_row, move_position, lose_the_head, flip_bytes,
    lambda path: path.write_text("{}"), lambda path: path.write_bytes(b""),
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_state_has_no_open_incidents(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    engine, path = Engine(STORY.config()), tmp_path / STATE_FILE
    told(engine, [STORY.events()[0]])
    Ledger(tmp_path / LEDGER_FILE).close()
    store(tmp_path, 7, engine)
    assert rules_state(STORY.config(), tmp_path, tmp_path / LEDGER_FILE, 9).open_incidents.keys() == {PAIR}
    damage(path)
    for reader in (read, lambda path: StateFile(path).read()):
        with pytest.raises(ValueError, match="damaged"):
            reader(path)
    assert rules_state(STORY.config(), tmp_path, tmp_path / LEDGER_FILE, 9).open_incidents == {}
    store(tmp_path, 8, engine)
    assert read(path).position == 8, "the next store replaces a damaged file"


def test_pipe_or_link_in_place_of_the_state_is_not_used(tmp_path: Path) -> None:
    path, other = tmp_path / STATE_FILE, tmp_path / "other"
    store(tmp_path, 7, Engine(STORY.config()))
    path.rename(other)
    for put in (os.mkfifo, partial(os.symlink, other)):
        put(path)
        with pytest.raises(ValueError, match="not a regular file"):
            read(path)
        path.unlink()
    path.symlink_to(other)
    store(tmp_path, 9, Engine(STORY.config()))
    assert (read(path).position, read(other).position) == (9, 7)


def test_store_writes_what_has_changed(tmp_path: Path) -> None:
    """After each store the file holds the whole state, also of activities that have ended or are gone."""
    config = from_mapping(
        {**STORY.config().raw, "rules": {"story": STORY.rule, "dogs": {"when": {"label": "dog"}, "grace": "1h"}}}
    )
    engine = Engine(config)
    with closing(StateFile(tmp_path / STATE_FILE)) as file:
        file.store(0, engine)
        stories = [STORY, Story("dog", {}, "10 dog\n11 dog", [], ids="dog")]
        for number, event in enumerate([one for story in stories for one in story.events()]):
            told(engine, [event])
            changed = {rule for rule, _ in engine.activities.settle()}
            assert changed == ({"story"} if number < 2 else changed)
            file.store(number + 1, engine)
            assert not engine.activities.settle()
            assert whole(read(tmp_path / STATE_FILE)) == (number + 1, *whole_of(engine))
    removed = Engine(STORY.config())
    with closing(StateFile(tmp_path / STATE_FILE)) as file:
        (end,) = removed.load(file.read().state)
        assert end.data.rule == "dogs"
        file.store(20, removed)
    assert whole(read(tmp_path / STATE_FILE)) == (20, *whole_of(removed))


def test_state_that_somebody_removed_is_stored_whole(tmp_path: Path) -> None:
    engine = Engine(STORY.config())
    with closing(StateFile(tmp_path / STATE_FILE)) as file:
        told(engine, [STORY.events()[0]])
        file.store(1, engine)
        for path in tmp_path.iterdir():
            path.unlink()
        file.store(2, engine)
    assert whole(read(tmp_path / STATE_FILE)) == (2, *whole_of(engine))


def test_failed_store_keeps_state_and_position(tmp_path: Path) -> None:
    engine, events = Engine(STORY.config()), STORY.events()
    with closing(StateFile(tmp_path / STATE_FILE)) as file:
        told(engine, [events[0]])
        file.store(1, engine)
        before = read(tmp_path / STATE_FILE)
        told(engine, [events[1]])
        with closing(apsw.Connection(str(tmp_path / STATE_FILE))) as other:
            assert file._db is not None
            file._db.set_busy_timeout(0)
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(apsw.BusyError):
                file.store(2, engine)
            assert read(tmp_path / STATE_FILE) == before
        file.store(3, engine)
    assert whole(read(tmp_path / STATE_FILE)) == (3, *whole_of(engine))


def whole(stored: Stored) -> tuple[int, bytes, dict[tuple[str, str], bytes | None]]:
    return stored.position, stored.state.head, dict(stored.state.activities)


def whole_of(engine: Engine) -> tuple[bytes, dict[tuple[str, str], bytes | None]]:
    head, activities = engine.save()
    return head, {key: body for key, body in activities.items() if body is not None}


def store(folder: Path, position: int, engine: Engine) -> None:
    with closing(StateFile(folder / STATE_FILE)) as file:
        file.store(position, engine)


def test_mode_follows_from_state_and_ledger(tmp_path: Path) -> None:
    config = from_mapping({**STORY.config().raw, "modes": ["home", "away", "night"]})
    engine, modes = Engine(config), ["home"]
    with Ledger(tmp_path / LEDGER_FILE) as ledger:
        ledger.cursors([], [RULES])
        for mode in ("away", "night"):
            event = command_event("home", "mode", CommandData(by="anna", mode=mode))
            told(engine, [event])
            ledger.commit([event])
            modes.append(mode)
            if mode == "away":
                store(tmp_path, 1, engine)
        found = [rules_state(STORY.config(), tmp_path, tmp_path / LEDGER_FILE, position).mode for position in (1, 2)]
    assert found == modes[1:]
