"""What a fault is given and gives: a folder and a size, and rows of what was measured."""

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
    """How much of each fault: 0 in short, 1 in `make chaos`, 2 with FULL=1."""

    step: int

    def of(self, test: int, normal: int, full: int) -> int:
        return (test, normal, full)[self.step]


@dataclass(frozen=True, slots=True)
class Row:
    what: str
    target: str
    measured: str
    good: bool | None
    """None: it could not be measured."""


class Skipped(Exception):
    """This machine cannot do the fault; says why."""


Fault = Callable[[Path, Size], Iterator[Row]]


def at_most(what: str, limit: float, value: float, unit: str = "") -> Row:
    return Row(what, f"<= {limit:g}{unit}", f"{value:.3g}{unit}", value <= limit)


def at_least(what: str, limit: float, value: float, unit: str = "") -> Row:
    return Row(what, f">= {limit:g}{unit}", f"{value:.3g}{unit}", value >= limit)


def median_at_most(what: str, limit: float, seconds: Sequence[float]) -> Row:
    """Of the median, with the range beside it."""
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
    """The program with an engine that fails when it is told to; `config`: more of its file."""
    file = faulty.config(folder, streams, model, **(config or {}))
    more = {**faulty.install(folder / "installed"), **(environment or {})}
    return RunningAgent(folder, ["run", str(file)], folder / "events.jsonl", more)


def rate(running: RunningAgent, stream: str, since: int) -> int:
    """Answers of a stream after the first `since` results of all."""
    return sum(event["data"]["stream"] == stream for event in running.results()[since:])


def holes(events: Sequence[Event]) -> int:
    """Numbers that are missing in the sequences of the sources."""
    numbers: dict[str, set[int]] = {}
    for event in events:
        numbers.setdefault(event["source"], set()).add(int(event["sequence"]))
    return sum(max(found) - len(found) for found in numbers.values())


@dataclass(frozen=True, slots=True)
class Footprint:
    """What an agent and its children take of the system."""

    descriptors: int
    threads: int
    processes: int
    memory: dict[str, int]
    """Bytes that no other process shares, by process."""


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
