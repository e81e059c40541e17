"""Rules in a running agent: killed processes repeat and miss no incident, and a replay of the ledger agrees."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tests.support.agents import Event, RunningAgent, assert_no_duplicates, until
from tests.support.killed_rules import CONFIG, incidents, replayed, without_sequence, wrong_orders

START_S = 90.0
"""Seconds to load torch and the model on a busy machine."""


def rules_of(events: list[Event]) -> set[str]:
    return {one["data"]["rule"] for one in incidents(events)}


def test_killed_processes_repeat_and_miss_nothing(tmp_path: Path) -> None:
    config, everything, alone = tmp_path / "home.yaml", tmp_path / "all.jsonl", tmp_path / "incidents.jsonl"
    sinks = [
        {"kind": "jsonl", "path": str(everything)},
        {"kind": "jsonl", "name": "alone", "path": str(alone), "only": ["incidents"]},
    ]
    config.write_text(json.dumps({**CONFIG, "sinks": sinks}))
    moments = random.Random(20)
    with RunningAgent(tmp_path / "agent", ["run", str(config)], everything) as agent:
        agent.wait_for_results(5, START_S)
        for child in ("rules", "emit", "infer"):
            agent.kill(child)
            agent.wait_for_results(len(agent.results()) + moments.randint(3, 8), START_S)
        until(lambda: rules_of(agent.events()) >= {"stays", "works"}, START_S, "incidents of two rules")
        agent.stop()
        live = incidents(agent.events())
    assert_no_duplicates(live)
    assert live == [json.loads(line) for line in alone.read_text().splitlines()]

    again = replayed(config, tmp_path / "agent")
    assert list(map(without_sequence, again))[: len(live)] == list(map(without_sequence, live))
    # The cameras' last events can reach the ledger after the rules have stopped; the next start reads them.
    ids = {one["id"] for one in again}
    with RunningAgent(tmp_path / "agent", ["run", str(config)], everything) as agent:
        until(lambda: ids <= {one["id"] for one in incidents(agent.events())}, START_S, "the rest of the incidents")
        agent.stop()
        assert_no_duplicates(incidents(agent.events()))
    assert wrong_orders(live) == 0
