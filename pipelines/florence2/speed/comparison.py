"""Speed of `generate` of transformers and of our engine, on the same weights, pictures and numbers of tokens.

Both use greedy search. Transformers starts from pixels that are on the device already; our figures include everything
from the frame to the answer. Drafts are off, and no frame is seen twice.
"""

from __future__ import annotations

import copy
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pipelines.florence2.checkpoint import Checkpoint
from pipelines.florence2.fast.buckets import powers
from pipelines.florence2.preprocess import Preprocessor
from pipelines.florence2.processor import Processor
from pipelines.florence2.speed.floors import Peak, Work
from pipelines.florence2.tasks import SPECS
from pipelines.florence2.transformers_model import load_model
from streamer.toyworld.world import World
from streamer.types import DueTask, Engine, Frame, Image, Job, Task

WORKS: dict[str, dict[str, int]] = {
    "caption": {"caption": 15},
    "object_detection": {"object_detection": 80},
    "three tasks": {"caption": 15, "object_detection": 80, "dense_region_caption": 40},
}
"""Tasks on one frame, with the tokens of each answer, by name."""
SIZE = (1280, 720)
"""Width and height of the frames."""
PICTURES = 8
"""Different pictures; the content does not change the speed."""
GROWTH = 4
"""Times by which the batch grows."""
GAIN = 1.03
"""A batch must give this many times the answers per second of the one before, else it does not grow again."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    side: str
    """`transformers` or `streamer`."""
    work: str
    batch: int
    """Frames that run together: the batch of transformers, or cameras that each send a frame after every answer."""
    answers_per_s: float
    p50_ms: float
    """Time from a frame to all of its answers."""
    p99_ms: float
    floor_answers_per_s: float | None
    """Most answers per second at this batch that the card's peak figures allow; None for an unknown card."""

    def __str__(self) -> str:
        if self.floor_answers_per_s is None:
            floor = f"{'unknown':>11}"
        else:
            floor = f"{self.floor_answers_per_s:11.1f}{self.answers_per_s / self.floor_answers_per_s:7.1%}"
        rate = f"{self.answers_per_s:11.2f}{self.p50_ms:10.1f}{self.p99_ms:10.1f}"
        return f"{self.work:18}{self.side:14}{self.batch:7}{rate}{floor}"


HEADER = (
    f"{'tasks on a frame':18}{'':14}{'frames':>7}{'answers/s':>11}{'p50 ms':>10}{'p99 ms':>10}{'floor':>11}{'of it':>7}"
)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a measurement."""

    seconds: float
    """Time for one row, after which no further frame starts."""
    frames: int
    """Largest batch."""
    peak: Peak | None
    """Figures of the card; None: unknown."""


Measure = Callable[[Mapping[str, int], int, float], tuple[float, list[float]]]
"""Runs tasks with their tokens on so many frames at once, for some seconds; returns the seconds that it took, and the
time of each frame."""


def rows(side: str, measure: Measure, count: Work, limits: Limits) -> Iterator[Row]:
    """Yield the rows of one side: for each work a growing batch, until it gives no more answers per second."""
    for name, tokens in WORKS.items():
        best = 0.0
        for batch in powers(1, limits.frames, GROWTH):
            try:
                measure(tokens, batch, 0.0)  # compiles kernels, allocates memory
                took, times = measure(tokens, batch, limits.seconds)
            except torch.OutOfMemoryError:
                break
            rate = len(times) * len(tokens) / took
            floor = None
            if limits.peak is not None:
                floor = batch * len(tokens) / count.seconds(limits.peak, list(tokens.values()), batch)
            median, late = _percentiles(times)
            yield Row(side, name, batch, rate, 1000 * median, 1000 * late, floor)
            if rate < GAIN * best:
                break
            best = rate


def ratios(found: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Return by work how many times as many answers our engine gives: one frame at a time, and both at their best."""
    result = {}
    for name in WORKS:
        ours, theirs = ([row for row in found if (row.side, row.work) == (side, name)] for side in SIDES)
        if ours and theirs:
            best, other = (max(row.answers_per_s for row in side) for side in (ours, theirs))
            result[name] = {
                "one frame": ours[0].answers_per_s / theirs[0].answers_per_s,
                "best batch": best / other,
                "our best batch to its one frame": best / theirs[0].answers_per_s,
            }
    return result


