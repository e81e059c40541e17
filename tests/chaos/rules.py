"""Rules while their processes are killed."""

from __future__ import annotations

import json
import random
import secrets
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.chaos.bench import START_S, Row, Size, at_least, at_most
from tests.support.agents import RunningAgent, until
from tests.support.killed_rules import CONFIG, incidents, kill, replayed, without_sequence, wrong_orders

KILLS = 10
"""Kills in one run of the agent: a child that fails more often within ten minutes is restarted rarely."""
CHILDREN = ("rules", "emit", "infer")


def rules_killed(folder: Path, size: Size) -> Iterator[Row]:
    """rules, emit and infer are killed (kill -9) at random moments, and the agent is restarted every ten kills."""
    seed = secrets.randbelow(10**6)
    moments, kills, runs = random.Random(seed), Counter[str](), size.of(1, 5, 20)
    config, everything, alone = folder / "home.yaml", folder / "all.jsonl", folder / "incidents.jsonl"
    sinks = [
        {"kind": "jsonl", "path": str(everything)},
        {"kind": "jsonl", "name": "alone", "path": str(alone), "only": ["incidents"]},
    ]
    config.write_text(json.dumps({**CONFIG, "sinks": sinks}))

    def start() -> RunningAgent:
        return RunningAgent(folder / "agent", ["run", str(config)], everything)

    for _ in range(runs):
        with start() as running:
            running.wait_for_results(len(running.results()) + 5, START_S)
            for _ in range(KILLS):
                child = moments.choice(CHILDREN)
                kill(running, child, moments, START_S)
                kills[child] += 1
            running.wait_for_results(len(running.results()) + 5, START_S)
            running.stop()
    expected = [without_sequence(one) for one in replayed(config, folder / "agent")]
    with start() as running:  # the cameras' last events can reach the ledger after the rules have stopped
        until(
            lambda: len(set(map(without_sequence, incidents(running.events())))) >= len(expected), START_S, "the rest"
        )
        running.stop()
        live = incidents(running.events())
    found = [without_sequence(one) for one in live]
    ids = Counter(one["id"] for one in live)
    killed = ", ".join(f"{child} {kills[child]}" for child in CHILDREN)
    yield at_least(f"incident events with {kills.total()} kills ({killed}; seed {seed})", 2 * runs, len(expected))
    yield at_most(
        "incident events that differ from a replay", 0, sum(a != b for a, b in zip(found, expected, strict=False))
    )
    yield at_most("incident events missed", 0, len(set(expected) - set(found)))
    yield at_most("incident events that came twice", 0, sum(count - 1 for count in ids.values()))
    yield at_most("starts and ends that do not alternate", 0, wrong_orders(live))
    yield at_most(
        "differences of a sink with only incidents",
        0,
        sum(a != b for a, b in zip([json.loads(line) for line in alone.read_text().splitlines()], live, strict=False)),
    )
