"""Load of the rules engine: `python -m benchmarks.rules`.

100 streams with 10 results each per second and 200 rules, in turn of two kinds: rules that each look at one stream, and
rules that all look at every stream. Events are decoded as the rules process does. The share of a core is the processing
time of one second of events; the target is at most 10 %.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

from benchmarks.report import write
from streamer.config.model import Config, find_pipeline, from_mapping
from streamer.events.build import result_event
from streamer.events.schema import decode, encode
from streamer.rules.engine import Engine
from streamer.types import Answer, Box, DueTask, Frame, Job, Result, Task

STREAMS, RULES, RATE = 100, 200, 10
"""Results per second and stream."""
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


def bodies(seconds: int) -> list[bytes]:
    """Return encoded results: objects of three labels that come and go."""
    moves = np.random.default_rng(1)
    found = []
    for tick in range(seconds * RATE):
        for number in range(STREAMS):
            # most frames show objects that no rule knows, some show one that a rule may look at
            names = ["tree", "sky", *([LABELS[tick // 50 % len(LABELS)]] if moves.random() < 0.1 else [])]
            edges = moves.random((len(names), 2)) * 0.8
            boxes = tuple(
                Box(x, y, x + 0.1, y + 0.2, name, 0.9) for (x, y), name in zip(edges.tolist(), names, strict=True)
            )
            due = DueTask(f"camera{number}", Task("objects", "object_detection", PARAMS), 0.0)
            frame = Frame(due.stream, 1, tick, 1.76e9 + tick / RATE, 0.0, tick / RATE, IMAGE)
            found.append(encode(result_event("bench", Result(Job(due, frame), "ok", Answer(boxes=boxes)), "tiny")))
    return found


def measure(everywhere: bool, seconds: int) -> dict[str, Any]:
    engine, events = Engine(config(everywhere)), bodies(seconds)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=20, help="seconds of events")
    parser.add_argument("--write", action="store_true", help="store the result in benchmarks/results")
    arguments = parser.parse_args()
    rows = [measure(everywhere, arguments.seconds) for everywhere in (False, True)]
    for row in rows:
        print(row)
    if arguments.write:
        write("rules", {"streams": STREAMS, "rules": RULES, "results_per_s": RATE, "runs": rows})


if __name__ == "__main__":
    main()