SIDES = ("streamer", "transformers")


def _percentiles(times: Sequence[float]) -> tuple[float, float]:
    ordered = sorted(times)
    return statistics.median(ordered), ordered[math.ceil(0.99 * len(ordered)) - 1]


def _job(task: str, tokens: int, camera: int, number: int, image: Image) -> Job:
    params = SPECS[task].parameters(max_tokens=tokens)
    frame = Frame(f"camera{camera}", 0, number, 0.0, 0.0, 0.0, image)
    return Job(DueTask(f"camera{camera}", Task(task, task, params), math.inf), frame)


def _pictures() -> list[Image]:
    return [World(seed).scene(1.0).paint(*SIZE) for seed in range(PICTURES)]


def transformers_side(checkpoint: Checkpoint) -> Measure:
    """Return the measurement of `generate`, with the model of transformers on the checkpoint's device."""
    weights = checkpoint.weights
    network = checkpoint.network or load_model(checkpoint.files, weights.is_tied, weights.dtype, weights.device)
    preprocess, processor, images = Preprocessor(checkpoint.images), Processor(checkpoint), _pictures()

    def generate(task: str, tokens: int, pixels: torch.Tensor) -> None:
        prompt, _ = processor.encode(_job(task, tokens, 0, 0, images[0]))
        ids = [network.config.image_token_id] * checkpoint.images.tokens + prompt
        row = torch.tensor([ids] * len(pixels), device=weights.device)
        settings = copy.deepcopy(network.generation_config)
        settings.max_new_tokens, settings.max_length = tokens, None
        settings.num_beams, settings.early_stopping, settings.do_sample = 1, False, False
        output = network.generate(
            input_ids=row, attention_mask=torch.ones_like(row), pixel_values=pixels, generation_config=settings
        )
        output.cpu()  # waits for the device

    @torch.inference_mode()
    def measure(tokens: Mapping[str, int], batch: int, seconds: float) -> tuple[float, list[float]]:
        pixels = torch.stack([preprocess(images[index % len(images)]) for index in range(batch)])
        pixels = pixels.to(weights.device, weights.dtype)
        times: list[float] = []
        started = time.perf_counter()
        while not times or time.perf_counter() - started < seconds:
            before = time.perf_counter()
            for task, count in tokens.items():
                generate(task, count, pixels)
            times += [time.perf_counter() - before] * batch
        return time.perf_counter() - started, times

    return measure


def our_side(engine: Engine) -> Measure:
    """Return the measurement of our engine: each camera sends its next frame once its last one is answered."""
    images, numbers = _pictures(), itertools.count()

    def admit(tokens: Mapping[str, int], camera: int) -> float:
        number = next(numbers)
        # An object of its own, as every frame has.
        image = images[number % len(images)].view()
        admitted = time.perf_counter()
        engine.admit([_job(task, count, camera, number, image) for task, count in tokens.items()])
        return admitted

    def measure(tokens: Mapping[str, int], batch: int, seconds: float) -> tuple[float, list[float]]:
        if engine.free() < batch * len(tokens):
            raise torch.OutOfMemoryError("the engine takes fewer jobs at a time")
        started = time.perf_counter()
        left = dict.fromkeys((f"camera{camera}" for camera in range(batch)), len(tokens))
        since = {f"camera{camera}": admit(tokens, camera) for camera in range(batch)}
        times: list[float] = []
        while left:
            for result in engine.step():
                name = result.job.due.stream
                left[name] -= 1
                if left[name]:
                    continue
                now = time.perf_counter()
                times.append(now - since[name])
                del left[name]
                if now - started < seconds:
                    left[name], since[name] = len(tokens), admit(tokens, int(name.removeprefix("camera")))
        return time.perf_counter() - started, times

    return measure


def forced(generation: Mapping[str, Any]) -> dict[str, Any]:
    """Return generation settings with which no answer ends before its last token."""
    end = generation.get("eos_token_id")
    ends = end if isinstance(end, list) else [] if end is None else [end]
    changed = {**generation, "suppress_tokens": sorted({*(generation.get("suppress_tokens") or []), *ends})}
    return {key: value for key, value in changed.items() if key not in _ENDINGS}


_ENDINGS = ("forced_eos_token_id", "exponential_decay_length_penalty")
"""Settings that end an answer."""
