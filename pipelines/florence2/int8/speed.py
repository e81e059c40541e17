"""Times in int8 beside those of the usual engine: of an answer, and of the parts that make it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import torch

from pipelines.florence2.fast.engine import FastEngine
from pipelines.florence2.int8.answers import run
from pipelines.florence2.openvino.self_check import example
from pipelines.florence2.stages import with_stages
from streamer.types import Job

TIMED = 7
"""Answers of a task, or runs of a part, that are timed. Their median is not that of a moment in which the computer did
something else."""


class Speed(NamedTuple):
    """Median seconds of an answer, with the vision tower's, or of one part."""

    usual_s: float
    int8_s: float
    ratio: float
    """Median of the ratios of single runs, int8 divided by usual."""

    @property
    def refusal(self) -> str | None:
        """Why int8 is not used, or None."""
        return None if self.ratio < 1 else f"it is not faster: it takes {self.ratio:.2f} times as long as without int8"

    def row(self) -> dict[str, Any]:
        """Return the columns of the saved report. What is not faster does not pass."""
        reason = self.refusal
        times = {"usual_s": round(self.usual_s, 4), "int8_s": round(self.int8_s, 4), "ratio": round(self.ratio, 4)}
        return {"passed": reason is None, "reason": reason, **times}


def compare_speed(usual: FastEngine, int8: FastEngine, jobs: Sequence[Job]) -> Speed:
    """Return the times of some of the jobs, which should all be of one task."""
    chosen = jobs[:: max(1, len(jobs) // TIMED)][:TIMED]
    engines = usual, int8
    for engine in engines:
        _seconds(engine, chosen[0])  # the first answer of a task also prepares the products of its size
    # The engines take turns, so that other load of the computer meets both.
    return _speed((_seconds(usual, job), _seconds(int8, job)) for job in chosen)


@torch.inference_mode()
def compare_parts(usual: FastEngine, int8: FastEngine) -> dict[str, Speed]:
    """Return the times of each part, `vision` and `encoder`, on a test picture.

    Processors differ in this: without instructions for int8 products (VNNI), int8 is slower than float32.
    """
    pixels, prompt = example(usual)
    (tokens,) = usual.image_cache.vision(pixels)
    runs: dict[str, list[Callable[[], object]]] = {
        "vision": [partial(engine.image_cache.vision, pixels) for engine in (usual, int8)],
        "encoder": [partial(engine.encoder, [tokens], [prompt]) for engine in (usual, int8)],
    }
    found = {}
    for part, (first, second) in runs.items():
        _timed(first), _timed(second)  # the first runs prepare the products
        found[part] = _speed((_timed(first), _timed(second)) for _ in range(TIMED))
    return found


def _speed(pairs: Iterable[tuple[float, float]]) -> Speed:
    """Return the medians of seconds without and with int8."""
    both = list(pairs)
    usual_s, int8_s = (median(times) for times in zip(*both, strict=True))
    return Speed(usual_s, int8_s, median(b / a for a, b in both))


def _timed(action: Callable[[], object]) -> float:
    started = time.monotonic()
    action()
    return time.monotonic() - started


def _seconds(engine: FastEngine, job: Job) -> float:
    engine.image_cache.clear()
    return _timed(lambda: run(with_stages(engine), job))
