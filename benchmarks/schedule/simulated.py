"""The scheduler alone, with three times as much work as the device can do, on a simulated clock.

1,000 cameras have three tasks each; 10 % of the jobs are high priority. No frame is decoded and no model runs: a
simulated device needs a fixed time per job. Measures for each priority the missed intervals, fairness over cameras and
the longest wait (a task runs once in every stretched interval, so about twice the factor), and the scheduler's CPU time
and memory.
"""

from __future__ import annotations

import time
import tracemalloc
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np

from streamer.config.model import find_pipeline
from streamer.config.task import ScheduledTask
from streamer.inference.policy import Policy
from streamer.inference.schedule import Schedule
from streamer.inference.triggers import Now
from streamer.types import PRIORITIES, DueTask, Frame, Priority

BATCH = 16
LOAD = 3.0
COSTS = {"object_detection": 1.0, "ocr": 2.0, "caption": 3.0}
"""Relative device time of a job, by task."""
EVERY = {"object_detection": 4.0, "ocr": 8.0, "caption": 12.0}
START = Now(1000.0, 1.8e9)
_IMAGE = np.zeros((2, 2, 3), np.uint8)


def tasks_of(camera: int) -> list[ScheduledTask]:
    """Return a camera's tasks. Detection is high priority on 2 of 11 cameras, a tenth of all jobs; captions are low."""
    high = camera % 11 < 2
    levels: dict[str, Priority] = {
        "object_detection": "high" if high else "normal",
        "ocr": "normal",
        "caption": "low",
    }
    specs = find_pipeline().tasks()
    return [ScheduledTask(task, task, specs[task].parameters(), levels[task], every=EVERY[task]) for task in COSTS]


class Simulation:
    """The cameras' schedules, the policy, and a device that needs a fixed time per job."""

    def __init__(self, cameras: int, load: float) -> None:
        tasks = {f"camera{number}": tasks_of(number) for number in range(cameras)}
        self.now = START
        self.schedules = {name: Schedule(name, given, "live", START) for name, given in tasks.items()}
        self.policy = Policy(self.schedules, START)
        demand = sum(COSTS[task.task] / EVERY[task.task] for given in tasks.values() for task in given)
        self.seconds_per_cost = load / demand
        """Device seconds of a job of cost 1."""
        self.runs: dict[tuple[str, str], list[float]] = {
            (name, task.name): [] for name, given in tasks.items() for task in given
        }
        self.priority = {(name, task.name): task.priority for name, given in tasks.items() for task in given}
        self.scheduling = 0.0
        """CPU seconds of the scheduler itself."""
        self.stretched: list[tuple[float, dict[Priority, float]]] = []
        self._number = 0

    def run(self, seconds: float) -> None:
        until = self.now.mono + seconds
        while self.now.mono < until:
            started = time.process_time()
            dues = self._choose()
            self.scheduling += time.process_time() - started
            busy = sum(COSTS[due.task.task] for due in dues) * self.seconds_per_cost
            for due in dues:
                self.runs[due.stream, due.task.name].append(self.now.mono)
            self._advance(busy or max(self.policy.wait(self.now), 0.001))
            started = time.process_time()
            self._finish(dues, busy)
            self.scheduling += time.process_time() - started

    def _choose(self) -> list[DueTask]:
        dues = []
        for stream, names in self.policy.choose(BATCH, self.now).items():
            self._number += 1
            frame = Frame(stream, 1, self._number, self.now.unix_time, self.now.mono, None, _IMAGE)
            dues += self.schedules[stream].pop_due(frame, self.now, names)
            self.policy.release(stream, self.now)
        return dues

    def _finish(self, dues: Iterable[DueTask], busy: float) -> None:
        for due in dues:
            self.policy.record_job(due, COSTS[due.task.task] * self.seconds_per_cost)
        self.policy.overload.record_busy(busy)
        if self.policy.adapt(self.now):
            self.stretched.append((self.now.mono - START.mono, dict(self.policy.overload.factors)))

    def _advance(self, seconds: float) -> None:
        self.now = Now(self.now.mono + seconds, self.now.unix_time + seconds)


def misses(simulation: Simulation, priority: Priority) -> float:
    """Return the share of a priority's configured intervals without a run."""
    missed = total = 0
    for (stream, name), starts in simulation.runs.items():
        if simulation.priority[stream, name] == priority:
            intervals = int((simulation.now.mono - START.mono) / EVERY[name])
            served = {int((start - START.mono) / EVERY[name] + 1e-9) for start in starts}
            total += intervals
            missed += intervals - len(served & set(range(intervals)))
    return missed / max(1, total)


def fairness(simulation: Simulation, priority: Priority) -> float:
    """Return Jain's index over a priority's cameras, of the device time they got relative to their demand."""
    served: defaultdict[str, float] = defaultdict(float)
    demand: defaultdict[str, float] = defaultdict(float)
    for (stream, name), starts in simulation.runs.items():
        if simulation.priority[stream, name] == priority:
            served[stream] += len(starts) * COSTS[name]
            demand[stream] += COSTS[name] / EVERY[name]
    shares = np.array([served[stream] / demand[stream] for stream in demand])
    return float(shares.sum() ** 2 / (len(shares) * (shares**2).sum()))


def longest_wait(simulation: Simulation, priority: Priority, since: float) -> float:
    """Return the longest time between two runs of a task after `since` seconds, in configured intervals."""
    longest = 0.0
    for (stream, name), starts in simulation.runs.items():
        if simulation.priority[stream, name] == priority:
            late = [start for start in starts if start >= START.mono + since]
            gaps = np.diff([*late, simulation.now.mono]) if late else [simulation.now.mono - START.mono - since]
            longest = max(longest, float(max(gaps)) / EVERY[name])
    return longest


def measure(cameras: int, seconds: float) -> dict[str, Any]:
    simulation = Simulation(cameras, LOAD)
    tracemalloc.start()
    simulation.run(seconds / 2)
    halfway = tracemalloc.get_traced_memory()[0]
    records = sum(len(starts) for starts in simulation.runs.values())
    simulation.run(seconds / 2)
    grown = tracemalloc.get_traced_memory()[0] - halfway
    tracemalloc.stop()
    kept = (sum(len(starts) for starts in simulation.runs.values()) - records) * 32
    runs = sum(len(starts) for starts in simulation.runs.values())
    by_class = {
        priority: {
            "missed": round(misses(simulation, priority), 4),
            "fairness": round(fairness(simulation, priority), 4),
            "factor": round(simulation.policy.overload.factors[priority], 2),
            "longest_wait_in_intervals": round(longest_wait(simulation, priority, seconds / 4), 2),
        }
        for priority in PRIORITIES
    }
    return {
        "cameras": cameras,
        "simulated_seconds": seconds,
        "load": LOAD,
        "runs": runs,
        "classes": by_class,
        "factor_changes": len(simulation.stretched),
        "memory_growth_kib_without_records": round((grown - kept) / 1024),
    }


def cpu_share(cameras: int, seconds: float) -> float:
    """Return the scheduler's share of one core, measured without tracemalloc, which slows it down."""
    simulation = Simulation(cameras, LOAD)
    simulation.run(seconds)
    return simulation.scheduling / seconds


def simulated(cameras: int, seconds: float) -> dict[str, Any]:
    result = measure(cameras, seconds)
    return {**result, "cpu_share": round(cpu_share(cameras, seconds / 4), 4)}
