"""Load of the rules engine: `python -m benchmarks.rules`.

100 streams with 10 results each per second and 200 rules, in turn of two kinds: rules that each look at one stream, and
rules that all look at every stream.

The first runs read a ledger as the rules process does, without other processes: processor time of each part for one
event, and the longest store of the state. The share of a core is that of one second of events; the target is at most
10 %.

`live` feeds a running rules process and a running emit process in real time. `rules_ms` is the time from the commit of
the answer that caused an incident to the commit of the incident; the target is a p99 of 100 ms. `sender_late_ms` and
`emit_ms` say whether the benchmark or emit was late instead: the delay of sending, and the time from an answer to its
commit, which contains that delay.
"""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, cast

import apsw
import numpy as np

from benchmarks.report import write
from streamer.bus.event_channel import EventClient
from streamer.bus.rpc import rules_socket
from streamer.config.model import Config, find_pipeline, from_mapping
from streamer.config.rule import RULES as RULES_POSITION
from streamer.events.build import result_event
from streamer.events.ledger import Ledger
from streamer.events.ledger.cursor import position_of
from streamer.events.ledger.query import LedgerQuery
from streamer.events.part import unix_time
from streamer.events.schema import IncidentEvent, ResultEvent, decode
from streamer.processes.assignment import Role
from streamer.processes.rules import SAVE_S
from streamer.rules.engine import Engine
from streamer.rules.reader import read
from streamer.rules.state_file import StateFile
from streamer.types import Answer, Box, DueTask, Frame, Job, Result, Task
from tests.support.agents import until
from tests.support.rules_process import Workers

STREAMS, RULES, RATE = 100, 200, 10
"""Results per second and stream."""
BATCH = 50
"""Events per read and commit: those between two polls of the rules process."""
START_S = 60.0
MAKE_S = 0.0005
"""Seconds in which the benchmark makes one result, at most."""
LABELS = tuple(f"label{number}" for number in range(20))
PARAMS = find_pipeline().tasks()["object_detection"].parameters()
IMAGE = np.zeros((1, 1, 3), np.uint8)


def config(everywhere: bool) -> Config:
    """Return a config whose rules look at all streams, or at one each."""
    streams = [f"camera{number}" for number in range(STREAMS)]
    rules: dict[str, dict[str, Any]] = {}
    for number in range(RULES):
        when: dict[str, Any] = {"label": LABELS[number % len(LABELS)], "zone": "drive", "min_score": 0.6}
        if not everywhere:
            when["streams"] = [streams[number % STREAMS]]
        rules[f"rule{number}"] = {"when": when, "hold": {"hits": "2 of 3"}, "again": {"cooldown": "5m"}}
    stream = {
        "source": "synthetic",
        "zones": {"drive": [[0.5, 0], [1, 0], [1, 1], [0.5, 1]]},
        "tasks": [{"task": "object_detection", "name": "objects"}],
    }
    return from_mapping({"agent": "bench", "streams": dict.fromkeys(streams, stream), "rules": rules})


