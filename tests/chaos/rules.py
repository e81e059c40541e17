"""Rules while their processes are killed."""

from __future__ import annotations

import json
import random
import secrets
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from tests.chaos.bench import START_S, Row, Size, at_least, at_most, is_so
from tests.support.agents import RunningAgent, until
from tests.support.alert_receivers import REPEAT, TARGETS, AlertReceivers, Received, ids_for
from tests.support.killed_rules import CONFIG, incidents, kill, replayed, without_sequence, wrong_orders

KILLS = 10
"""Kills in one run of the agent: a child that fails more often within ten minutes is restarted rarely."""
CHILDREN = ("rules", "emit", "infer")
ANSWER_S = 1.0
"""Seconds that a receiver needs to answer, so that kills often meet a notification that is being sent."""


def rules_killed(folder: Path, size: Size) -> Iterator[Row]:
    """rules, emit and infer are killed (kill -9) at random moments, and the agent is restarted every ten kills."""
    with AlertReceivers(folder / "receivers", ANSWER_S) as receivers:
        yield from _killed(folder, size, receivers)


def _killed(folder: Path, size: Size, receivers: AlertReceivers) -> Iterator[Row]:
    seed = secrets.randbelow(10**6)
    moments, kills, runs = random.Random(seed), Counter[str](), size.of(1, 5, 20)
    config, everything, alone = folder / "home.yaml", folder / "all.jsonl", folder / "incidents.jsonl"
    sinks = [
        {"kind": "jsonl", "path": str(everything)},
        {"kind": "jsonl", "name": "alone", "path": str(alone), "only": ["incidents"]},
    ]
    rules = {name: {**rule, "notify": [*TARGETS]} for name, rule in CONFIG["rules"].items()}
    config.write_text(json.dumps({**CONFIG, "rules": rules, "notify": receivers.config(), "sinks": sinks}))

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
        wanted = {target: ids_for(target, incidents(running.events())) for target in TARGETS}
        for target, keys in wanted.items():
            with suppress(AssertionError):  # the row says how many are missing
                until(lambda t=target, k=keys: set(k) <= _ids(receivers.received(t)), START_S, "all")  # type: ignore[misc]
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
    for target in TARGETS:
        yield from _notifications(target, wanted[target], ids_for(target, live), receivers.received(target))


def _notifications(target: str, wanted: list[str], known: list[str], received: Sequence[Received]) -> Iterator[Row]:
    """Yield what a target got. At `phone`, a later message of an incident replaces the earlier one.

    `wanted`: ids of which all must have arrived; `known`: also those that were made while the agent stopped.
    """
    firsts = list(dict.fromkeys(one.id for one in received))
    yield at_most(f"{target}: notifications missing, of {len(wanted)}", 0, len(set(wanted) - set(firsts)))
    yield is_so(f"{target}: their order is kept", firsts == known[: len(firsts)])
    if target == "phone":
        extra = len(set(firsts) - set(known))
        yield at_most(f"{target}: shown beside one per incident, {len(received)} messages", 0, extra)
        return
    unmarked = Counter(one.id for one in received if REPEAT not in one.title)
    repeats = len(received) - len(firsts)
    yield at_most(f"{target}: unmarked, of {repeats} repeats", 0, sum(count - 1 for count in unmarked.values()))


def _ids(received: Sequence[Received]) -> set[str]:
    return {one.id for one in received}
