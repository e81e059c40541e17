"""Measure how many answers per second an engine gives, by task."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from streamer.toyworld.world import World
from streamer.types import DueTask, Engine, Frame, Job, Task, TaskSpec

SIZE = (1280, 720)
"""Width and height of the frames."""
_IMAGES = 16
"""Different images; more would cost memory and change nothing."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Answers of one task while the engine was kept full."""

    task: str
    answers: int
    seconds: float
    errors: int
    """Answers with the outcome `error`; more than 0 means that the checkpoint has no weights for the task."""

    @property
    def per_second(self) -> float:
        return self.answers / self.seconds

    def cameras(self, interval: float) -> int:
        """Return how many cameras one device serves if each needs an answer per `interval` seconds."""
        return math.floor(self.per_second * interval)


def measure(engine: Engine, tasks: Sequence[TaskSpec], seconds: float) -> Iterator[Rate]:
    """Run each task for `seconds` with a full engine and yield its rate. Every job has its own frame."""
    for task in tasks:
        yield _measure(engine, _jobs(task), seconds)


def _measure(engine: Engine, jobs: Iterator[Job], seconds: float) -> Rate:
    answers = errors = in_flight = 0
    started = time.monotonic()
    task = ""
    while in_flight or time.monotonic() - started < seconds:
        if time.monotonic() - started < seconds:
            admitted = [next(jobs) for _ in range(engine.free())]
            engine.admit(admitted)
            in_flight += len(admitted)
        for result in engine.step():
            task = result.job.due.task.task
            in_flight, answers = in_flight - 1, answers + 1
            errors += result.outcome == "error"
    return Rate(task, answers, time.monotonic() - started, errors)


def _jobs(spec: TaskSpec) -> Iterator[Job]:
    name = spec.task
    keys: dict[str, Any] = {"text": "a red circle"} if spec.takes_text else {}
    if spec.takes_region:
        keys = {"region": (0.25, 0.25, 0.75, 0.75)}
    task = Task(name, name, spec.parameters.model_validate(keys))
    images = [World(seed).scene(1.0).paint(*SIZE) for seed in range(_IMAGES)]
    number = 0
    while True:
        # A copy, so that the engine's image cache finds no frame that it has encoded before.
        image = images[number % _IMAGES].copy()
        yield Job(DueTask(f"camera{number}", task, math.inf), Frame("", 0, number, 0.0, 0.0, 0.0, image))
        number += 1
