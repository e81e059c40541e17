"""Tasks and frames for tests that need no config and no pixels."""

from __future__ import annotations

from typing import Any

import numpy as np

from streamer.config.task import ScheduledTask
from streamer.inference.schedule import Now
from streamer.types import Frame, Region

IMAGE = np.zeros((2, 2, 3), np.uint8)


class Params:
    """The pipeline's keys of a task that takes neither text nor region."""

    quality = "fast"
    prompt_text: str | None = None
    prompt_region: Region | None = None


PARAMS = Params()


def scheduled(name: str, *, task: str = "caption", **keys: Any) -> ScheduledTask:
    """A task with its schedule. `keys` as of `ScheduledTask`."""
    return ScheduledTask(name, task, PARAMS, **keys)


def frame(seq: int, pts: float | None = None, epoch: int = 1, stream: str = "s") -> Frame:
    return Frame(stream, epoch, seq, 0.0, 0.0, pts, IMAGE)


def at(mono: float, wall: float | None = None) -> Now:
    """A moment; the wall clock starts at midnight of a Thursday in UTC."""
    return Now(mono, mono + 1_000_000 * 86400.0 if wall is None else wall)
