"""Tasks and frames for tests of the schedule, which need no config and no pixels."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from streamer.config.calendar import Cron, TimeWindows
from streamer.inference.schedule import Now
from streamer.types import Frame, Priority, When, Zone

IMAGE = np.zeros((2, 2, 3), np.uint8)


@dataclass(frozen=True)
class Task:
    name: str
    every: float | None = None
    every_n_frames: int | None = None
    at: Cron | None = None
    between: TimeWindows | None = None
    priority: Priority = "normal"
    max_age: float | None = None
    zone: Zone | None = None
    when: When = "always"
    refresh: float = 600.0
    task: str = "caption"
    params: object = field(default=None)


def frame(seq: int, pts: float | None = None, epoch: int = 1, stream: str = "s") -> Frame:
    return Frame(stream, epoch, seq, 0.0, 0.0, pts, IMAGE)


def at(mono: float, wall: float | None = None) -> Now:
    """A moment; the wall clock starts at midnight of a Thursday in UTC."""
    return Now(mono, mono + 1_000_000 * 86400.0 if wall is None else wall)
