"""The rules process with a real emit process and a real ledger."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import apsw
import pytest

from streamer.bus.event_channel import EventClient
from streamer.config.model import Config, from_mapping
from streamer.config.rule import RULES, STATE_FILE
from streamer.events.build import task_event
from streamer.events.ledger import LEDGER_FILE, Ledger
from streamer.events.ledger.cursor import position_of
from streamer.events.ledger.query import LedgerQuery
from streamer.events.ledger.retention import Retention
from streamer.processes.assignment import Assignment, Role
from streamer.processes.rules import Rules
from streamer.rules.engine import Engine
from streamer.rules.replay import replay
from streamer.rules.state_file import StateFile
from tests.support.agents import until
from tests.support.rules_process import Workers
from tests.support.sample_events import event
from tests.support.stories import STORIES, run

STORY = next(story for story in STORIES if story.name == "gap of no answers neither holds nor clears")
FEW_S = 30.0


def test_killed_processes_repeat_and_miss_nothing(tmp_path: Path) -> None:
    """Emit and rules are killed at random moments; the ledger and a replay of it have the incidents of the story."""
    moments = random.Random(20)
    config, events = STORY.config(), STORY.events()
    expected = run(Engine(config), events)
    assert len(expected) == 2
    with Workers(tmp_path, from_mapping({**config.raw, "sinks": []})) as workers:
        until(lambda: position_of(workers.ledger, RULES) is not None, FEW_S, "emit has opened the ledger")
        with EventClient(workers.runtime, "infer") as client:
            for number, one in enumerate(events):
                client.send(one, None)
                if moments.random() < 0.08:
                    client.flush(moments.random() * 0.2)
                    role = moments.choice([Role.RULES, Role.EMIT])
                    workers.kill(role)
                    workers.start(role)
                assert number < 1000
            assert client.flush(FEW_S)
        until(lambda: len(workers.incidents()) == 2, FEW_S, "both incident events are in the ledger")
        assert workers.incidents() == expected
        with closing(LedgerQuery(workers.ledger)) as query:
            assert list(replay(query, config, config.rules, None)) == expected


def test_incidents_of_replaced_rules_end_after_a_kill(tmp_path: Path) -> None:
    """The agent is killed right after the starts, before the rules store their state, and starts with other rules."""
    rule = {"when": {"label": "person"}, "grace": "1h"}

    def config(rules: dict[str, Any]) -> Config:
        return from_mapping({**STORY.config().raw, "rules": rules, "sinks": []})

    with Workers(tmp_path, config({"kept": rule, "changed": rule, "removed": rule})) as workers:

        def restart(rules: dict[str, Any]) -> None:
            for role in (Role.RULES, Role.EMIT):
                workers.kill(role)
            workers.config = config(rules)
            for role in (Role.EMIT, Role.RULES):
                workers.start(role)

        until(lambda: position_of(workers.ledger, RULES) is not None, FEW_S, "emit has opened the ledger")
        with EventClient(workers.runtime, "infer") as client:
            client.send(event(), None)
            assert client.flush(FEW_S)
            until(lambda: len(workers.incidents()) == 3, FEW_S, "each rule starts an incident")
        restart({"kept": rule, "changed": {**rule, "grace": "2h"}})
        until(lambda: len(workers.incidents()) == 6, FEW_S, "one rule was removed, one has begun again")
        restart({})
        until(lambda: len(workers.incidents()) >= 8, FEW_S, "all incidents have ended")
        found = workers.incidents()
    removed, changed = "the rule was removed", "the rule, or a zone or line that it names, was changed"
    assert sorted((one.data.rule, one.data.state, one.data.reason or "") for one in found) == [
        ("changed", "end", removed),
        ("changed", "end", changed),
        ("changed", "start", ""),
        ("changed", "start", ""),
        ("kept", "end", removed),
        ("kept", "start", ""),
        ("removed", "end", removed),
        ("removed", "start", ""),
    ]
    assert len({one.data.incident for one in found}) == 4


def test_new_rule_learns_what_is_usual_from_the_ledger(tmp_path: Path) -> None:
    story = next(one for one in STORIES if one.name == "unusual at night, usual in the evening")
    config, events = from_mapping({**story.config().raw, "sinks": []}), story.events()
    workers = Workers(tmp_path, config)
    with Ledger(workers.ledger, "home", Retention(keep=1e9)) as ledger:
        ledger.commit(events[:-4])
    with workers:
        until(lambda: position_of(workers.ledger, RULES) is not None, FEW_S, "emit has opened the ledger")
        with EventClient(workers.runtime, "infer") as client:
            for one in events[-4:]:
                client.send(one, None)
            assert client.flush(FEW_S)
        until(lambda: len(workers.incidents()) == 2, FEW_S, "the incident of the last day is in the ledger")
        assert [one.data.state for one in workers.incidents()] == ["start", "end"]


def test_deadline_passes_without_any_further_event(tmp_path: Path) -> None:
    rule = {"when": {"stream": "down for 100ms"}}
    config = from_mapping({**STORY.config().raw, "rules": {"lost": rule}, "sinks": []})
    with Workers(tmp_path, config) as workers:
        until(lambda: position_of(workers.ledger, RULES) is not None, FEW_S, "emit has opened the ledger")
        with EventClient(workers.runtime, "capture") as client:
            from streamer.events.build import status_event

            client.send(status_event("home", "gate", "down", "no answer"), None)
            assert client.flush(FEW_S)
        (start,) = until(workers.incidents, FEW_S, "the incident starts")
        assert start.data.state == "start"
        with closing(LedgerQuery(workers.ledger)) as query:
            (again,) = replay(query, config, config.rules, None)
        assert again == start


def test_damaged_ledger_is_reported_and_replaced(tmp_path: Path) -> None:
    workers = Workers(tmp_path, from_mapping({**STORY.config().raw, "sinks": []}))
    with Ledger(workers.ledger, "home") as ledger:
        ledger.cursors([], [RULES])
        ledger.commit([event(seq=seq, name="others") for seq in range(300)])
        ledger.commit(STORY.events())
    with closing(apsw.Connection(str(workers.ledger))) as db:
        query = "SELECT pageno FROM dbstat WHERE name = 'events' AND pagetype = 'leaf'"
        pages = [int(str(page)) for (page,) in db.execute(query)]
        size = int(str(db.pragma("page_size")))
    with workers.ledger.open("r+b") as file:
        file.seek((pages[len(pages) // 3] - 1) * size)
        file.write(bytes(size))
    with workers:
        workers.restart_ended(Role.EMIT, FEW_S)
        expected = ["ledger.salvaged", "rules.down", "rules.up"]
        until(lambda: set(expected) <= set(workers.subjects()), FEW_S, "the rules read the new file")
        assert sorted(one for one in workers.subjects() if one in expected) == expected
        until(lambda: len(workers.incidents()) == 2, FEW_S, "incidents of the events behind the damage")


def test_task_changes_reach_the_rules_without_a_restart(tmp_path: Path) -> None:
    """Changes and answers go through emit and the ledger; the replay of it gives the same incidents."""
    raw = STORY.config().raw
    keys, *others = raw["streams"]["gate"]["tasks"]
    gate = {**raw["streams"]["gate"], "tasks": others}
    yard = {"source": "synthetic", "tasks": [keys]}
    rule = {"when": {"label": "person"}}
    config = from_mapping({**raw, "streams": {"gate": gate, "yard": yard}, "rules": {"r": rule}, "sinks": []})
    with Workers(tmp_path, config) as workers:
        until(lambda: position_of(workers.ledger, RULES) is not None, FEW_S, "emit has opened the ledger")
        with EventClient(workers.runtime, "parent") as client:
            client.send(task_event("home", "gate", "people", "added", keys=keys), None)
            client.send(event(), None)
            assert client.flush(FEW_S)
            until(lambda: len(workers.incidents()) == 1, FEW_S, "the incident starts")
            client.send(task_event("home", "gate", "people", "removed"), None)
            assert client.flush(FEW_S)
            until(lambda: len(workers.incidents()) == 2, FEW_S, "the incident ends")
        found = workers.incidents()
        assert [one.data.reason for one in found] == [None, "the task people was removed"]
        with closing(LedgerQuery(workers.ledger)) as query:
            assert list(replay(query, config, config.rules, None)) == found


def test_age_deletes_nothing_that_rules_have_not_read(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with Ledger(path, "home", Retention(keep=0.001)) as ledger:
        ledger.cursors([], [RULES])
        for seq in range(20):
            time.sleep(0.002)
            ledger.commit([event(seq=seq)])
        with closing(LedgerQuery(path)) as query:
            assert len(query.after(0, 100).entries) == 20


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Any]:
    """Stand in for the process around `Rules`: its config, folders and stop signal."""
    (tmp_path / "run").mkdir()
    reader, writer = os.pipe()
    with Ledger(tmp_path / LEDGER_FILE, "home", Retention()) as ledger:
        ledger.cursors([], [RULES])
        yield SimpleNamespace(config=STORY.config(), runtime=tmp_path / "run", state=tmp_path, stop_fd=reader)
    os.close(reader)
    os.close(writer)


def in_rules_of(worker: Any, clock: float | None = None) -> float:
    """Load the state of the rules, set their clock and store the state; return the clock that was loaded."""
    with (
        EventClient(worker.runtime, "rules") as events,
        closing(LedgerQuery(worker.state / LEDGER_FILE)) as query,
        closing(Rules(worker, query, events, 0)) as rules,
    ):
        loaded = rules.engine.clock
        if clock is not None:
            rules.engine.clock = clock
            rules.save()
        return loaded


DAMAGE = [
    "UPDATE head SET body = replace(body, '12345.5', '92345.5')",
    "UPDATE activity SET body = '{}'",
    "DROP TABLE head",
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_state_is_not_used(worker: Any, damage: str) -> None:
    in_rules_of(worker, 12345.5)
    assert in_rules_of(worker) == 12345.5
    with closing(apsw.Connection(str(worker.state / STATE_FILE))) as db:
        db.execute("INSERT OR IGNORE INTO activity VALUES ('story', 'gate', '{}')")
        db.execute(damage)
    assert in_rules_of(worker) == 0.0


def test_state_of_another_version_is_not_used(worker: Any) -> None:
    state = Engine(worker.config).save()
    engine = SimpleNamespace(
        save=lambda keys=None: state._replace(head=state.head.replace(b"clock", b"watch")),
        activities=SimpleNamespace(mark_all_stored=lambda: None),
    )
    with closing(StateFile(worker.state / STATE_FILE)) as file:
        file.store(1, engine)  # type: ignore[arg-type]
    assert in_rules_of(worker, 5.5) == 0.0
    assert in_rules_of(worker) == 5.5, "the next store replaces the file"


def test_state_goes_once_no_rule_is_left(worker: Any) -> None:
    in_rules_of(worker, 12345.5)
    worker.config = from_mapping({key: value for key, value in worker.config.raw.items() if key != "rules"})
    assert in_rules_of(worker, 12345.5) == 12345.5
    assert not (worker.state / STATE_FILE).exists()


@pytest.mark.parametrize("role", [Role.RULES, Role.EMIT])
def test_only_a_config_with_rules_has_their_process(role: Role, tmp_path: Path) -> None:
    from streamer.processes.supervisor import _children

    assignment = Assignment(config={}, runtime=tmp_path, state=tmp_path)
    raw = STORY.config().raw
    assert role in {child.role for child in _children(from_mapping(raw), assignment, {})}
    without = from_mapping({key: value for key, value in raw.items() if key != "rules"})
    assert (role in {child.role for child in _children(without, assignment, {})}) == (role is Role.EMIT)
    (tmp_path / STATE_FILE).touch()
    assert role in {child.role for child in _children(without, assignment, {})}, "incidents of removed rules must end"
