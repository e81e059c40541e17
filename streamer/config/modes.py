"""The `modes` of a config: names such as `home` and `away` that say which rules are armed, and when they switch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, NamedTuple
from zoneinfo import ZoneInfo

from pydantic import BeforeValidator, Field

from streamer.config.calendar import Cron, CronField
from streamer.config.validation import Problem, nearest
from streamer.core.settings import Name, Settings

LOOK_BACK_S = (3600.0, 86400.0, 8 * 86400.0)
"""Seconds before now in which a missed switch is looked for, the shortest first: a daily line needs few steps."""


STATUS = "status"
"""Word in place of a mode that asks for the present one."""


class Mode(Settings):
    """A mode."""

    at: CronField | None = None
    """Cron line of the times that switch to this mode: `0 23 * * *`."""


def _parse(value: Any) -> Any:
    """Return a list of names as a mapping, and a mode without a value as one without a schedule."""
    if isinstance(value, list):
        for index, name in enumerate(value):
            if not isinstance(name, str):
                raise ValueError("must be a list of names, or a mapping of names")
            if name in value[:index]:
                raise ValueError(f"has the mode `{name}` twice")
        return {name: {} for name in value}
    if isinstance(value, Mapping):
        return {name: {} if mode is None else mode for name, mode in value.items()}
    return value


ModesField = Annotated[
    dict[Name, Mode],
    BeforeValidator(_parse, json_schema_input_type=dict[Name, Mode | None] | list[Name]),
    Field(min_length=1),
]


class Switch(NamedTuple):
    """A scheduled change of the mode."""

    at: float
    """Unix second."""
    mode: str


def last_switch(modes: Mapping[str, Mode], zone: ZoneInfo, since: float, now: float) -> Switch | None:
    """Return the last scheduled switch after `since` and not after `now`; None if there is none within 8 days."""
    lines = [(name, replace(mode.at, zone=zone)) for name, mode in modes.items() if mode.at is not None]
    for seconds in LOOK_BACK_S:
        start = max(since, now - seconds)
        found = [Switch(at, name) for name, line in lines if (at := _last(line, start, now)) is not None]
        if found or start == since:
            return max(found, key=lambda switch: switch.at, default=None)
    return None


def _last(line: Cron, start: float, now: float) -> float | None:
    last, run = None, line.after(start)
    while run <= now:
        last, run = run, line.after(run)
    return last


def mode_problems(rules: Mapping[str, Any], modes: Mapping[str, Mode]) -> Iterator[Problem]:
    """Yield the problems of the modes, and of those that rules name. `rules`: `config.rule.Rule` by name."""
    if STATUS in modes:
        yield ("modes",), f"no mode can be called `{STATUS}`: `streamer rules arm {STATUS}` prints the mode"
    for name, rule in rules.items():
        for index, mode in enumerate(rule.modes or ()):
            where = ("rules", name, "modes", index)
            if not modes:
                yield where, f"can never fire: the config has no `modes`, for example `modes: [home, {mode}]`"
            elif mode not in modes:
                yield where, f"unknown mode `{mode}`{nearest(mode, list(modes))}"
