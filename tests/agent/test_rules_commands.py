"""Commands to the rules of a running agent, by the command line and by the API; a replay sees what they did."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from streamer.cli.main import app
from streamer.config.model import load
from streamer.core.errors import ConfigError
from streamer.events.ledger import LEDGER_FILE
from streamer.events.ledger.query import LedgerQuery
from streamer.events.schema import encode
from streamer.rules.replay import replay
from tests.support.agents import Event, RunningAgent, until
from tests.support.ports import free_port

TOKEN = "a-token-for-the-button"


def incidents(agent: RunningAgent, rule: str) -> list[str]:
    """Return state and reason of each incident event of a rule."""
    return [
        f"{one['data']['state']} {one['data']['reason']}"
        for one in agent.events()
        if one["type"] == "streamer.incident.v1" and one["data"]["rule"] == rule
    ]


def commands(events: list[Event]) -> list[Event]:
    return [one["data"]["command"] for one in events if one["source"] == "/agents/home/rules"]


def test_commands_of_cli_and_api(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port, file, folder = free_port(), tmp_path / "home.yaml", tmp_path / "agent"
    config: dict[str, Any] = {
        "streams": {"gate": {"source": "synthetic?fps=10", "tasks": [{"task": "object_detection", "every": "300ms"}]}},
        "modes": ["home", "away"],
        "rules": {
            "works": {"when": {"stream": "up"}},
            "watch": {"when": {"not": {"label": "unicorn"}}, "modes": ["away"]},
        },
        "web": {"bind": f"127.0.0.1:{port}", "tokens": {"button": {"token": TOKEN, "scopes": ["view", "command"]}}},
    }
    file.write_text(json.dumps(config))
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    monkeypatch.setenv("LOGNAME", "anna")

    def cli(*arguments: str) -> list[str]:
        capsys.readouterr()
        app(["rules", *arguments, "--agent", "home"], standalone_mode=False)
        return capsys.readouterr().out.splitlines()

    def api(path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, headers)
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.read().decode()

    def has(agent: RunningAgent, rule: str, *expected: str) -> Callable[[], bool]:
        return lambda: incidents(agent, rule) == list(expected)

    with RunningAgent(folder, ["run", str(file)]) as agent:
        agent.wait_for_results(1, 60)
        until(has(agent, "works", "start None"), 20, "an incident in every mode")
        assert incidents(agent, "watch") == []
        assert cli("arm", "away") == ["mode away"]
        until(has(agent, "watch", "start None"), 20, "an incident of the armed rule")
        assert cli("snooze", "watch", "--stream", "gate", "--for", "30m")[0].startswith("watch on gate: snoozed until ")
        listed = "\n".join(cli("list"))
        for words in ("mode away, since ", " by anna", "watch: not (label unicorn)", "snoozed: watch on gate, until "):
            assert words in listed
        until(lambda: 'streamer_rules_mode{mode="away"} 1.0' in api("/metrics"), 60, "the page has it")
        until(lambda: 'streamer_incidents_open{rule="watch"} 1.0' in api("/metrics"), 60, "the page has it")

        state = json.loads(api("/api/rules/state"))
        (works,) = [one["incident"] for one in state["incidents"] if one["rule"] == "works"]
        assert json.loads(api("/api/rules/ack", {"incident": works[:12]}))["done"].endswith("acknowledged")
        assert json.loads(api("/api/rules/feedback", {"incident": works, "verdict": "right"}))["done"]
        assert f"acknowledged by button, incident {works[:12]}" in "\n".join(cli("list"))
        api("/api/rules/mode", {"mode": "home"})
        until(has(agent, "watch", "start None", "end the mode is home"), 20, "the end by the mode")
        with pytest.raises(ConfigError, match=r"there is no mode `awya` \(did you mean `away`"):
            cli("arm", "awya")
        with pytest.raises(urllib.error.HTTPError) as refused:
            api("/api/rules/mode", {"mode": "awya"})
        assert json.loads(refused.value.read())["detail"].startswith("there is no mode `awya`")
        killed = agent.kill("rules")
        until(lambda: agent.children().get("rules", killed) != killed, 60, "the rules process again")
        assert cli("arm", "status")[0].startswith("mode home, since ")
        agent.stop()
        sent = commands(agent.events())
        live = [one for one in agent.events() if one["type"] == "streamer.incident.v1"]
    assert [one["by"] for one in sent] == ["anna", "anna", "button", "button", "button"]
    loaded = load(file)
    with closing(LedgerQuery(folder / "state" / "streamer" / "home" / LEDGER_FILE)) as query:
        replayed = [json.loads(encode(one)) for one in replay(query, loaded, loaded.rules, None)]
    assert [{**one, "sequence": ""} for one in live] == replayed[: len(live)]
