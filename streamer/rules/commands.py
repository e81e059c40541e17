"""Checks commands to the rules and makes their events. Whoever sends a command, it is checked here and nowhere else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from streamer.bus.commands import Acknowledge, Feedback, RulesChange, Snooze, SwitchMode
from streamer.config.validation import nearest
from streamer.core.errors import ConfigError
from streamer.events.build import clean, command_event, rfc3339
from streamer.events.command_data import CommandData
from streamer.events.incident_data import IncidentData
from streamer.events.schema import StatusEvent
from streamer.rules.controls import is_within
from streamer.rules.engine import Engine

MAX_SNOOZE_S = 30 * 86400.0
"""Longest snooze. Remove a rule, or use modes, to be rid of it for longer."""
MIN_PREFIX = 6
"""Shortest beginning of an incident's id that names it."""

FindIncident = Callable[[str], IncidentData | None]
"""Returns the start of an incident in the ledger."""


class Checked(NamedTuple):
    """A command that is to be stored."""

    event: StatusEvent
    done: str
    """Its effect in words."""


def check(command: RulesChange, engine: Engine, find: FindIncident, now: float) -> Checked:
    """Return the event of a command. `now`: unix second. Raises ConfigError with the reason of a refusal."""
    by = clean(command.by).replace("\n", " ")
    match command:
        case SwitchMode():
            data, done = _switch(command, engine, by)
        case Snooze():
            data, done = _snooze(command, engine, by, now)
        case Acknowledge():
            data, done = _acknowledge(command, engine, find, by)
        case Feedback():
            data, done = _judge(command, engine, find, by)
    return Checked(command_event(engine.agent, command.op, data), done)


def _switch(command: SwitchMode, engine: Engine, by: str) -> tuple[CommandData, str]:
    modes = list(engine.controls.modes)
    if not modes:
        raise ConfigError("the config has no `modes`")
    if command.mode not in modes:
        raise ConfigError(f"there is no mode `{command.mode}`{nearest(command.mode, modes)}")
    return CommandData(by=by, mode=command.mode), f"mode {command.mode}"


def _snooze(command: Snooze, engine: Engine, by: str, now: float) -> tuple[CommandData, str]:
    rule, stream, seconds = command.rule, command.stream, command.seconds
    rules = sorted({name for name, _ in engine.places})
    streams = sorted({name for _, name in engine.places})
    if rule is not None and rule not in rules:
        raise ConfigError(f"there is no rule `{rule}`{nearest(rule, rules)}")
    if stream is not None and stream not in streams:
        raise ConfigError(f"no rule looks at a stream `{stream}`{nearest(stream, streams)}")
    if rule is not None and stream is not None and (rule, stream) not in engine.places:
        raise ConfigError(f"rule `{rule}` does not look at stream `{stream}`")
    words = _place(rule, stream)
    if seconds is None:
        if not any(is_within(snooze, rule, stream) for snooze in engine.controls.active(now)):
            raise ConfigError(f"{words}: no snooze to end{_snoozed(engine, now)}")
        return CommandData(by=by, rule=rule, stream=stream), f"{words}: not snoozed any more"
    if not 0 < seconds <= MAX_SNOOZE_S:
        raise ConfigError(f"cannot snooze for {seconds:g} s: more than zero and at most {MAX_SNOOZE_S / 86400:g} days")
    until = datetime.fromtimestamp(now + seconds, UTC)
    local = until.astimezone(engine.timezone).strftime("%Y-%m-%d %H:%M:%S")
    return CommandData(by=by, rule=rule, stream=stream, until=rfc3339(until)), f"{words}: snoozed until {local}"


def _place(rule: str | None, stream: str | None) -> str:
    return f"{rule or 'all rules'} on {stream}" if stream is not None else rule or "all rules"


def _snoozed(engine: Engine, now: float) -> str:
    places = [_place(snooze.rule, snooze.stream) for snooze in engine.controls.active(now)]
    return f" (snoozed: {', '.join(places)})" if places else ""


