"""Trial of a model beside the one that runs, before it gets a stream."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

from streamer.config.model import Stream
from streamer.core.errors import ConfigError
from streamer.core.memory import available_memory
from streamer.inference.journal import NO_EPOCH
from streamer.inference.result_check import check_numbers
from streamer.types import DueTask, Engine, Frame, Job

SIZE = 320, 240
"""Width and height of the picture in pixels."""
MAX_TRIED = 64
"""Tasks that are tried: a config can have thousands, which differ in their texts only."""


def check_memory(need: int) -> None:
    """Raise ConfigError if another `need` bytes are not available: two models at once must fit."""
    free = available_memory()
    if need > free:
        raise ConfigError(
            f"two models at once need {need / 1e9:.2f} GB more memory, {free / 1e9:.2f} GB are free: free memory, "
            "or set `model.checkpoint` in the config and restart the agent"
        )


def try_tasks(engine: Engine, streams: Mapping[str, Stream], alive: Callable[[], None]) -> None:
    """Run each kind of task once on a picture. Raises ConfigError for the first one that fails.

    `alive` is called before each step.
    """
    from streamer.toyworld.world import World  # the process of a model that is not on trial does not need it

    tasks = {task.work: task for stream in streams.values() for task in stream.tasks}
    waiting = list(tasks.values())[:MAX_TRIED]
    picture = World(5).scene(0).paint(*SIZE)  # a model may answer noise without an end
    picture.flags.writeable = False
    frame = Frame("trial", NO_EPOCH, 0, time.time(), time.monotonic(), 0.0, picture)
    running = 0
    while waiting or running:
        alive()
        taken, waiting = waiting[: engine.free()], waiting[engine.free() :]
        engine.admit([Job(DueTask(f"trial {task.name}", task, math.inf), frame) for task in taken])
        running += len(taken)
        for result in map(check_numbers, engine.step()):
            running -= 1
            if result.outcome not in ("ok", "empty"):
                task, reason = result.job.due.task, result.error or result.outcome
                raise ConfigError(f"the model cannot run the task `{task.name}` ({task.task}) on a picture: {reason}")
