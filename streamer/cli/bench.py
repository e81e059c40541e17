"""What a machine can carry: answers per second by task, and how many cameras that is at an interval."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from streamer.cli.measured_costs import costs_file, keep
from streamer.config.model import find_pipeline
from streamer.config.validation import nearest
from streamer.core.errors import ConfigError
from streamer.core.settings import parse_seconds
from streamer.toyworld.world import World
from streamer.types import DueTask, Engine, Frame, Job, Task, TaskSpec

SIZE = (1280, 720)
_PICTURES = 16


@dataclass(frozen=True, slots=True)
class Rate:
    """What one task costs here, with the engine filled."""

    task: str
    answers: int
    seconds: float
    errors: int
    """Answers among them that were errors; a model with weights for the task has none."""

    @property
    def per_second(self) -> float:
        return self.answers / self.seconds

    def cameras(self, every: float) -> int:
        """How many cameras can be asked every so many seconds."""
        return math.floor(self.per_second * every)


def run_bench(checkpoint: str | None, tasks: Sequence[str], every: str, seconds: float) -> None:
    """Measure these tasks (none: all) for so many seconds each, and print a table. Raises ConfigError."""
    pipeline = find_pipeline()
    specs = pipeline.tasks()
    for task in tasks:
        if task not in specs:
            raise ConfigError(f"--task: unknown task `{task}`{nearest(task, list(specs))}")
    try:
        interval = parse_seconds(every)
    except ValueError as error:
        raise ConfigError(f"--every: {error}") from None
    engine = pipeline.open(pipeline.settings(checkpoint=checkpoint))
    rates = _kept(checkpoint, measure(engine, [specs[task] for task in tasks or specs], seconds))
    for line in table(rates, interval):
        print(line, flush=True)
    print(f"kept in {costs_file()}: `streamer check` tells with it what a config asks of this computer")


def _kept(checkpoint: str | None, rates: Iterable[Rate]) -> Iterator[Rate]:
    for rate in rates:
        if rate.errors < rate.answers:
            keep(checkpoint, rate.task, 1 / rate.per_second)
        yield rate


def measure(engine: Engine, tasks: Sequence[TaskSpec], seconds: float) -> Iterator[Rate]:
    """Keep the engine full with one task after the other, each for so long. Every job has a frame of its own."""
    for task in tasks:
        yield _measure(engine, _jobs(task), seconds)


def _measure(engine: Engine, jobs: Iterator[Job], seconds: float) -> Rate:
    answers = errors = working = 0
    started = time.monotonic()
    task = ""
    while working or time.monotonic() - started < seconds:
        if time.monotonic() - started < seconds:
            admitted = [next(jobs) for _ in range(engine.free())]
            engine.admit(admitted)
            working += len(admitted)
        for result in engine.step():
            task = result.job.due.task.task
            working, answers = working - 1, answers + 1
            errors += result.outcome == "error"
    return Rate(task, answers, time.monotonic() - started, errors)


def _jobs(spec: TaskSpec) -> Iterator[Job]:
    task = spec.task
    given: dict[str, Any] = {"text": "a red circle"} if spec.takes_text else {}
    if spec.takes_region:
        given = {"region": (0.25, 0.25, 0.75, 0.75)}
    params = spec.parameters.model_validate(given)
    pictures = [World(number).scene(1.0).paint(*SIZE) for number in range(_PICTURES)]
    number = 0
    while True:
        # A copy, so that no frame is known from before.
        image = pictures[number % _PICTURES].copy()
        yield Job(
            DueTask(f"camera{number}", Task(task, task, params), math.inf), Frame("", 0, number, 0.0, 0.0, 0.0, image)
        )
        number += 1


def table(rates: Iterable[Rate], every: float) -> Iterator[str]:
    """The rates as lines of text, each as soon as it is measured."""
    yield f"{'task':28}{'answers/s':>10}{f'cameras every {every:g} s':>24}{'errors':>8}"
    for rate in rates:
        yield f"{rate.task:28}{rate.per_second:10.2f}{rate.cameras(every):24}{rate.errors:8}"
