"""What a config asks of the device, before anything runs: an upper bound, from what answers cost.

Not taken off are pictures that several tasks share (seen by the model once), closed `between` windows, and quiet
scenes of tasks with `when`. A recording takes what is left, and paused tasks nothing.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from streamer.cli.measured_costs import measured
from streamer.config.calendar import Cron
from streamer.config.model import Config, find_pipeline
from streamer.config.task import ScheduledTask
from streamer.inference.overload import MARGIN, Demand, shares
from streamer.types import PRIORITIES, Costs, Priority, SourceSettings

FPS = 25.0
"""Of a camera that does not say."""
COSTLIEST = 3
"""Tasks that a warning names."""
_RUNS = 50
"""Of a cron line, in which its shortest interval is looked for."""

TaskId = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Load:
    """Device seconds per second, at most."""

    costs: Costs
    is_measured: bool
    """On this computer."""
    by_task: Mapping[TaskId, float]
    """By stream and task name."""
    by_kind: Mapping[str, float]
    """By what is asked."""
    demands: Mapping[Priority, Demand]
    """By priority, of what overload can stretch."""
    guesses: tuple[str, ...]
    """What had to be assumed, in words."""

    @property
    def total(self) -> float:
        return sum(self.by_task.values())


def load_of(config: Config) -> Load | None:
    """None when nothing is known of what its model costs."""
    checkpoint = getattr(config.model, "checkpoint", None)
    own = measured(checkpoint)
    costs = own or find_pipeline().costs(config.model)
    if not costs.seconds:
        return None
    by_task: dict[TaskId, float] = {}
    by_kind: defaultdict[str, float] = defaultdict(float)
    demands = dict.fromkeys(PRIORITIES, Demand())
    guesses = set()
    for name, stream in config.streams.items():
        for task in stream.tasks:
            rate = runs_per_second(task, stream.source)
            cost = rate * costs.seconds.get(task.task, max(costs.seconds.values()))
            by_task[name, task.name] = cost
            by_kind[task.task] += cost
            if task.at is None:
                asked = demands[task.priority]
                demands[task.priority] = Demand(asked.tasks + 1, 0, asked.cost + cost)
            if rate and task.task not in costs.seconds:
                guesses.add(f"{task.task} was not measured, it counts as the costliest that was")
            if rate and task.params.quality == "official":
                guesses.add("`quality: official` costs more than is counted")
            if rate and task.every_n_frames and not _fps(stream.source):
                guesses.add(f"cameras count as {FPS:g} pictures a second")
    return Load(costs, own is not None, by_task, by_kind, demands, tuple(sorted(guesses)))


def runs_per_second(task: ScheduledTask, source: SourceSettings) -> float:
    """At most; 0 for what is paused, and for a recording, which has no pace of its own."""
    if task.paused or source.pace == "file":
        return 0.0
    if task.at is not None:
        return 1 / _shortest_gap(task.at)
    if task.every_n_frames is not None:
        return (_fps(source) or FPS) / task.every_n_frames
    assert task.every is not None
    return 1 / task.every


def words(config: Config, load: Load | None) -> Iterator[str]:
    """The load in sum, lines of text; where it is too much, a warning and what would fit."""
    bench = "streamer bench" + (f" --model {name}" if (name := getattr(config.model, "checkpoint", None)) else "")
    if load is None:
        yield f"load: not known: `{bench}` measures what answers cost here"
        return
    if not load.total:
        yield "load: none of its own pace, recordings take what the device can do"
        return
    kinds = sorted(load.by_kind.items(), key=lambda item: -item[1])
    yield f"load: at most {percent(load.total)} of the device ({', '.join(f'{k} {percent(v)}' for k, v in kinds)})"
    origin = "" if load.is_measured else f": not this computer, `{bench}` measures it"
    yield f"  answers cost as measured {'' if load.is_measured else 'on '}{load.costs.measured}{origin}"
    for guess in load.guesses:
        yield f"  {guess}"
    yield "  not taken off: pictures that tasks share, closed `between` hours, quiet scenes of `when`"
    if load.total > 1:
        yield from _warning(load)


def _warning(load: Load) -> Iterator[str]:
    costliest = sorted(load.by_task.items(), key=lambda item: -item[1])[:COSTLIEST]
    named = ", ".join(f"{stream}.{name} {percent(cost)}" for (stream, name), cost in costliest)
    yield f"warning: asked all at once, this does not fit. The costliest: {named}"
    longer = math.ceil(10 * load.total / MARGIN) / 10
    yield f"  all would fit with every interval {longer:g} times as long"
    factors = [f"{key} {factor:.1f} times" for key, factor in shares(1.0, load.demands).items() if factor > 1]
    if factors:
        yield f"  as it stands, intervals get longer while everything is asked at once: {', '.join(factors)}"


def percent(load: float) -> str:
    """A share of the device's time in words."""
    return f"{100 * load:.0f} %" if load >= 0.1 or not load else f"{max(100 * load, 0.1):.1f} %"


def _fps(source: SourceSettings) -> float | None:
    return getattr(source, "fps", None)


def _shortest_gap(cron: Cron) -> float:
    now = time.time()
    runs = [now]
    while len(runs) < _RUNS and math.isfinite(runs[-1]):
        runs.append(cron.after(runs[-1]))
    return min((later - run for run, later in pairwise(runs[1:])), default=math.inf)
