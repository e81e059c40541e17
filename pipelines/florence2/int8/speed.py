"""Time of an answer in int8 beside the usual engine's."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median
from typing import Any, NamedTuple

from pipelines.florence2.fast.engine import FastEngine
from pipelines.florence2.int8.answers import run
from pipelines.florence2.stages import with_stages
from streamer.types import Job

TIMED = 7
"""Answers of a task that are timed. Their median is not that of a moment in which the computer did something else."""


class Speed(NamedTuple):
    """Median seconds of an answer, with the vision tower's."""

    usual_s: float
    int8_s: float
    ratio: float
    """Median of the answers' own ratios, int8 divided by usual."""

    def row(self) -> dict[str, Any]:
        """Return the columns of the saved report. A task that is not faster does not pass."""
        slower = f"it is not faster: an answer takes {self.ratio:.2f} times as long as without int8"
        reason = slower if self.ratio >= 1 else None
        times = {"usual_s": round(self.usual_s, 4), "int8_s": round(self.int8_s, 4), "ratio": round(self.ratio, 4)}
        return {"passed": reason is None, "reason": reason, **times}


def compare_speed(usual: FastEngine, int8: FastEngine, jobs: Sequence[Job]) -> Speed:
    """Return the times of some of the jobs, which should all be of one task."""
    chosen = jobs[:: max(1, len(jobs) // TIMED)][:TIMED]
    engines = usual, int8
    for engine in engines:
        _seconds(engine, chosen[0])  # the first answer of a task also prepares the products of its size
    # The engines take turns, so that other load of the computer meets both.
    pairs = [tuple(_seconds(engine, job) for engine in engines) for job in chosen]
    usual_s, int8_s = (median(times) for times in zip(*pairs, strict=True))
    return Speed(usual_s, int8_s, median(b / a for a, b in pairs))


def _seconds(engine: FastEngine, job: Job) -> float:
    engine.image_cache.clear()
    started = time.monotonic()
    run(with_stages(engine), job)
    return time.monotonic() - started
