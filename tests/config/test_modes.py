"""`modes`: names, schedules, and rules that name them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from streamer.config.model import from_mapping, load
from streamer.config.modes import Switch, last_switch
from streamer.core.errors import ConfigError
from tests.support.stories import STORIES

BERLIN = ZoneInfo("Europe/Berlin")
SCHEDULE = {"home": {"at": "0 7 * * *"}, "away": None, "night": {"at": "0 23 * * *"}}


def config(modes: Any, of_rule: Any = None) -> dict[str, Any]:
    rule = {"when": {"label": "person", "task": "people"}, **({"modes": of_rule} if of_rule is not None else {})}
    return {**STORIES[0].config().raw, "modes": modes, "rules": {"story": rule}}


def unix(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN).timestamp()


def test_list_and_mapping_name_modes_in_their_order() -> None:
    assert list(from_mapping(config(["night", "home"])).modes) == ["night", "home"]
    assert list(from_mapping(config(SCHEDULE)).modes) == ["home", "away", "night"]
    assert not from_mapping(config(None)).modes


@pytest.mark.parametrize(
    ("modes", "of_rule", "problem"),
    [
        ([], None, "modes: must not be empty"),
        (["home", "home"], None, "modes: has the mode `home` twice"),
        ([1], None, "modes: must be a list of names, or a mapping of names"),
        (["Home"], None, "must be a name"),
        (["home", "status"], None, "no mode can be called `status`"),
        ({"home": {"at": "0 25 * * *"}}, None, "in the cron line"),
        ({"home": {"at": "0 0 30 2 *"}}, None, "can never run"),
        (["home", "away"], ["awya"], r"rules.story.modes\[0\]: unknown mode `awya` \(did you mean `away`\?\)"),
        (["home"], [], "rules.story.modes: must not be empty"),
        (None, ["away"], r"rules.story.modes\[0\]: can never fire: the config has no `modes`"),
    ],
    ids=str,
)
def test_bad_mode_is_refused(modes: Any, of_rule: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        from_mapping(config(modes, of_rule))


def test_unknown_mode_is_reported_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "home.yaml"
    file.write_text(
        "streams: {gate: {source: synthetic, tasks: [{task: object_detection}]}}\n"
        "modes: [home, away]\n"
        "rules:\n"
        "  person:\n"
        "    when: {label: person}\n"
        "    modes: [away, nigth]\n"
    )
    with pytest.raises(ConfigError, match=r"home.yaml:6: rules.person.modes\[1\]: unknown mode `nigth`"):
        load(file)


@pytest.mark.parametrize(
    ("since", "now", "mode"),
    [
        ("2026-11-23T22:59", "2026-11-23T22:59", None),
        ("2026-11-23T22:00", "2026-11-23T23:00", "night"),
        ("2026-11-23T22:00", "2026-11-25T12:00", "home"),
        ("2020-01-01T00:00", "2026-11-25T05:00", "night"),
        ("2026-11-23T23:00", "2026-11-24T06:59", None),
        ("2026-12-23T23:00", "2026-11-24T06:59", None),
    ],
)
def test_last_missed_switch_counts(since: str, now: str, mode: str | None) -> None:
    modes = from_mapping(config(SCHEDULE)).modes
    switch = last_switch(modes, BERLIN, unix(since), unix(now))
    assert (switch.mode if switch else None) == mode


def test_switch_has_the_time_of_its_line() -> None:
    modes = from_mapping(config(SCHEDULE)).modes
    at = datetime(2026, 11, 23, 22, 0, tzinfo=UTC).timestamp()
    assert last_switch(modes, BERLIN, at - 10, at + 10) == Switch(at, "night")
