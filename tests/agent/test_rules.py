"""Rules in a running agent: killed processes repeat and miss no incident, and a replay of the ledger agrees."""

from __future__ import annotations

import json
import random
from contextlib import closing
from pathlib import Path
from typing import Any

from streamer.config.model import load
from streamer.events.ledger import LEDGER_FILE
from streamer.events.ledger.query import LedgerQuery
from streamer.events.schema import encode
from streamer.rules.replay import replay
from tests.support.agents import Event, RunningAgent, assert_no_duplicates, until

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


def incidents(events: list[Event]) -> list[Event]:
    return [one for one in events if one["type"] == "streamer.incident.v1"]


def test_killed_processes_repeat_and_miss_nothing(tmp_path: Path) -> None:
    config, everything, alone = tmp_path / "home.yaml", tmp_path / "all.jsonl", tmp_path / "incidents.jsonl"
    sinks = [
        {"kind": "jsonl", "path": str(everything)},
        {"kind": "jsonl", "name": "alone", "path": str(alone), "only": ["incidents"]},
    ]
    config.write_text(json.dumps({**CONFIG, "sinks": sinks}))
    moments = random.Random(20)
    with RunningAgent(tmp_path / "agent", ["run", str(config)], everything) as agent:
        agent.wait_for_results(5, 40)
        for child in ("rules", "emit", "infer"):
            agent.kill(child)
            agent.wait_for_results(len(agent.results()) + moments.randint(3, 8), 40)
        agent.stop()
        live = incidents(agent.events())
    assert_no_duplicates(live)
    assert live == [json.loads(line) for line in alone.read_text().splitlines()]

    loaded = load(config)
    with closing(LedgerQuery(tmp_path / "agent" / "state" / "streamer" / "home" / LEDGER_FILE)) as query:
        replayed = [json.loads(encode(one)) for one in replay(query, loaded, loaded.rules, None)]
    assert list(map(without_sequence, replayed))[: len(live)] == list(map(without_sequence, live))
    # The cameras' last events can reach the ledger after the rules have stopped; the next start reads them.
    ids = {one["id"] for one in replayed}
    with RunningAgent(tmp_path / "agent", ["run", str(config)], everything) as agent:
        until(lambda: ids <= {one["id"] for one in incidents(agent.events())}, 40, "the rest of the incidents")
        agent.stop()
        assert_no_duplicates(incidents(agent.events()))
    assert {one["data"]["rule"] for one in live} >= {"stays", "works"}
    for rule in CONFIG["rules"]:
        states = [one["data"]["state"] for one in live if one["data"]["rule"] == rule]
        starts = [state for state in states if state != "update"]
        assert starts == [("start", "end")[number % 2] for number in range(len(starts))]


def without_sequence(event: Event) -> str:
    return json.dumps({**event, "sequence": ""}, sort_keys=True)
