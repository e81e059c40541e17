"""Changes of tasks while the agent runs: rules follow them at their place in the ledger."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from streamer.config.model import Config, from_mapping
from streamer.events.build import rfc3339, rules_event, task_event
from streamer.events.ledger import Ledger
from streamer.events.ledger.query import LedgerQuery
from streamer.events.schema import Event, IncidentEvent
from streamer.rules.engine import Engine
from streamer.rules.learning import learn
from streamer.rules.replay import replay
from streamer.rules.unusual import UnusualState
from tests.support.stories import START, Story, run

PEOPLE = {"task": "object_detection", "name": "people"}


def at(second: float, event: Event) -> Event:
    return event.model_copy(update={"time": rfc3339(datetime.fromtimestamp(START + second, UTC))})


def change(second: float, state: str, name: str = "people", keys: dict[str, Any] | None = None) -> Event:
    return at(second, task_event("home", "gate", name, state, keys=keys))


def answers(script: str, task: str = "people") -> list[Event]:
    events = Story("story", {"when": {"label": "person"}}, script, [], task).events()
    return [one.model_copy(update={"id": f"{task}-{one.time}"}) for one in events]


def config(when: dict[str, Any], *tasks: dict[str, Any]) -> Config:
    gate = {"source": "synthetic", "tasks": [{"task": "caption", "name": "scene"}, *tasks]}
    yard = {"source": "synthetic", "tasks": [PEOPLE]}
    raw = {"agent": "home", "timezone": "UTC", "streams": {"gate": gate, "yard": yard}}
    return from_mapping({**raw, "rules": {"r": {"when": when, "grace": "3s"}}})


def told(incidents: list[IncidentEvent]) -> list[tuple[str, str | None]]:
    return [(one.data.state, one.data.reason) for one in incidents]


PERSON = {"label": "person"}
SEEN = "0 person\n1 person"
LATER = "4 person\n5 person"


@pytest.mark.parametrize("state", ["removed", "paused"])
def test_incident_ends_with_its_task(state: str) -> None:
    engine = Engine(config(PERSON, PEOPLE))
    found = run(engine, [*answers(SEEN), change(2, state)])
    assert told(found) == [("start", None), ("end", f"the task people was {state}")]


def test_resumed_task_answers_again() -> None:
    engine = Engine(config(PERSON, PEOPLE))
    events = [*answers(SEEN), change(2, "paused"), change(3, "resumed"), *answers(LATER)]
    assert [state for state, _ in told(run(engine, events))] == ["start", "end", "start"]


def test_added_task_answers_a_rule_of_all_streams() -> None:
    engine = Engine(config(PERSON))
    assert run(engine, answers(SEEN)) == []
    assert told(run(engine, [change(2, "added", keys=PEOPLE), *answers(LATER)])) == [("start", None)]


def test_task_added_again_may_ask_something_else() -> None:
    keys = {"task": "open_vocabulary_detection", "name": "people", "text": "person"}
    engine = Engine(config({**PERSON, "streams": ["gate", "yard"]}, PEOPLE))
    events = [*answers(SEEN), change(2, "removed"), change(3, "added", keys=keys), *answers(LATER)]
    assert [state for state, _ in told(run(engine, events))] == ["start", "end", "start"]


def test_other_incidents_go_on() -> None:
    when = {"any": [{**PERSON, "task": "people"}, {"says": "fire", "task": "scene"}]}
    engine = Engine(config({**when, "streams": ["gate"]}, PEOPLE, {"task": "ocr", "name": "signs"}))
    fire = answers('0 "a fire"\n1 "a fire"', "scene")
    assert told(run(engine, [*fire, change(2, "removed", "signs"), change(2, "paused")])) == [("start", None)]
    assert told(run(engine, [change(3, "paused", "scene")])) == [("end", "the task scene was paused")]


def test_start_of_the_agent_undoes_changes_that_are_not_saved() -> None:
    engine = Engine(config(PERSON, PEOPLE))
    events = [change(0, "removed"), *answers(SEEN), at(2, rules_event("home", "started")), *answers(LATER)]
    assert [one.data.started[17:19] for one in run(engine, events)] == ["04"]
    engine = Engine(config(PERSON))
    events = [change(0, "added", keys=PEOPLE), *answers(SEEN), at(2, rules_event("home", "started"))]
    assert told(run(engine, events))[1] == ("end", "the agent has started without a task that was added")


def test_restart_at_any_event_changes_nothing() -> None:
    events = [
        *answers(SEEN), change(2, "removed"), change(3, "added", keys=PEOPLE), *answers(LATER),
        change(6, "paused"), change(7, "resumed"), *answers("8 person\n20 -\n21 -"),
    ]  # fmt: skip
    whole = run(Engine(config(PERSON, PEOPLE)), events)
    assert [state for state, _ in told(whole)] == ["start", "end"] * 3
    for middle in range(len(events)):
        first, second = Engine(config(PERSON, PEOPLE)), Engine(config(PERSON, PEOPLE))
        before = run(first, events[:middle])
        ends = second.load(first.save())
        ids = [one.id for one in (*before, *ends, *run(second, events[middle:]))]
        assert ids == [one.id for one in whole]


def test_replay_follows_the_same_changes(tmp_path: Path) -> None:
    events = [*answers(SEEN), change(2, "removed"), change(3, "added", keys=PEOPLE), *answers(LATER)]
    found = config(PERSON, PEOPLE)
    with Ledger(tmp_path / "ledger.db", "home") as ledger:
        ledger.commit(events)
    query = LedgerQuery(tmp_path / "ledger.db")
    assert list(replay(query, found, found.rules, None)) == run(Engine(found), events)
    query.close()


def test_change_that_does_not_fit_changes_nothing() -> None:
    engine = Engine(config(PERSON, PEOPLE))
    bad = [change(0, "added", "x", {"task": "no_such"}), change(0, "added"), change(0, "removed", "unknown")]
    elsewhere = at(0, task_event("home", "garden", "people", "removed"))
    assert told(run(engine, [*bad, elsewhere, *answers(SEEN)])) == [("start", None)]


def test_added_task_teaches_what_is_usual(tmp_path: Path) -> None:
    """The ledger has answers of a task that was removed; live rules and a replay learn from them at the same place."""
    days = "\n".join(f"{86400 * day} person" for day in range(9))
    history, day = answers(days), 86400.0
    events = [
        *history, change(9 * day, "removed"), change(9 * day + 1, "added", keys=PEOPLE),
        *answers(f"{9 * day + 2} person\n{9 * day + 6 * 3600} person"),
    ]  # fmt: skip
    found = config({"label": "person", "unusual": True}, PEOPLE)
    with Ledger(tmp_path / "ledger.db", "home") as ledger:
        ledger.commit(events)
    engine, live = Engine(found), list[Event]()
    with closing(LedgerQuery(tmp_path / "ledger.db")) as query:
        list(learn(query, engine, 0))
        for position, event in enumerate(events, 1):
            live += run(engine, [event])
            assert bool(engine.new) == (event.subject == "task.added")
            list(learn(query, engine, position))
        assert list(replay(query, found, found.rules, None)) == live
    activity = engine.activities.get("r", "gate")
    assert activity is not None
    (leaf,) = activity.leaves
    assert isinstance(leaf.state, UnusualState)
    assert [len(days) for days in leaf.state.answered if days] == [1, 10]
    assert ("r", "gate") in engine.activities.settle()
