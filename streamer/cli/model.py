"""`streamer model`: prepare the model for this computer; swap the model of a running agent."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamer.cli.client import REPLY_TIMEOUT_S, call
from streamer.cli.options import Checkpoint, RunningAgent
from streamer.core.errors import ConfigError
from streamer.core.model_name import model_name
from streamer.core.paths import find_running
from streamer.core.printable import printable

if TYPE_CHECKING:
    from streamer.config.model import Config
    from streamer.types import Frame, Job, Pipeline, Task

app = typer.Typer(help="Make the model faster; swap the model of an agent.", no_args_is_help=True)

DEFAULT_FRAMES = 64
HELD_OUT = 2
"""Held-out frames per calibration frame. The scales need few frames, the comparison needs many."""
FLOOR = 0.98


SWAP_S = 900.0
"""Longest wait for a swap. The agent gives up a model that does not load in 300 s."""


Watch = Annotated[
    str, typer.Option(metavar="T", help="Time in which the agent may return from the other model by itself, 1s to 1h.")
]


@app.command(name="list")
def show(agent: RunningAgent = None) -> None:
    """List the models that a running agent has used or given up."""
    from streamer.bus.commands import ListModels

    found = call(agent, REPLY_TIMEOUT_S, ListModels())
    config = f"{found['config'] or 'the shipped model'}, of the config"
    if found["used"]:
        config += ", which is not changed; `streamer model back` returns to it"
    rows = [(_line(one), "") for one in found["used"]]
    rows = [(config, ""), *rows]
    rows[-1] = (rows[-1][0], "in use")
    rows += [(_line(one), f"given up: {one['reason']}") for one in found["given_up"]]
    if swap := found.get("swap"):
        left = "" if swap["left_s"] is None else f", for {swap['left_s']:.0f} s more"
        why = f": {swap['reason']}" if swap["reason"] else ""
        rows.append((swap["model"], f"{swap['phase']}{left}{why}"))
    for text, state in rows:
        print(f"{text}{': ' if state else ''}{state}")


@app.command()
def use(
    checkpoint: Annotated[
        str, typer.Argument(metavar="FOLDER", help="Checkpoint: its folder, or its name on the Hugging Face hub.")
    ],
    digest: Annotated[
        str | None,
        typer.Option(
            "--hash",
            metavar="HASH",
            help="Digits that the hash of its files must begin with, 12 to 64. [default: any hash]",
        ),
    ] = None,
    watch: Watch = "1m",
    agent: RunningAgent = None,
) -> None:
    """Swap the model of a running agent while it answers.

    The new model is loaded and tried beside the running one, and refused if that fails. Then it is watched: the agent
    returns to the model before if more answers fail or are empty. After that the choice survives restarts.
    """
    from streamer.bus.commands import UseModel
    from streamer.config.model import find_pipeline

    watch_s = _watch_seconds(watch)
    find_running(agent)  # before the files of the checkpoint are read
    if (folder := Path(checkpoint).expanduser()).exists():
        checkpoint = str(folder.resolve())
    pipeline = find_pipeline()
    try:
        settings = pipeline.settings(checkpoint=checkpoint, hash=digest)
    except ValueError:
        raise ConfigError(f"--hash: `{digest}` is no hash: give 12 to 64 of the digits 0-9 and a-f") from None
    name, digest = pipeline.identify(settings)
    print(f"{model_name(name, digest)} is loaded beside the running model", flush=True)
    command = UseModel(checkpoint=checkpoint, name=name, hash=digest, watch_s=watch_s)
    print(call(agent, SWAP_S, command)["done"])


@app.command()
def back(watch: Watch = "1m", agent: RunningAgent = None) -> None:
    """Return a running agent to its model before, or end its swap."""
    from streamer.bus.commands import UseModelBefore

    print(call(agent, SWAP_S, UseModelBefore(watch_s=_watch_seconds(watch)))["done"])


def _watch_seconds(text: str) -> float:
    from streamer.core.settings import option_seconds

    if 1 <= (seconds := option_seconds("--watch", text)) <= 3600:
        return seconds
    raise ConfigError(f"--watch: {text} is not allowed: give 1s to 1h")


def _line(choice: Mapping[str, Any]) -> str:
    at = datetime.fromtimestamp(choice["at"]).astimezone().isoformat(" ", "seconds")
    return f"{model_name(choice['name'], choice['hash'])}, {choice['checkpoint']}, {at}"


@app.command()
def quantize(
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG]", help="Config with the model, the tasks and the cameras.")
    ] = None,
    frames: Annotated[
        int,
        typer.Option(
            min=1, max=1024, metavar="N", help="Frames for the calibration; twice as many others are compared."
        ),
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
        typer.Option(metavar="TASK", help="Task to try in int8; repeat it for several. [default: those of the config]"),
    ] = None,
    floor: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, metavar="F", help="Share of boxes, of words and of statements that must be equal, 0 to 1."
        ),
    ] = FLOOR,
    model: Checkpoint = None,
) -> None:
    """Make a faster int8 model from frames.

    It is compared with the float32 model. A task runs in int8 only if its answers about other frames were equal enough,
    and came sooner. Exits with 1 if no task passed.
    """
    from streamer.cli.calibration_frames import collect
    from streamer.config.model import find_pipeline, load
    from streamer.core import logs
    from streamer.core.settings import option_seconds

    logs.setup("streamer", "warning")
    interval = option_seconds("--every", every)
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
    print(printable(line), flush=True)
