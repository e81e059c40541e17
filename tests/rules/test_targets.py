"""The targets of each incident event: quiet hours, rising severity, notifications that are replaced."""

from __future__ import annotations

from typing import Any

import pytest

from streamer.config.model import Config, from_mapping
from streamer.events.schema import IncidentEvent
from streamer.rules.engine import Engine
from tests.support.stories import PERSON, START, Story, run, seconds

MAIL, NTFY = "mailto://user:password@mail.example?to=a@b.example", "ntfy://ntfy.example/topic"
QUIET = {"between": "21:00-21:01", "below": "high"}
"""Quiet from second 0 to second 60 of a story."""


def config(target: dict[str, Any], rule: dict[str, Any], script: str) -> tuple[Config, Story]:
    story = Story("", {"when": PERSON, "notify": ["phone"], **rule}, script, [])
    notify = {"phone": {"kind": "apprise", "url": MAIL, **target}}
    raw = {**_raw(story), "notify": notify}
    return from_mapping(raw), story


def _raw(story: Story) -> dict[str, Any]:
    plain = Story("", {"when": PERSON}, "", []).config().raw
    return {**plain, "rules": {"story": story.rule}}


def told(events: list[IncidentEvent]) -> list[str]:
    """Return `second state [silent]` of the events that the target gets."""
    return [
        f"{_second(one):g} {one.data.state}{' silent' if one.data.silent else ''}"
        for one in events
        if one.data.notify == ("phone",)
    ]


def _second(event: IncidentEvent) -> float:
    from datetime import datetime

    return datetime.fromisoformat(event.time).timestamp() - START


MORE = "0 person\n1 person person\n2 person person\n" + seconds(3, 20, "-")
LONG = seconds(0, 70, "person") + seconds(71, 90, "-")
LONG_AFTER = seconds(6, 70, "person") + seconds(71, 90, "-")
CASES: list[tuple[str, dict[str, Any], dict[str, Any], str, list[str]]] = [
    ("one alert per activity", {}, {}, MORE, ["0 start"]),
    ("ntfy replaces its notification", {"url": NTFY}, {}, MORE, ["0 start", "1 update silent"]),
    ("end by option", {"end": True}, {}, MORE, ["0 start", "12 end silent"]),
    (
        "rising severity alerts again",
        {},
        {"escalate": {"after": "5s", "to": "critical"}},
        LONG,
        ["0 start", "5 update"],
    ),
    ("quiet hours postpone what goes on", {"quiet": QUIET}, {}, LONG, ["60 update"]),
    ("quiet hours drop what is over", {"quiet": QUIET, "end": True}, {}, MORE, []),
    ("quiet hours let a high severity through", {"quiet": QUIET}, {"severity": "high"}, MORE, ["0 start"]),
    (
        "severity that rises above the limit alerts in quiet hours",
        {"quiet": QUIET},
        {"escalate": {"after": "5s", "to": "critical"}},
        LONG,
        ["5 update"],
    ),
    (
        "severity that rises below the limit waits",
        {"quiet": {**QUIET, "below": "critical"}},
        {"escalate": {"after": "5s", "to": "high"}},
        LONG,
        ["60 update"],
    ),
    (
        "quiet hours are in the zone of the config",
        {"quiet": {"between": "10:00-11:00"}},
        {},
        MORE,
        ["0 start"],
    ),
    (
        "snooze that ends in quiet hours",
        {"quiet": QUIET},
        {},
        seconds(0, 5, "person") + "5 snooze 25\n" + seconds(6, 70, "person"),
        ["60 update"],
    ),
    (
        "snooze that ends after quiet hours",
        {"quiet": QUIET},
        {},
        seconds(0, 5, "person") + "5 snooze 75\n" + seconds(6, 90, "person"),
        ["80 update"],
    ),
    (
        "snooze that is ended after quiet hours",
        {"quiet": QUIET},
        {},
        seconds(0, 5, "person") + "5 snooze 300\n" + seconds(6, 70, "person") + "70 snooze off\n",
        ["70 update"],
    ),
    (
        "snooze before the start",
        {},
        {},
        "0 snooze 10\n" + seconds(1, 20, "person"),
        ["10 update"],
    ),
    (
        "acknowledged in quiet hours",
        {"quiet": QUIET, "end": True},
        {},
        seconds(0, 5, "person") + "5 ack 0\n" + LONG_AFTER,
        [],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_target_gets(case: tuple[str, dict[str, Any], dict[str, Any], str, list[str]]) -> None:
    _, target, rule, script, expected = case
    made, story = config(target, rule, script)
    assert told(run(Engine(made), story.events())) == expected


@pytest.mark.parametrize("cut", [1, 30, 62, 75])
def test_alerts_survive_a_restart(cut: int) -> None:
    made, story = config({"quiet": QUIET, "end": True}, {}, LONG)
    whole = run(Engine(made), story.events())
    first = Engine(made)
    events = run(first, story.events()[:cut])
    second = Engine(made)
    assert second.load(first.save()) == []
    assert events + run(second, story.events()[cut:]) == whole
    assert told(whole) == ["60 update", "80 end silent"]


def test_quiet_hours_of_the_whole_week_never_alert() -> None:
    made, story = config({"quiet": {"between": "00:00-24:00"}}, {}, LONG)
    assert told(run(Engine(made), story.events())) == []


def test_another_target_leaves_an_open_incident_alone() -> None:
    made, story = config({}, {}, "0 person")
    first = Engine(made)
    run(first, story.events())
    changed, _ = config({}, {"notify": []}, "")
    assert Engine(changed).load(first.save()) == []


def test_end_after_a_change_of_the_config_reaches_who_was_alerted() -> None:
    """The rule is removed, or has another target now, while its incident is open."""
    made, story = config({"end": True}, {}, "0 person")
    first = Engine(made)
    assert told(run(first, story.events())) == ["0 start"]
    without = from_mapping({**made.raw, "rules": {}})
    (end,) = Engine(without).load(first.save())
    assert isinstance(end, IncidentEvent)
    assert (end.data.state, end.data.notify, end.data.silent) == ("end", ("phone",), True)
    other, _ = config({"end": True}, {"notify": []}, "")
    second = Engine(other)
    assert second.load(first.save()) == []
    gone = Story("", {}, seconds(1, 13, "-"), [], ids="later")
    assert told(run(second, gone.events())) == ["10 end silent"]
