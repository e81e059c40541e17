"""Tasks and frames for tests without a config and without pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from streamer.config.task import ScheduledTask
from streamer.inference.triggers import Now
from streamer.types import Frame, Region

IMAGE = np.zeros((2, 2, 3), np.uint8)


class Params:
    """The pipeline's keys of a task without text and region."""

    quality = "fast"
    prompt_text: str | None = None
    prompt_region: Region | None = None
    prompts: ClassVar[Mapping[str, float]] = {"caption": 1}
    labels: tuple[str, ...] | None = None


PARAMS = Params()


def scheduled(name: str, *, task: str = "caption", **keys: Any) -> ScheduledTask:
    """Return a task with its schedule; `keys` are fields of `ScheduledTask`."""
    return ScheduledTask(name, task, PARAMS, **keys)


def frame(seq: int, pts: float | None = None, epoch: int = 1, stream: str = "s") -> Frame:
    return Frame(stream, epoch, seq, 0.0, 0.0, pts, IMAGE)


def at(mono: float) -> Now:
    """Return a moment; at 0 the wall clock shows midnight UTC."""
    return Now(mono, mono + 1_000_000 * 86400.0)
