"""What a fault is given and gives: a folder and a size, and rows of what was measured."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import faulty
from tests.agents import RunningAgent

START_S = 120.0
CAMERA = {"source": "synthetic?fps=25&size=160x120", "tasks": [{"task": "caption", "every": "200ms"}]}


@dataclass(frozen=True, slots=True)
class Size:
    """How much of each fault: 0 in the tests, 1 in `make chaos`, 2 with FULL=1."""

    step: int

    def of(self, test: int, normal: int, full: int) -> int:
        return (test, normal, full)[self.step]


@dataclass(frozen=True, slots=True)
class Row:
    what: str
    target: str
    measured: str
    good: bool


Fault = Callable[[Path, Size], Iterator[Row]]


def at_most(what: str, limit: float, value: float, unit: str = "") -> Row:
    return Row(what, f"<= {limit:g}{unit}", f"{value:.3g}{unit}", value <= limit)


def at_least(what: str, limit: float, value: float, unit: str = "") -> Row:
    return Row(what, f">= {limit:g}{unit}", f"{value:.3g}{unit}", value >= limit)


def is_so(what: str, good: bool, measured: object = "") -> Row:
    return Row(what, "yes", f"{'yes' if good else 'no'} {measured}".strip(), good)


def agent(folder: Path, streams: Mapping[str, Any], **model: Any) -> RunningAgent:
    """The program with an engine that fails when it is told to."""
    return agent_in(folder, streams, {}, **model)


def agent_in(folder: Path, streams: Mapping[str, Any], environment: Mapping[str, str], **model: Any) -> RunningAgent:
    file = faulty.config(folder, streams, model)
    more = {**faulty.install(folder / "installed"), **environment}
    return RunningAgent(folder, ["run", str(file)], folder / "events.jsonl", more)


def rate(running: RunningAgent, stream: str, since: int) -> int:
    """Answers of a stream after the first `since` results of all."""
    return sum(event["data"]["stream"] == stream for event in running.results()[since:])


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