def _acknowledge(command: Acknowledge, engine: Engine, find: FindIncident, by: str) -> tuple[CommandData, str]:
    if command.incident is None:
        named = _open_at(command.rule, command.stream, engine)
        return _about(named, by), _acknowledged(named)
    if command.rule is not None or command.stream is not None:
        raise ConfigError("give either the id of an incident, or its rule and stream")
    found = _open(command.incident, engine)
    if found is None:
        if find(command.incident) is not None:
            raise ConfigError(f"incident {command.incident} is over")
        raise _unknown(command.incident, engine)
    return _about(found, by), _acknowledged(found)


def _acknowledged(found: dict[str, Any]) -> str:
    return f"incident {found['incident']} of {found['rule']} on {found['stream']}: acknowledged"


def _judge(command: Feedback, engine: Engine, find: FindIncident, by: str) -> tuple[CommandData, str]:
    found = _open(command.incident, engine)
    if found is None:
        start = find(command.incident)
        if start is None:
            raise _unknown(command.incident, engine)
        found = {"incident": start.incident, "rule": start.rule, "stream": start.stream}
    data = _about(found, by).model_copy(update={"verdict": command.verdict})
    return data, f"incident {found['incident']} of {found['rule']} on {found['stream']}: {command.verdict}"


def _about(incident: dict[str, Any], by: str) -> CommandData:
    return CommandData(by=by, incident=incident["incident"], rule=incident["rule"], stream=incident["stream"])


def _open(given: str, engine: Engine) -> dict[str, Any] | None:
    """Return the open incident with this id, or whose id alone begins so. Raises ConfigError if several do."""
    found = [one for one in engine.open_incidents() if one["incident"].startswith(given)]
    if len(found) > 1:
        raise ConfigError(f"several incidents begin with `{given}`: give more of the id")
    return found[0] if found and len(given) >= MIN_PREFIX else None


def _open_at(rule: str | None, stream: str | None, engine: Engine) -> dict[str, Any]:
    """Return the open incident of a rule on a stream. Raises ConfigError if there is none."""
    if rule is None or stream is None:
        raise ConfigError("give the id of an incident, or its rule and stream")
    found = [one for one in engine.open_incidents() if (one["rule"], one["stream"]) == (rule, stream)]
    if not found:
        raise ConfigError(f"rule `{rule}` has no open incident on stream `{stream}`")
    return found[0]


def _unknown(given: str, engine: Engine) -> ConfigError:
    known = [one["incident"] for one in engine.open_incidents()]
    return ConfigError(f"there is no incident `{given}`{nearest(given, known)}")


def overview(engine: Engine, now: float) -> dict[str, Any]:
    """Return mode, snoozes, rules and open incidents as plain data. `now`: unix second."""
    state, streams = engine.controls.state, defaultdict[str, list[str]](list)
    for rule_name, stream in engine.places:
        streams[rule_name].append(stream)
    return {
        "modes": list(engine.controls.modes),
        "mode": state.mode,
        "mode_since": None if state.switched_at is None else _time(state.switched_at),
        "mode_by": state.switched_by,
        "snoozes": [
            {"rule": snooze.rule, "stream": snooze.stream, "until": _time(snooze.until), "by": snooze.by}
            for snooze in engine.controls.active(now)
        ],
        "rules": {
            name: {
                "condition": str(rule.when),
                "severity": rule.severity,
                "streams": streams[name],
                "modes": rule.modes,
                "armed": engine.controls.is_armed(rule.modes),
                "words": {stream: engine.activities.word(name, stream) for stream in streams[name]}
                if rule.words
                else None,
            }
            for name, rule in engine.rules.items()
        },
        "incidents": engine.open_incidents(),
    }


def _time(wall: float) -> str:
    return rfc3339(datetime.fromtimestamp(wall, UTC))
