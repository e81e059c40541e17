"""What the parts of the view's benchmark share: configs, and views that run in this process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from streamer.config.model import Config, from_mapping
from streamer.processes.view import View
from streamer.processes.worker import Worker
from tests.support.viewing import frame_times

SEED, FPS, STREAM, TASK = 1, 25, "toyworld", "objects"


def config(*outputs: dict[str, Any], stream: str = STREAM) -> Config:
    task = {"task": "object_detection", "name": TASK, "every": "1s"}
    return from_mapping(
        {
            "agent": "bench",
            "streams": {stream: {"source": f"synthetic?seed={SEED}&fps={FPS}", "tasks": [task]}},
            "sinks": [{"kind": "zmq"}],
            "outputs": list(outputs),
        }
    )


def worker(config: Config, runtime: Path, name: str) -> Worker:
    return Worker(config, runtime, runtime, name, os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC))


def wait_for(what: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not what():
        if time.monotonic() > until:
            raise TimeoutError("it did not happen")
        time.sleep(0.05)


def turn_until(view: View, what: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not what() and time.monotonic() < until:
        view.poll_once()


def rate_and_gap(folder: Path, view: str) -> tuple[float, float]:
    """Pictures per second of a view's newest file, and its longest time without one in ms, as ffprobe reads it."""
    times = frame_times(max(folder.glob(f"{view}-*.mp4")))
    gaps = [after - before for before, after in pairwise(times)]
    return round((len(times) - 1) / (times[-1] - times[0]), 2), round(1000 * max(gaps))
