"""`streamer model`: prepare the model for this computer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streamer.cli.options import Checkpoint
from streamer.core.errors import ConfigError

if TYPE_CHECKING:
    from streamer.config.model import Config
    from streamer.types import Frame, Job, Pipeline, Task

app = typer.Typer(help="Prepare the model for this computer.", no_args_is_help=True)

DEFAULT_FRAMES = 64
HELD_OUT = 2
"""Held-out frames per calibration frame. The scales need few frames, the comparison needs many."""
FLOOR = 0.98


@app.callback()
def _group() -> None:
    """Keep `quantize` a command of the group `model`."""


@app.command()
def quantize(
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG]", help="Config with the model, the tasks and the cameras.")
    ] = None,
    frames: Annotated[
        int, typer.Option(min=1, max=1024, metavar="N", help="Frames for calibration; twice as many more are held out.")
    ] = DEFAULT_FRAMES,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="STREAM|FOLDER|SOURCE",
            help="A stream of the config, a folder of pictures, or a source. [default: all streams of the config; "
            "without a config, a synthetic camera]",
        ),
    ] = None,
    every: Annotated[str, typer.Option(metavar="T", help="Time between two frames of a source.")] = "1s",
    task: Annotated[
        list[str] | None,
        typer.Option(help="Task to offer in int8; repeat it for several. [default: those of the config]"),
    ] = None,
    floor: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, metavar="F", help="Share of boxes, of words and of statements that must be equal."
        ),
    ] = FLOOR,
    model: Checkpoint = None,
) -> None:
    """Make an int8 model from frames, and compare it with float32.

    A task runs in int8 only if its answers on held-out frames were equal enough, and came sooner. Exits with 1 if no
    task passed.
    """
    from streamer.cli.calibration_frames import collect
    from streamer.config.model import find_pipeline, load
    from streamer.core import logs
    from streamer.core.settings import parse_seconds

    logs.setup("streamer", "warning")
    try:
        interval = parse_seconds(every)
    except ValueError as error:
        raise ConfigError(f"--every: {error}") from None
    if config is not None and model is not None:
        raise ConfigError("--model: the config names the model already")
    pipeline = find_pipeline()
    loaded = load(config) if config else None
    settings = loaded.model if loaded else pipeline.settings(checkpoint=model)
    tasks = _tasks(pipeline, loaded, task or [])

    def jobs() -> tuple[list[Job], list[Job]]:
        sets = collect(loaded, source, interval, (frames, HELD_OUT * frames), _tell)
        calibration, held_out = ([job for frame in part for job in _jobs(frame, tasks)] for part in sets)
        return calibration, held_out

    raise typer.Exit(0 if pipeline.quantize(settings, jobs, floor, _tell) else 1)


def _tasks(pipeline: Pipeline, config: Config | None, wanted: Sequence[str]) -> Mapping[str, Sequence[Task]]:
    """Return the tasks by stream, and under "" those of all streams. Raises ConfigError for an unknown task."""
    from streamer.config.validation import nearest
    from streamer.types import Task

    if config is None:
        specs = pipeline.tasks()
        plain = [spec for spec in specs.values() if not spec.takes_text and not spec.takes_region]
        made = [Task(spec.task, spec.task, spec.parameters()) for spec in plain]
        # A task of several stages runs as other tasks.
        tasks = {"": [task for task in made if list(task.params.prompts) == [task.task]]}
    else:
        tasks = {name: list(stream.tasks) for name, stream in config.streams.items()}
        tasks[""] = [task for stream in config.streams.values() for task in stream.tasks]
    known = {task.task for task in tasks[""]}
    for name in wanted:
        if name not in known:
            where = "the config has" if config else "without a config, tasks with text or region cannot be compared:"
            raise ConfigError(f"--task: {where} no task `{name}`{nearest(name, list(known))}")
    return {name: [task for task in some if not wanted or task.task in wanted] for name, some in tasks.items()}


def _jobs(frame: Frame, tasks: Mapping[str, Sequence[Task]]) -> Iterator[Job]:
    """Yield a job for each task of the frame's stream."""
    from streamer.inference.crop import crop
    from streamer.types import DueTask, Job

    for task in tasks[frame.stream]:
        yield crop(Job(DueTask(frame.stream, task, math.inf), frame), {})


def _tell(line: str) -> None:
    print(line, flush=True)
