"""The word of a `state` rule: it is held, lost without an answer, and the same again after a restart."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from streamer.config.model import from_mapping
from streamer.config.rule import RULES
from streamer.core.errors import ConfigError
from streamer.events.build import clock_event
from streamer.events.ledger import LEDGER_FILE, Ledger
from streamer.events.part import unix_time
from streamer.events.schema import Event, StatusData, StatusEvent
from streamer.rules.commands import overview
from streamer.rules.engine import Engine
from streamer.rules.state_file import StateFile, rules_state
from tests.support.stories import START, Story, run, seconds, summary, told

GATE = {"of": "gate", "words": ["open", "Closed"], "is": "open"}
PAIR = ("gate", "story")


def story(script: str, **keys: Any) -> Story:
    return Story("", {"when": {"state": GATE}, "grace": "3s", **keys}, script, [], task="open-gate")


def words(events: list[Event]) -> list[str]:
    """Return `second word` of each report of a word."""
    found = [one for one in events if isinstance(one, StatusEvent) and one.subject == "rules.word"]
    places = {(one.source, one.data.stream, one.data.rule) for one in found}
    assert places <= {("/agents/home/streams/gate", "gate", "story")}
    return [f"{unix_time(one.time) - START:g} {one.data.word}" for one in found]


@pytest.mark.parametrize(
    ("script", "keys", "expected"),
    [
        ("0 open_gate\n1 closed_gate\n2 closed_gate\n3 open_gate", {}, ["0 open", "1 Closed", "3 open"]),
        ("0 -\n1 open_gate*0.8 closed_gate*0.79\n2 ?\n3 car", {}, []),
        (
            "0 open_gate\n1 closed_gate\n2 open_gate\n3 closed_gate\n4 closed_gate",
            {"hold": {"hits": "2 of 3"}},
            ["2 open", "3 Closed"],
        ),
        (
            seconds(0, 2, "open_gate") + "3 closed_gate\n" + seconds(4, 6, "open_gate"),
            {"hold": {"for": "2s"}},
            ["2 open"],
        ),
        (
            "0 open_gate\n1 ?\n2 -\n3 =\n4 open_gate\n7 ?\n8 open_gate",
            {},
            ["0 open", "3 None", "4 open", "7 None", "8 open"],
        ),
        ("0 open_gate\n1 =\n2 =\n3 =\n4 =\n5 ?", {}, ["0 open"]),
        ("0 open_gate\n1 down\n5 reconnect\n5 up\n6 closed_gate", {}, ["0 open", "1 None", "6 Closed"]),
        ("0 open_gate\n1 ended", {}, ["0 open", "1 None"]),
        ("0 open_gate\n0 step -7200\n1 open_gate\n2 ?\n3 ?\n4 ?", {}, ["0 open", "-7196 None"]),
    ],
    ids=[
        "each answer",
        "no answer",
        "hits",
        "for",
        "lost after grace",
        "unchanged",
        "camera lost",
        "ended",
        "clock set back",
    ],
)
def test_word_follows_the_answers(script: str, keys: dict[str, Any], expected: list[str]) -> None:
    assert words(told(Engine(story(script, **keys).config()), story(script).events())) == expected


def test_restart_at_any_event_reports_no_word_again() -> None:
    script = story("0 open_gate\n1 closed_gate\n2 ?\n3 closed_gate\n4 down\n5 up\n6 open_gate", hold={"hits": "2 of 3"})
    config, events = script.config(), script.events()
    whole = told(Engine(config), events)
    assert words(whole)
    for middle in range(len(events)):
        first, second = Engine(config), Engine(config)
        before = told(first, events[:middle])
        assert second.load(first.save()) == []
        assert before + told(second, events[middle:]) == whole


def change(at: float, state: str) -> StatusEvent:
    data = StatusData(stream="gate", task="open-gate", state=state, asks="open_vocabulary_detection")
    event = clock_event("home")
    (like,) = story(f"{at} clock").events()
    return event.model_copy(update={"subject": f"task.{state}", "data": data, "time": like.time})


def test_paused_task_has_no_word() -> None:
    engine = Engine(story("").config())
    first, last = story("0 open_gate\n9 closed_gate").events()
    assert words(told(engine, [first, change(2, "paused"), change(8, "resumed"), last])) == [
        "0 open", "2 None", "9 Closed",
    ]  # fmt: skip


def test_word_of_a_changed_or_removed_rule_is_withdrawn() -> None:
    before = Engine(story("").config())
    told(before, story("0 open_gate").events())
    changed = story("", grace="4s").config()
    for config in (changed, from_mapping({**changed.raw, "rules": {}})):
        assert words([*Engine(config).load(before.save())]) == ["0 None"]


def test_word_is_no_incident_and_starts_none() -> None:
    closed = story("0 closed_gate\n1 closed_gate")
    assert run(Engine(closed.config()), closed.events()) == []
    opened = story("0 open_gate\n1 closed_gate\n2 closed_gate\n3 closed_gate")
    assert summary(run(Engine(opened.config()), opened.events())) == ["0 start", "3 end"]


@pytest.mark.parametrize("saved", [0, 1, 2, 3])
def test_words_follow_from_state_and_ledger(tmp_path: Path, saved: int) -> None:
    """The rules store their state after `saved` answers; later words are in the ledger only."""
    told_story = story("0 open_gate\n1 closed_gate\n2 down")
    engine, shown = Engine(told_story.config()), list[str | None]()
    with Ledger(tmp_path / LEDGER_FILE) as ledger, closing(StateFile(tmp_path / "rules.db")) as file:
        ledger.cursors([], [RULES])
        for number, event in enumerate(told_story.events()):
            found = told(engine, [event])
            ledger.commit([event, *found])
            shown += [engine.activities.word("story", "gate")] * (1 + len(found))
            if number + 1 == saved:
                file.store(len(shown), engine)
        last = rules_state(told_story.config(), tmp_path, tmp_path / LEDGER_FILE, len(shown)).words
        early = rules_state(told_story.config(), tmp_path, tmp_path / LEDGER_FILE, 3).words
    assert last == {}
    assert early == ({PAIR: "open"} if saved <= 1 else {PAIR: "Closed"} if saved == 2 else {})


def test_overview_has_the_word_by_stream() -> None:
    engine = Engine(story("").config())
    assert overview(engine, START)["rules"]["story"]["words"] == {"gate": None}
    told(engine, story("0 open_gate").events())
    assert overview(engine, START)["rules"]["story"]["words"] == {"gate": "open"}


def test_word_that_stands_for_no_answer_is_refused() -> None:
    with pytest.raises(ConfigError, match="`words` cannot have `None`: sensors show it when there is no answer"):
        from_mapping(
            {
                "agent": "home",
                "streams": {"gate": {"source": "synthetic"}},
                "rules": {"r": {"when": {"state": {"of": "gate", "words": ["none", "open"], "is": "open"}}}},
            }
        )
