"""Commands to a real rules process beside a real emit process."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from streamer.bus.commands import ShowRules, SwitchMode
from streamer.bus.rules_client import command_rules
from streamer.config.model import from_mapping
from streamer.core.errors import ConfigError, NoReply
from streamer.events.ledger.query import LedgerQuery
from streamer.events.schema import StatusEvent, decode
from streamer.processes.assignment import Role
from tests.support.agents import until
from tests.support.rules_process import Workers
from tests.support.stories import STORIES

CONFIG = STORIES[0].config()


def modes(workers: Workers) -> list[str | None]:
    with contextlib.closing(LedgerQuery(workers.ledger)) as query:
        events = [decode(entry.body) for entry in query.after(0, 1000).entries]
    commands = [one.data.command for one in events if isinstance(one, StatusEvent) and one.subject == "rules.mode"]
    return [command.mode for command in commands if command is not None]


def test_success_is_reported_when_the_command_is_stored(tmp_path: Path) -> None:
    with Workers(tmp_path, CONFIG) as workers:
        until(lambda: (workers.runtime / "rules.sock").exists(), 60, "rules process")
        assert command_rules(workers.runtime, SwitchMode(by="anna", mode="away"))["done"] == "mode away"
        assert modes(workers) == ["away"]
        with pytest.raises(ConfigError, match="there is no mode `awy`"):
            command_rules(workers.runtime, SwitchMode(by="anna", mode="awy"))

        workers.kill(Role.EMIT)
        done: list[str] = []

        def command() -> None:
            try:
                done.append(command_rules(workers.runtime, SwitchMode(by="anna", mode="home"))["done"])
            except NoReply as error:
                done.append(str(error))

        sender = threading.Thread(target=command)
        sender.start()
        assert command_rules(workers.runtime, ShowRules())["incidents"] == []
        sender.join(0.3)
        assert done == []
        workers.start(Role.EMIT)
        sender.join(100)
        until(lambda: modes(workers) == ["away", "home"], 20, "the command that emit did not take at first")
        assert done == ["mode home"] or "takes effect afterwards" in done[0]


def test_schedule_switches_the_mode_once(tmp_path: Path) -> None:
    daily = {"home": None, "away": {"at": "0 0 * * *"}}
    config = from_mapping({**STORIES[0].config().raw, "modes": daily})
    with Workers(tmp_path, config) as workers:
        until(lambda: modes(workers) == ["away"], 60, "the switch of last midnight")
        for _ in range(2):
            assert command_rules(workers.runtime, SwitchMode(by="anna", mode="home"))["done"] == "mode home"
            workers.kill(Role.RULES)
            workers.start(Role.RULES)
            (shown,) = until(lambda: state(workers), 60, "the rules process again")
            assert (shown["mode"], shown["mode_by"]) == ("home", "anna")
        time.sleep(1)  # proves absence: the schedule is looked at every half second
        assert modes(workers) == ["away", "home", "home"]


def state(workers: Workers) -> list[dict[str, Any]]:
    """Return the state of the rules, or nothing while there is no answer."""
    try:
        return [command_rules(workers.runtime, ShowRules())]
    except (ConfigError, NoReply):
        return []


def test_command_without_rules_process_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no rules are running"):
        command_rules(tmp_path, ShowRules())
