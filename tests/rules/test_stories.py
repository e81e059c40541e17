"""Scripted stories give exactly the incidents that are written beside them, also with a restart at any event."""

from __future__ import annotations

import pytest

from streamer.config.model import from_mapping
from streamer.events.schema import encode
from streamer.rules.engine import Engine
from streamer.rules.reader import read
from tests.support.stories import PERSON, START, STORIES, ZONES, Story, run, summary

by_name = pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)


@by_name
def test_story_gives_its_incidents(story: Story) -> None:
    assert summary(run(Engine(story.config()), story.events())) == story.expected


@by_name
def test_restart_at_any_event_changes_nothing(story: Story) -> None:
    config, events = story.config(), story.events()
    whole = run(Engine(config), events)
    for middle in range(0, len(events), max(1, len(events) // 4)):
        first, second = Engine(config), Engine(config)
        before = run(first, events[:middle])
        assert second.load(first.save()) == []
        assert before + run(second, events[middle:]) == whole


def test_events_of_an_incident_share_id_and_evidence() -> None:
    story = next(one for one in STORIES if one.name == "flicker makes one incident")
    start, end = run(Engine(story.config()), story.events())
    assert start.data.incident == end.data.incident
    assert [start.data.number, end.data.number] == [0, 1]
    assert start.data.evidence == ("event-0",)
    assert end.data.evidence == ("event-1", "event-2", "event-4", "event-7")
    assert end.data.answers == 5
    assert start.subject == "incident.story"
    (why,) = start.data.why
    assert (why.condition, why.value, why.threshold, why.score, why.model) == ("label person", 1, ">= 1", 0.9, "tiny")


def test_ids_follow_from_rule_stream_and_first_frame() -> None:
    story = STORIES[1]
    ids = [one.id for one in run(Engine(story.config()), story.events())]
    assert ids == [one.id for one in run(Engine(story.config()), story.events())]
    assert len(set(ids)) == 2


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-01-01T00:00:00"])
def test_event_with_an_impossible_time_is_passed_over(time: str) -> None:
    story = next(one for one in STORIES if one.name == "better frame")
    engine = Engine(story.config())
    assert run(engine, [event.model_copy(update={"time": time}) for event in story.events()]) == []


def test_late_event_ends_no_snooze() -> None:
    """Its time is that of a clock which was set back, but it was committed after the events before it."""
    story = Story("", {"when": PERSON}, "0 snooze 600\n1 person\n400 person", [])
    engine, (late,) = Engine(story.config()), Story("", {}, "100 person", [], ids="late").events()
    assert summary(run(engine, story.events())) == ["1 start (snoozed)"]
    seen = read(encode(late))
    assert seen is not None
    assert engine.process(seen, START + 401) == []
    assert engine.controls.snoozed_until("story", "gate", START + 599) == START + 600


def test_incident_of_a_removed_rule_ends() -> None:
    story = next(one for one in STORIES if one.name == "better frame")
    before = Engine(story.config())
    run(before, story.events())
    after = Engine(Story("other", {"when": {"label": "dog"}}, "", []).config())
    (end,) = after.load(before.save())
    assert (end.data.state, end.data.reason) == ("end", "the rule, or a zone or line that it names, was changed")
    (end,) = Engine(story.config(), {}).load(before.save())
    assert (end.data.state, end.data.reason) == ("end", "the rule was removed")


def test_incident_ends_when_its_zone_or_line_has_moved() -> None:
    story = next(one for one in STORIES if "zone" in one.rule["when"] and len(one.expected) > 1)
    config = story.config()
    before = Engine(config)
    starts = 0
    for event in story.events():
        starts += len(run(before, [event]))
        if starts:
            break
    state = before.save()
    assert Engine(config).load(state) == []
    gate = {**config.raw["streams"]["gate"], "zones": {**ZONES, "drive": [[0.4, 0], [1, 0], [1, 1], [0.5, 1]]}}
    (end,) = Engine(from_mapping({**config.raw, "streams": {"gate": gate}})).load(state)
    assert end.data.reason == "the rule, or a zone or line that it names, was changed"
    gate["zones"] = {**ZONES, "street": [[0.4, 0], [1, 0], [1, 1], [0.5, 1]]}
    assert Engine(from_mapping({**config.raw, "streams": {"gate": gate}})).load(state) == []