def results(seconds: int, start: float = 1.76e9) -> Iterator[ResultEvent]:
    """Yield results from unix second `start` on: objects of three labels that come and go."""
    moves = np.random.default_rng(1)
    for tick in range(seconds * RATE):
        for number in range(STREAMS):
            # most frames show objects that no rule knows, some show one that a rule may look at
            names = ["tree", "sky", *([LABELS[tick // 50 % len(LABELS)]] if moves.random() < 0.1 else [])]
            edges = moves.random((len(names), 2)) * 0.8
            boxes = tuple(
                Box(x, y, x + 0.1, y + 0.2, name, 0.9) for (x, y), name in zip(edges.tolist(), names, strict=True)
            )
            due = DueTask(f"camera{number}", Task("objects", "object_detection", PARAMS), 0.0)
            frame = Frame(due.stream, 1, tick, start + tick / RATE, 0.0, tick / RATE, IMAGE)
            yield result_event("bench", Result(Job(due, frame), "ok", Answer(boxes=boxes)), "tiny")


def measure(everywhere: bool, seconds: int, folder: Path) -> dict[str, Any]:
    """Return the processor time of each part of the rules process for one event, without other processes."""
    engine, file, ledger = Engine(config(everywhere)), StateFile(folder / "rules.db"), folder / "ledger.db"
    with Ledger(ledger, "bench") as writer:
        events = results(seconds)
        while batch := list(islice(events, BATCH)):
            writer.commit(batch)
    gc.collect()
    gc.freeze()  # as the rules process does
    spent, position, number, incidents = dict.fromkeys(("read", "decode", "engine", "store"), 0.0), 0, 0, 0
    times: list[float] = []
    stores: list[float] = []

    @contextmanager
    def timed(part: str, into: list[float]) -> Iterator[None]:
        begun, wall = time.process_time(), time.perf_counter()
        yield
        spent[part] += time.process_time() - begun
        into.append(time.perf_counter() - wall)

    with closing(file), closing(LedgerQuery(ledger, is_decoded=True)) as query:
        while True:
            with timed("read", []):
                page = query.after(position, BATCH)
            if not page.entries:
                break
            for entry in page.entries:
                with timed("decode", []):
                    event = read(entry.body)
                assert event is not None
                with timed("engine", times):
                    incidents += len(engine.process(event, entry.created))
                number += 1
                if number % int(SAVE_S * STREAMS * RATE) == 0:
                    with timed("store", stores):
                        file.store(entry.position, engine)
            position = page.position
    gc.unfreeze()
    return {
        "rules": "on all streams" if everywhere else "on one stream each",
        "results": number,
        "incident_events": incidents,
        "cpu_us_per_event": {part: round(1e6 * one / number, 1) for part, one in spent.items()},
        "percent_of_a_core": round(100 * sum(spent.values()) / seconds, 2),
        "engine_p99_ms": round(float(np.percentile(times, 99)) * 1000, 3),
        "first_store_ms": round(1000 * stores[0], 1),
        "longest_later_store_ms": round(1000 * max(stores[1:], default=0.0), 1),
    }


def live(everywhere: bool, seconds: int) -> dict[str, Any]:
    """Return latency and load of real processes that get each result at its time."""
    whole = from_mapping({**config(everywhere).raw, "sinks": []})
    with tempfile.TemporaryDirectory(prefix="rules-") as folder, Workers(Path(folder), whole) as workers:
        until(lambda: position_of(workers.ledger, RULES_POSITION) is not None, START_S, "emit and rules run")
        until(rules_socket(workers.runtime).exists, START_S, "the rules process is ready")
        with EventClient(workers.runtime, "bench", window=4 * STREAMS * RATE) as client:
            # Made before: they need more time than the rules. Their times are right if the sender is never late.
            events = list(results(seconds, time.time() + MAKE_S * seconds * STREAMS * RATE))
            time.sleep(max(0.0, unix_time(events[0].time) - time.time()))
            loads = {role: _processor_seconds(workers.pid(role)) for role in (Role.RULES, Role.EMIT)}
            begun, late, unstored = time.monotonic(), list[float](), 0
            for number, event in enumerate(events):
                due = begun + number / (STREAMS * RATE)
                while (left := due - time.monotonic()) > 0:
                    client.socket.poll(int(left * 1000) + 1)
                    client.receive()
                late.append(-left)
                unstored = max(unstored, client.unacked)
                client.send(event, time.monotonic())
            client.flush(START_S)
            took = time.monotonic() - begun
        time.sleep(1)  # for the last incidents
        shares = {role: 100 * (_processor_seconds(workers.pid(role)) - one) / took for role, one in loads.items()}
        latencies, behind = _latencies(workers.ledger)
    return {
        "rules": "on all streams" if everywhere else "on one stream each",
        "results_per_s": round(STREAMS * RATE * seconds / took, 1),
        "sender_late_ms": _percentiles([1000 * one for one in late]),
        "emit_ms": _percentiles(behind),
        "most_results_not_stored": unstored,
        "incident_events": len(latencies),
        "rules_ms": _percentiles(latencies),
        "rules_percent_of_a_core": round(shares[Role.RULES], 2),
        "emit_percent_of_a_core": round(shares[Role.EMIT], 2),
    }


def _latencies(ledger: Path) -> tuple[list[float], list[float]]:
    """Return the latencies of the rules and of emit in milliseconds.

    Rules: from the commit of the newest answer in the evidence of an incident event to the commit of that. Emit: from
    the time of an answer to its commit, which contains the delay of the sender.
    """
    found, behind = [], []
    with closing(apsw.Connection(str(ledger), flags=apsw.SQLITE_OPEN_READONLY)) as db:
        rows = cast(list[tuple[str, float, bytes]], db.execute("SELECT id, created, body FROM events").fetchall())
        created = {key: at for key, at, _ in rows}
        for _, at, body in rows:
            event = decode(body)
            if isinstance(event, ResultEvent):
                behind.append(1000 * (at - unix_time(event.time)))
            elif isinstance(event, IncidentEvent) and event.data.state != "end":  # an end has no answer of its own
                found.append(1000 * (at - created[event.data.evidence[-1]]))
    return found, behind


def _percentiles(values: list[float]) -> dict[str, float]:
    ranks = {"p50": 50, "p99": 99, "longest": 100}
    return {name: round(float(np.percentile(values, rank)), 1) for name, rank in ranks.items() if values}


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=20, help="seconds of events")
    parser.add_argument("--write", action="store_true", help="store the result in benchmarks/results")
    arguments = parser.parse_args()
    rows = []
    for everywhere in (False, True):
        with tempfile.TemporaryDirectory(prefix="rules-") as folder:
            rows.append(measure(everywhere, arguments.seconds, Path(folder)))
    for row in rows:
        print(row)
    running = [live(everywhere, arguments.seconds) for everywhere in (False, True)]
    for row in running:
        print(row)
    if arguments.write:
        write("rules", {"streams": STREAMS, "rules": RULES, "results_per_s": RATE, "runs": rows, "live": running})


if __name__ == "__main__":
    main()
