"""Helpers of the faults: sizes, result rows, and the agent under test."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import faulty
from tests.support.agents import Event, RunningAgent

START_S = 120.0
CAMERA = {"source": "synthetic?fps=25&size=160x120", "tasks": [{"task": "caption", "every": "200ms"}]}


@dataclass(frozen=True, slots=True)
class Size:
    """Size of a fault run: 0 in the test, 1 in `make chaos`, 2 with FULL=1."""

    step: int

    def of(self, test: int, normal: int, full: int) -> int:
        return (test, normal, full)[self.step]


@dataclass(frozen=True, slots=True)
class Row:
    what: str
    target: str
    measured: str
    good: bool | None
    """None if it could not be measured."""


class Skipped(Exception):
    """The fault cannot run on this machine; the text is the reason."""


Fault = Callable[[Path, Size], Iterator[Row]]


def at_most(what: str, limit: float, value: float, unit: str = "") -> Row:
    return Row(what, f"<= {limit:g}{unit}", f"{value:.3g}{unit}", value <= limit)


def at_least(what: str, limit: float, value: float, unit: str = "") -> Row:
    return Row(what, f">= {limit:g}{unit}", f"{value:.3g}{unit}", value >= limit)


def median_at_most(what: str, limit: float, seconds: Sequence[float]) -> Row:
    """Return a row for the median, with the range."""
    middle = statistics.median(seconds)
    spread = f"{min(seconds):.3g} to {max(seconds):.3g}, {len(seconds)} times"
    return Row(what, f"<= {limit:g} s", f"{middle:.3g} s ({spread})", middle <= limit)


def share_at_least(what: str, limit: float, share: float) -> Row:
    return Row(what, f">= {limit:.0%}", f"{share:.0%}", share >= limit)


def is_so(what: str, good: bool, measured: object = "") -> Row:
    return Row(what, "yes", f"{'yes' if good else 'no'} {measured}".strip(), good)


def agent(
    folder: Path,
    streams: Mapping[str, Any],
    environment: Mapping[str, str] | None = None,
    config: Mapping[str, Any] | None = None,
    **model: Any,
) -> RunningAgent:
    """Start the program with an engine that can be made to fail. `config`: further keys of its config."""
    file = faulty.config(folder, streams, model, **(config or {}))
    more = {**faulty.install(folder / "installed"), **(environment or {})}
    return RunningAgent(folder, ["run", str(file)], folder / "events.jsonl", more)


def rate(running: RunningAgent, stream: str, since: int) -> int:
    """Return the number of a stream's answers after the first `since` results."""
    return sum(event["data"]["stream"] == stream for event in running.results()[since:])


def holes(events: Sequence[Event]) -> int:
    """Return how many numbers are missing in the sequences of the sources."""
    numbers: dict[str, set[int]] = {}
    for event in events:
        numbers.setdefault(event["source"], set()).add(int(event["sequence"]))
    return sum(max(found) - len(found) for found in numbers.values())


@dataclass(frozen=True, slots=True)
class Footprint:
    """Resources in use by an agent and its children."""

    descriptors: int
    threads: int
    processes: int
    memory: dict[str, int]
    """Private bytes by process."""


def footprint(running: RunningAgent) -> Footprint:
    pids = {"parent": running.process.pid, **running.children()}
    folders = {name: Path(f"/proc/{pid}") for name, pid in pids.items()}
    return Footprint(
        sum(len(os.listdir(folder / "fd")) for folder in folders.values()),
        sum(len(os.listdir(folder / "task")) for folder in folders.values()),
        len(pids),
        {name: _unshared(folder) for name, folder in folders.items()},
    )


def _unshared(folder: Path) -> int:
    lines = (folder / "smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def flat(before: Footprint, after: Footprint) -> Iterator[Row]:
    yield at_most("more open files", 2, after.descriptors - before.descriptors)
    yield at_most("more threads", 2, after.threads - before.threads)
    yield at_most("more processes", 0, after.processes - before.processes)
