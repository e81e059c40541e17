"""An agent with rules whose processes are killed: its config, and what must be true of its incidents."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from streamer.config.model import load
from streamer.events.ledger import LEDGER_FILE
from streamer.events.ledger.query import LedgerQuery
from streamer.events.schema import encode
from streamer.rules.replay import replay
from tests.support.agents import Event, RunningAgent, until

CONFIG: dict[str, Any] = {
    "agent": "home",
    "streams": {
        "gate": {
            "source": "synthetic?seed=3&fps=10",
            "tasks": [{"task": "object_detection", "name": "objects", "every": "200ms"}],
        }
    },
    "rules": {
        "rings": {"when": {"label": "ring"}, "hold": {"hits": "2 of 3"}, "grace": "300ms"},
        "no-star": {"when": {"not": {"label": "star"}}, "grace": "300ms"},
        "stays": {"when": {"label": "square", "dwell": "1s"}, "grace": "500ms"},
        "leaves": {"when": {"any": [{"label": "star", "disappears": True}, {"label": "ring", "disappears": True}]}},
        "works": {"when": {"stream": "up"}},
    },
}


def incidents(events: Iterable[Event]) -> list[Event]:
    return [one for one in events if one["type"] == "streamer.incident.v1"]


def without_sequence(event: Event) -> str:
    return json.dumps({**event, "sequence": ""}, sort_keys=True)


def replayed(config: Path, agent: Path) -> list[Event]:
    """Return the incident events that a replay of the agent's ledger gives. `agent`: folder of the `RunningAgent`."""
    loaded = load(config)
    with closing(LedgerQuery(agent / "state" / "streamer" / "home" / LEDGER_FILE)) as query:
        return [json.loads(encode(one)) for one in replay(query, loaded, loaded.rules, None)]


def wrong_orders(events: Iterable[Event]) -> int:
    """Return how many starts and ends do not alternate, over all rules."""
    is_open: dict[str, bool] = {}
    wrong = 0
    for one in events:
        rule, state = one["data"]["rule"], one["data"]["state"]
        wrong += is_open.get(rule, False) != (state != "start")
        is_open[rule] = state != "end"
    return wrong


def kill(agent: RunningAgent, child: str, moments: random.Random, timeout: float) -> None:
    """Kill a child at a random moment, and wait until it is replaced."""
    until(lambda: child in agent.children(), timeout, f"{child} runs")
    known = len(agent.results())
    if child == "infer" or moments.random() < 0.5:  # else while the one before is still starting
        agent.wait_for_results(known + moments.randint(1, 6), timeout)
    pid = agent.kill(child)
    until(lambda: agent.children().get(child, pid) != pid, timeout, f"{child} is replaced")
