"""Commands to the rules are checked before they become events."""

from __future__ import annotations

import re

import pytest

from streamer.bus.commands import Acknowledge, Feedback, RulesChange, Snooze, SwitchMode
from streamer.config.model import Config, from_mapping
from streamer.config.validation import nearest
from streamer.core.errors import ConfigError
from streamer.events.schema import decode, encode
from streamer.rules.commands import check, overview
from streamer.rules.engine import Engine
from tests.support.stories import START, STORIES, Story, run, told

STORY = next(story for story in STORIES if story.name == "better frame")


def config() -> Config:
    return from_mapping(STORY.config().raw)


@pytest.fixture
def engine() -> Engine:
    """An engine with an open incident."""
    engine = Engine(config())
    run(engine, STORY.events())
    return engine


def refusal(command: RulesChange, engine: Engine) -> str:
    with pytest.raises(ConfigError) as refused:
        check(command, engine, lambda incident: None, START)
    return str(refused.value)


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        (SwitchMode(by="anna", mode="awy"), r"there is no mode `awy` \(did you mean `away`\?\)"),
        (Snooze(by="anna", rule="storey", seconds=60), r"there is no rule `storey` \(did you mean `story`\?\)"),
        (Snooze(by="anna", stream="gat", seconds=60), r"no rule looks at a stream `gat` \(did you mean `gate`\?\)"),
        (Snooze(by="anna", seconds=0), "cannot snooze for 0 s"),
        (Snooze(by="anna", seconds=float("nan")), "cannot snooze for nan s"),
        (Snooze(by="anna", seconds=40 * 86400), "at most 30 days"),
        (Acknowledge(by="anna", incident="c0ffee00"), "there is no incident `c0ffee00`"),
        (Acknowledge(by="anna", incident=""), "there is no incident ``"),
        (Acknowledge(by="anna", rule="story"), "give the id of an incident, or its rule and stream"),
        (Acknowledge(by="anna", rule="story", stream="yard"), "rule `story` has no open incident on stream `yard`"),
        (Acknowledge(by="anna", incident="c0ffee00", rule="story"), "give either the id of an incident, or its rule"),
        (Feedback(by="anna", incident="c0ffee00", verdict="wrong"), "there is no incident `c0ffee00`"),
    ],
    ids=lambda value: value.op if hasattr(value, "op") else "",
)
def test_wrong_command_is_refused_with_the_nearest(engine: Engine, command: RulesChange, problem: str) -> None:
    assert re.match(f".*{problem}", refusal(command, engine))


def test_mode_without_modes_is_refused() -> None:
    without_modes = {key: value for key, value in STORY.config().raw.items() if key != "modes"}
    assert (
        refusal(SwitchMode(by="anna", mode="away"), Engine(from_mapping(without_modes))) == "the config has no `modes`"
    )


def test_over_incident_can_be_judged_but_not_acknowledged(engine: Engine) -> None:
    start = run(Engine(config()), STORY.events())[0].data
    over = Engine(config())
    judged = check(Feedback(by="anna", incident=start.incident, verdict="wrong"), over, lambda incident: start, START)
    assert judged.event.data.command is not None
    assert (judged.event.data.command.rule, judged.event.data.command.verdict) == ("story", "wrong")
    with pytest.raises(ConfigError, match="is over"):
        check(Acknowledge(by="anna", incident=start.incident), over, lambda incident: start, START)


def test_event_names_command_and_sender(engine: Engine) -> None:
    (incident,) = engine.open_incidents()
    command = Acknowledge(by="anna\n", incident=incident["incident"][:8])
    event = check(command, engine, lambda incident: None, START).event
    assert (event.source, event.subject) == ("/agents/home/rules", "rules.ack")
    assert decode(encode(event)) == event
    assert event.model_dump(mode="json")["data"]["command"] == {
        "by": "anna ", "rule": "story", "stream": "gate", "incident": incident["incident"],
    }  # fmt: skip


def test_incident_is_acknowledged_by_rule_and_stream(engine: Engine) -> None:
    (incident,) = engine.open_incidents()
    checked = check(Acknowledge(by="mqtt", rule="story", stream="gate"), engine, lambda incident: None, START)
    assert checked.event.data.command is not None
    assert checked.event.data.command.incident == incident["incident"]
    told(engine, [checked.event])
    assert engine.open_incidents()[0]["acknowledged"] == "mqtt"


def test_end_of_a_snooze_that_is_none_names_the_others(engine: Engine) -> None:
    run(engine, Story("snooze", STORY.rule, "5 snooze 60", []).events())
    assert refusal(Snooze(by="anna", rule="story"), engine) == "story: no snooze to end (snoozed: all rules)"
    check(Snooze(by="anna"), engine, lambda incident: None, START + 6)


def test_overview_has_mode_snoozes_and_incidents(engine: Engine) -> None:
    run(engine, Story("commands", STORY.rule, "5 snooze 60\n6 mode away", []).events())
    shown = overview(engine, START + 6)
    assert (shown["modes"], shown["mode"], shown["mode_by"]) == (["home", "away"], "away", "anna")
    assert shown["mode_since"] == "2026-11-23T21:00:06.000000Z"
    assert shown["snoozes"] == [{"rule": None, "stream": None, "until": "2026-11-23T21:01:05.000000Z", "by": "anna"}]
    assert [one["rule"] for one in shown["incidents"]] == ["story"]
    assert overview(engine, START + 65)["snoozes"] == []


def test_overview_names_the_streams_of_each_rule(engine: Engine) -> None:
    rules = overview(engine, START)["rules"]
    places = [(name, stream) for name, rule in rules.items() for stream in rule["streams"]]
    assert places == list(engine.places)


def test_refusal_names_few_of_many() -> None:
    known = nearest("?", [f"n{number:04}" for number in range(5000)])
    assert known.startswith(" (known: n0000, n0001, ")
    assert known.endswith(" n0019 and 4980 more)")
