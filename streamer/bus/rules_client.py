"""Sends commands to the rules of a running agent: for the command line, the API, the page and MQTT."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from streamer.bus.commands import RULES, RulesCommand, parse
from streamer.bus.rpc import request, rules_socket
from streamer.core.errors import ConfigError, NoReply

REPLY_S = 5.0
"""Time for the answer of the rules process, which itself gives up after `STORED_S`."""
STORED_S = 4.0
"""Time in which a command must be in the ledger."""


def command_rules(runtime: Path, command: RulesCommand, timeout: float = REPLY_S) -> dict[str, Any]:
    """Return the answer to a command, once it is in the ledger and in effect. Blocks for at most `timeout` seconds.

    `done` of the answer says in words what was done. Raises ConfigError for a command that is refused, and NoReply if
    it cannot be stored in time.
    """
    path = rules_socket(runtime)
    if not path.exists():
        raise ConfigError("no rules are running: the config has none, or the agent is starting")
    try:
        answer = request(path, command.message(), timeout)
    except NoReply:
        raise NoReply(f"the rules process does not answer within {timeout:g} s: see the log of the agent") from None
    if "error" in answer:
        raise ConfigError(answer["error"])
    if "failed" in answer:
        raise NoReply(answer["failed"])
    return answer


def command_rules_by_data(runtime: Path, data: Mapping[str, Any]) -> str:
    """Send the command that plain data describes, and return in words what was done.

    `data`: `op` and the fields of its class in `bus/commands.py`. Raises what `command_rules` raises.
    """
    return str(command_rules(runtime, parse(RULES, data))["done"])
