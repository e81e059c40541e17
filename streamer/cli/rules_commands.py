"""`streamer rules arm`, `snooze`, `ack` and `feedback`: commands to the rules of a running agent."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamer.cli.options import RunningAgent
from streamer.core.errors import ConfigError
from streamer.core.paths import find_running
from streamer.core.printable import printable

if TYPE_CHECKING:
    from streamer.bus.commands import RulesCommand

DEFAULT_SNOOZE = "1h"


def arm(
    mode: Annotated[str, typer.Argument(metavar="MODE|status", help="Mode to switch to; status prints the mode.")],
    agent: RunningAgent = None,
) -> None:
    """Switch or print the mode of the rules."""
    from streamer.bus.commands import ShowRules, SwitchMode
    from streamer.config.modes import STATUS

    if mode == STATUS:
        print(printable(mode_line(_send(agent, ShowRules()))))
    else:
        _command(agent, SwitchMode(by=_user(), mode=mode[:64]))


def snooze(
    rule: Annotated[str | None, typer.Argument(metavar="[RULE]", help="Name of a rule. [default: all rules]")] = None,
    stream: Annotated[
        str | None, typer.Option(metavar="STREAM", help="Name of a stream. [default: all streams]")
    ] = None,
    duration: Annotated[
        str | None, typer.Option("--for", metavar="T", help=f"Duration: 30m, 1h, 2d. [default: {DEFAULT_SNOOZE}]")
    ] = None,
    off: Annotated[bool, typer.Option("--off", help="End the snooze.")] = False,
    agent: RunningAgent = None,
) -> None:
    """Send no notifications for a time."""
    from streamer.bus.commands import Snooze
    from streamer.core.settings import option_seconds

    if off and duration is not None:
        raise ConfigError("--for and --off do not go together")
    seconds = None if off else option_seconds("--for", duration or DEFAULT_SNOOZE)
    _command(agent, Snooze(by=_user(), rule=_name(rule), stream=_name(stream), seconds=seconds))


def ack(
    incident: Annotated[
        str, typer.Argument(metavar="INCIDENT", help="Id of an open incident, or its first characters.")
    ],
    agent: RunningAgent = None,
) -> None:
    """Acknowledge an open incident, which ends its notifications."""
    from streamer.bus.commands import Acknowledge

    _command(agent, Acknowledge(by=_user(), incident=incident[:64]))


def feedback(
    incident: Annotated[
        str,
        typer.Argument(metavar="INCIDENT", help="Id of an incident; of an open one the first characters are enough."),
    ],
    verdict: Annotated[str, typer.Argument(metavar="right|wrong", help="Verdict.")],
    agent: RunningAgent = None,
) -> None:
    """Store whether an incident was right or wrong.

    The precision of a rule is the share of its right incidents.
    """
    from streamer.bus.commands import Feedback

    if verdict != "right" and verdict != "wrong":
        raise ConfigError(f"the verdict is `right` or `wrong`, not `{verdict}`")
    _command(agent, Feedback(by=_user(), incident=incident[:64], verdict=verdict))


def state_lines(agent: str | None) -> list[str]:
    """Return mode, rules, snoozes and open incidents of a running agent. Raises ConfigError if it is none."""
    from streamer.bus.commands import ShowRules

    state = _send(agent, ShowRules())
    lines = [mode_line(state)] if state["modes"] else []
    lines += [rule_line(name, **rule) for name, rule in state["rules"].items()]
    for snooze in state["snoozes"]:
        place = snooze["rule"] or "all rules"
        place += f" on {snooze['stream']}" if snooze["stream"] else ""
        lines.append(f"snoozed: {place}, until {_local(snooze['until'])}, by {snooze['by']}")
    for one in state["incidents"]:
        words = f"open: {one['rule']} on {one['stream']} since {_local(one['started'])}, severity {one['severity']}"
        words += f", acknowledged by {one['acknowledged']}" if one["acknowledged"] else ""
        lines.append(f"{words}, incident {one['incident'][:12]}")
    return lines


def rule_line(
    name: str,
    condition: str,
    severity: str,
    streams: list[str],
    modes: list[str] | None,
    armed: bool = True,
    words: dict[str, str | None] | None = None,
) -> str:
    """Return a rule in one line. `words`: those of its `state` by stream, None for no answer."""
    parts = [f"{name}: {condition}", f"severity {severity}", f"streams {', '.join(streams)}"]
    parts += [f"modes {', '.join(modes)}"] if modes else []
    parts += [] if armed else ["not armed"]
    parts += [f"{word or 'no answer'} at {stream}" for stream, word in (words or {}).items()]
    return ", ".join(parts)


def mode_line(state: dict[str, Any]) -> str:
    """Return the mode of a running agent in one line."""
    if not state["modes"]:
        return "the config has no `modes`: all rules are armed"
    since = f", since {_local(state['mode_since'])} by {state['mode_by']}" if state["mode_since"] else ""
    return f"mode {state['mode']}{since} (modes: {', '.join(state['modes'])})"


def _command(agent: str | None, command: RulesCommand) -> None:
    print(printable(_send(agent, command)["done"]))


def _send(agent: str | None, command: RulesCommand) -> dict[str, Any]:
    from streamer.bus.rules_client import command_rules

    _, runtime = find_running(agent)
    return command_rules(runtime, command)


def _user() -> str:
    return getpass.getuser()[:64]


def _name(given: str | None) -> str | None:
    return None if given is None else given[:64]


def _local(time: str) -> str:
    from datetime import datetime

    return datetime.fromisoformat(time).astimezone().strftime("%Y-%m-%d %H:%M:%S")
