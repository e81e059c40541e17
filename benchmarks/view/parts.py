"""Configs and helpers that the parts of the view benchmark share."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from streamer.config.model import Config, from_mapping
from streamer.processes.assignment import Assignment
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
    devnull = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    made = Worker(Assignment(config=config.raw, runtime=runtime, state=runtime, report_fd=devnull), name)
    made.config = config  # it may hold a camera that plain data cannot describe
    return made


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"condition not met within {seconds:g} s")
        time.sleep(0.05)


def run_until(view: View, condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        view.poll_once()


def rate_and_gap(folder: Path, view: str) -> tuple[float, float]:
    """Return the frames per second of a view's newest file and its longest gap in ms, as read by ffprobe."""
    times = frame_times(max(folder.glob(f"{view}-*.mp4")))
    gaps = [after - before for before, after in pairwise(times)]
    return round((len(times) - 1) / (times[-1] - times[0]), 2), round(1000 * max(gaps))
