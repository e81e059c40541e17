"""Conditions with `unusual` learn from the events of a ledger."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from streamer.events.ledger import LEDGER_FILE, Ledger
from streamer.events.ledger.query import LedgerQuery
from streamer.events.ledger.retention import Retention
from streamer.rules.engine import Engine
from streamer.rules.learning import learn
from tests.support.stories import STORIES, run, summary

STORY = next(one for one in STORIES if one.name == "unusual at night, usual in the evening")
LAST_DAY = 4
"""Events of the last day, which alone would teach nothing."""


def test_new_rule_learns_from_the_ledger(tmp_path: Path) -> None:
    events = STORY.events()
    with Ledger(tmp_path / LEDGER_FILE, "home", Retention()) as ledger:
        ledger.commit(events)
    engine, untaught = Engine(STORY.config()), Engine(STORY.config())
    with closing(LedgerQuery(tmp_path / LEDGER_FILE)) as query:
        for _ in learn(query, engine, len(events) - LAST_DAY):
            pass
    assert run(untaught, events[-LAST_DAY:]) == []
    assert summary(run(engine, events[-LAST_DAY:])) == STORY.expected


def test_events_after_the_position_are_not_learnt(tmp_path: Path) -> None:
    events = STORY.events()
    with Ledger(tmp_path / LEDGER_FILE, "home", Retention()) as ledger:
        ledger.commit(events)
    engine = Engine(STORY.config())
    with closing(LedgerQuery(tmp_path / LEDGER_FILE)) as query:
        for _ in learn(query, engine, 2):
            pass
    ((leaf,),) = (leaves for leaves in Engine(STORY.config()).learners.values())
    assert not leaf.has_learnt
    assert engine.learners == {}, "the first day was learnt"
    assert run(engine, events[-LAST_DAY:]) == [], "one day is not enough"


def test_rule_that_has_learnt_reads_no_history(tmp_path: Path) -> None:
    engine = Engine(STORY.config())
    run(engine, STORY.events())
    with closing(LedgerQuery(tmp_path / "missing.db")) as query:
        assert list(learn(query, engine, 100)) == []
