"""Throughput and commit time of the ledger, and sync time of the disk: `python -m benchmarks.ledger`.

Commits hold 1, 16 or 128 events; 128 is the most that emit commits at once. A commit returns once its events are on the
disk.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.report import write
from streamer.config.model import find_pipeline
from streamer.events.build import result_event
from streamer.events.ledger import Ledger
from streamer.events.schema import ResultEvent
from streamer.types import Answer, Box, DueTask, Frame, Job, Result, Task

GROUPS = (1, 16, 128)
"""Events per commit."""
PARAMS = find_pipeline().tasks()["object_detection"].parameters()
SYNCS = 500
TARGET_RATE, TARGET_MS = 3000, 20.0
"""Events per second, and 99th percentile of a commit, with the largest group."""


def make_event(number: int) -> ResultEvent:
    """Return a result event with six boxes; consecutive events belong to 16 streams in turn."""
    due = DueTask(f"camera{number % 16}", Task("objects", "object_detection", PARAMS), 0.0)
    frame = Frame(due.stream, 1, number, time.time(), 0.0, 1.0, np.zeros((1, 1, 3), np.uint8))
    boxes = tuple(Box(0.1, 0.2, 0.3, 0.4, label, 0.9) for label in ("person", "car", "dog", "bicycle", "van", "tree"))
    return result_event("bench", replace(Result(Job(due, frame), "ok"), answer=Answer(boxes=boxes)), "tiny")


def percentile(seconds: Sequence[float], percent: float) -> float:
    """Return a percentile in milliseconds."""
    return round(float(np.percentile(seconds, percent)) * 1000, 2)


def measure_ledger(folder: Path, count: int, group: int) -> dict[str, float]:
    events = [make_event(number) for number in range(count)]
    times = []
    with Ledger(folder / f"ledger-{group}.db") as ledger:
        started = time.perf_counter()
        for start in range(0, count, group):
            begun = time.perf_counter()
            ledger.commit(events[start : start + group])
            times.append(time.perf_counter() - begun)
        seconds = time.perf_counter() - started
    return {
        "group": group,
        "events_per_s": round(count / seconds),
        "commit_p50_ms": percentile(times, 50),
        "commit_p99_ms": percentile(times, 99),
    }


def measure_disk(folder: Path, count: int) -> dict[str, float]:
    """Measure appends of one page, each synced."""
    times = []
    with (folder / "syncs").open("wb", buffering=0) as file:
        for _ in range(count):
            file.write(bytes(4096))
            begun = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - begun)
    rate = round(count / sum(times))
    return {"syncs_per_s": rate, "sync_p50_ms": percentile(times, 50), "sync_p99_ms": percentile(times, 99)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=30_000, help="events per group size [30000]")
    parser.add_argument("--folder", type=Path, default=Path("."), help="folder on the disk to measure [.]")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/ledger.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        disk = measure_disk(Path(folder), SYNCS)
        # A commit of one event costs a whole sync, so these runs are shorter.
        ledger = [measure_ledger(Path(folder), arguments.events * min(group, 16) // 16, group) for group in GROUPS]
    full = ledger[-1]
    met = full["events_per_s"] >= TARGET_RATE and full["commit_p99_ms"] <= TARGET_MS
    result = {"disk": disk, "ledger": ledger, "target_met": met}
    print(json.dumps(result, indent=2))
    if arguments.write:
        write("ledger", result)


if __name__ == "__main__":
    main()
