"""Load of the rules engine: `python -m benchmarks.rules`.

100 streams with 10 results each per second and 200 rules, in turn of two kinds: rules that each look at one stream, and
rules that all look at every stream. Events are decoded as the rules process does. The share of a core is the processing
time of one second of events; the target is at most 10 %.

`live` feeds a running rules process and a running emit process in real time. The latency of an incident is the time
from the commit of the answer that caused it to its own commit, both as stored in the ledger; the target is a p99 of
100 ms.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from contextlib import closing
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
from streamer.events.ledger.cursor import position_of
from streamer.events.schema import IncidentEvent, ResultEvent, decode, encode
from streamer.processes.assignment import Role
from streamer.rules.engine import Engine
from streamer.types import Answer, Box, DueTask, Frame, Job, Result, Task
from tests.support.agents import until
from tests.support.rules_process import Workers

STREAMS, RULES, RATE = 100, 200, 10
"""Results per second and stream."""
START_S = 60.0
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


def results(seconds: int, start: float = 1.76e9) -> list[ResultEvent]:
    """Return results from unix second `start` on: objects of three labels that come and go."""
    moves = np.random.default_rng(1)
    found: list[ResultEvent] = []
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
            found.append(result_event("bench", Result(Job(due, frame), "ok", Answer(boxes=boxes)), "tiny"))
    return found


def measure(everywhere: bool, seconds: int) -> dict[str, Any]:
    engine, events = Engine(config(everywhere)), list(map(encode, results(seconds)))
    decoding = engine_time = 0.0
    incidents, times = 0, []
    for body in events:
        begun = time.perf_counter()
        event = decode(body)
        decoded = time.perf_counter()
        incidents += len(engine.process(event))
        done = time.perf_counter()
        decoding += decoded - begun
        engine_time += done - decoded
        times.append(done - decoded)
    begun = time.perf_counter()
    engine.save()
    return {
        "rules": "on all streams" if everywhere else "on one stream each",
        "results": len(events),
        "incident_events": incidents,
        "engine_percent_of_a_core": round(100 * engine_time / seconds, 2),
        "decoding_percent_of_a_core": round(100 * decoding / seconds, 2),
        "p99_ms": round(float(np.percentile(times, 99)) * 1000, 3),
        "save_ms": round((time.perf_counter() - begun) * 1000, 1),
    }


def live(everywhere: bool, seconds: int) -> dict[str, Any]:
    """Return latency and load of real processes that get each result at its time."""
    whole = from_mapping({**config(everywhere).raw, "sinks": []})
    with tempfile.TemporaryDirectory(prefix="rules-") as folder, Workers(Path(folder), whole) as workers:
        until(lambda: position_of(workers.ledger, RULES_POSITION) is not None, START_S, "emit and rules run")
        until(rules_socket(workers.runtime).exists, START_S, "the rules process is ready")
        with EventClient(workers.runtime, "bench", window=4 * STREAMS * RATE) as client:
            loads = {role: _processor_seconds(workers.pid(role)) for role in (Role.RULES, Role.EMIT)}
            begun, late = time.monotonic(), 0.0
            for number, event in enumerate(results(seconds, time.time())):
                due = begun + number / (STREAMS * RATE)
                while (left := due - time.monotonic()) > 0:
                    client.socket.poll(int(left * 1000) + 1)
                    client.receive()
                late = max(late, -left)
                client.send(event, time.monotonic())
            client.flush(START_S)
            took = time.monotonic() - begun
        time.sleep(1)  # for the last incidents
        shares = {role: 100 * (_processor_seconds(workers.pid(role)) - one) / took for role, one in loads.items()}
        latencies = _latencies(workers.ledger)
    return {
        "rules": "on all streams" if everywhere else "on one stream each",
        "results_per_s": round(STREAMS * RATE * seconds / took, 1),
        "sender_late_ms": round(late * 1000, 1),
        "incident_events": len(latencies),
        **{f"p{rank}_ms": round(float(np.percentile(latencies, rank)), 1) for rank in (50, 99) if latencies},
        "rules_percent_of_a_core": round(shares[Role.RULES], 2),
        "emit_percent_of_a_core": round(shares[Role.EMIT], 2),
    }


def _latencies(ledger: Path) -> list[float]:
    """Return the milliseconds from the newest answer in the evidence of each incident event to the incident event."""
    found = []
    with closing(apsw.Connection(str(ledger), flags=apsw.SQLITE_OPEN_READONLY)) as db:
        rows = cast(list[tuple[str, float, bytes]], db.execute("SELECT id, created, body FROM events").fetchall())
        created = {key: at for key, at, _ in rows}
        for _, at, body in rows:
            event = decode(body)
            if isinstance(event, IncidentEvent) and event.data.state != "end":  # an end has no answer of its own
                found.append(1000 * (at - created[event.data.evidence[-1]]))
    return found


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=20, help="seconds of events")
    parser.add_argument("--write", action="store_true", help="store the result in benchmarks/results")
    arguments = parser.parse_args()
    rows = [measure(everywhere, arguments.seconds) for everywhere in (False, True)]
    for row in rows:
        print(row)
    running = [live(everywhere, arguments.seconds) for everywhere in (False, True)]
    for row in running:
        print(row)
    if arguments.write:
        write("rules", {"streams": STREAMS, "rules": RULES, "results_per_s": RATE, "runs": rows, "live": running})


if __name__ == "__main__":
    main()
