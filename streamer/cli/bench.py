"""`streamer bench`: measure answers per second by task, and how many cameras that serves."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer
from pydantic import ValidationError

from streamer.cli.options import Checkpoint
from streamer.core import logs
from streamer.core.errors import ConfigError

if TYPE_CHECKING:
    from streamer.cli.load_estimate import ModelId
    from streamer.types import Engine, Job, Pipeline, TaskSpec

SIZE = (1280, 720)
"""Width and height of the frames."""
_IMAGES = 16
"""Different images; more would cost memory and change nothing."""


def bench(
    model: Checkpoint = None,
    task: Annotated[
        list[str] | None, typer.Option(metavar="TASK", help="Task to measure; repeat it for several. [default: all]")
    ] = None,
    every: Annotated[
        str, typer.Option(metavar="T", help="Time between two runs of a camera's task, for the number of cameras.")
    ] = "1s",
    seconds: Annotated[float, typer.Option(min=0.1, metavar="S", help="Seconds to measure each task.")] = 5.0,
    image_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="PIXELS",
            help="Side of the square that the model sees: 384, 512, 640 or 768. [default: the model's]",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="DEVICE",
            help="Device, such as cpu or cuda:1. Its speed is also measured beside `transformers`: with --model, or "
            "else with Florence-2 base and large with random weights. [default: auto]",
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="With --device: write all figures to FILE.")
    ] = None,
) -> None:
    """Measure how many cameras this computer can serve.

    The costs are stored for the load estimate of `streamer check`.
    """
    from streamer.config.model import find_pipeline
    from streamer.config.validation import nearest
    from streamer.core.settings import option_seconds

    logs.setup("streamer")
    pipeline = find_pipeline()
    specs = pipeline.tasks()
    for name in task or []:
        if name not in specs:
            raise ConfigError(f"--task: unknown task `{name}`{nearest(name, list(specs))}")
    interval = option_seconds("--every", every)
    if json_file is not None and device is None:
        raise ConfigError("--json: needs --device")
    settings = _settings(pipeline, checkpoint=model, image_size=image_size, device=device)
    with nullcontext() if json_file is None else _json_output(json_file) as output:
        engine = pipeline.open(settings)
        print(f"{engine.model}: {engine.description}")
        for warning in engine.warnings:
            print(f"warning: {warning}")
        found: dict[str, Any] = {"engine": engine.description, "warnings": list(engine.warnings)}
        rates = report(
            (model, image_size, device), (measure(engine, specs[name], seconds) for name in task or specs), interval
        )
        if device is not None:
            del engine  # its memory is free for the comparison
            found["rates"] = [asdict(rate) for rate in rates]
            found["compared"] = pipeline.compare(settings, seconds, partial(print, flush=True))
        if output is not None:
            output.write(json.dumps(found, indent=2) + "\n")
            print(f"wrote {json_file}")


def _settings(pipeline: Pipeline, **options: str | int | None) -> Any:
    """Return the model's settings from the options that have a value. Raises ConfigError naming the option."""
    try:
        return pipeline.settings.model_validate({key: value for key, value in options.items() if value is not None})
    except ValidationError as error:
        from streamer.core.settings import in_words

        first = error.errors(include_url=False)[0]
        option = "device" if "device" in options else "model"
        if first["loc"]:
            option = str(first["loc"][0]).replace("_", "-").replace("checkpoint", "model")
        raise ConfigError(f"--{option}: {in_words(first)}") from None


def _json_output(file: Path) -> TextIO:
    """Open the file before the measurement, which takes minutes. Raises ConfigError."""
    try:
        return file.open("w")
    except OSError as error:
        raise ConfigError(f"--json: cannot write {file}: {error.strerror}") from None


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


def report(model: ModelId, rates: Iterable[Rate], interval: float) -> list[Rate]:
    """Print the rates as a table, each as soon as it is measured, and store the costs of tasks with answers."""
    from streamer.cli.load_estimate import costs_file, store_cost

    measured = []
    print(f"{'task':28}{'answers/s':>10}{f'cameras every {interval:g} s':>24}{'errors':>8}", flush=True)
    for rate in rates:
        print(f"{rate.task:28}{rate.per_second:10.2f}{rate.cameras(interval):24}{rate.errors:8}", flush=True)
        if rate.errors < rate.answers:
            store_cost(model, rate.task, 1 / rate.per_second)
        measured.append(rate)
    print(f"stored in {costs_file()}; `streamer check` uses it to estimate the load of a config")
    return measured


def measure(engine: Engine, task: TaskSpec, seconds: float) -> Rate:
    """Run a task for `seconds` with a full engine. Every job has its own frame."""
    jobs = _jobs(task)
    answers = errors = in_flight = 0
    started = time.monotonic()
    while in_flight or time.monotonic() - started < seconds:
        if time.monotonic() - started < seconds:
            admitted = [next(jobs) for _ in range(engine.free())]
            engine.admit(admitted)
            in_flight += len(admitted)
        for result in engine.step():
            in_flight, answers = in_flight - 1, answers + 1
            errors += result.outcome == "error"
    return Rate(task.task, answers, time.monotonic() - started, errors)


def _jobs(spec: TaskSpec) -> Iterator[Job]:
    from streamer.toyworld.world import World
    from streamer.types import DueTask, Frame, Job, Task

    name = spec.task
    keys: dict[str, Any] = {"text": "a red circle"} if spec.takes_text else {}
    if spec.takes_region:
        keys = {"region": (0.25, 0.25, 0.75, 0.75)}
    task = Task(name, name, spec.parameters.model_validate(keys))
    images = [World(seed).scene(1.0).paint(*SIZE) for seed in range(_IMAGES)]
    for number in count():
        # An object of its own, as every frame has.
        image = images[number % _IMAGES].view()
        yield Job(DueTask(f"camera{number}", task, math.inf), Frame("", 0, number, 0.0, 0.0, 0.0, image))
