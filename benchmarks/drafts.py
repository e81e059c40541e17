"""Drafts on toy video with the shipped model: `python -m benchmarks.drafts`.

Each frame is answered without drafts, with exact and with near ones, in turns. `still` shows objects at rest under
changing light and noise; in `slow` they move by about one thousandth of the picture from frame to frame. `base` is the
time that the same passes take in the decoder of Florence-2 base with random weights, where the largest part of a pass
is reading the weights.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import time
from collections import Counter
from typing import Any, get_args

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from torch import Tensor

from benchmarks.engine import base
from benchmarks.report import write
from benchmarks.shipped import FIRST_SEED, SIZE, job, labels, locations, run
from pipelines.florence2.checkpoint import load
from pipelines.florence2.checkpoint_files import open_folder
from pipelines.florence2.fast.decoder import Decoder
from pipelines.florence2.fast.engine import FastEngine
from pipelines.florence2.fast.speculative import DraftMode
from pipelines.florence2.tasks import BINS
from streamer.toyworld.world import World
from streamer.types import Image, Result

TASKS = ("object_detection", "dense_region_caption", "caption")
LIGHT_STEP = 0.5
"""Seconds between two frames of `still`, by which light and noise change."""
SLOW_STEP = 0.01
"""Seconds of the toy world between two frames of `slow`."""
START = 1.0
"""Second of the toy world at which a video begins."""


class PassCounter:
    """A decoder that records how many tokens each pass has."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self.passes: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def __call__(self, ids: Tensor, *args: Any, **keys: Any) -> Tensor:
        self.passes.append(ids.shape[1])
        return self._decoder(ids, *args, **keys)


class Side:
    """An engine with one draft mode, and what it did."""

    def __init__(self, mode: DraftMode) -> None:
        self.engine = FastEngine(load(open_folder(None), "cpu", "float32"), 1, mode)
        self._counter = PassCounter(self.engine.decoder)
        self.engine.greedy.batch._decoder = self._counter  # type: ignore[assignment]
        self.results: list[Result] = []
        self.seconds: list[float] = []
        self.passes: list[list[int]] = []
        """Tokens of each pass, by answer."""

    def answer(self, task: str, stream: str, number: int, image: Image) -> None:
        self._counter.passes = []
        started = time.perf_counter()
        # A copy, so that the image is not in the cache of image tokens.
        self.results += run(self.engine, [job(task, stream, number, image.copy())])
        self.seconds.append(time.perf_counter() - started)
        self.passes.append(self._counter.passes)

    def report(self, reference: list[Result]) -> dict[str, Any]:
        """Return counts and times, and the differences from the answers of `reference`."""
        drafts = [result.draft for result in self.results if result.draft]
        checked, accepted = (sum(draft[index] for draft in drafts) for index in (0, 1))
        pairs = [pair for pair in zip(self.results, reference, strict=True) if labels(pair[0]) == labels(pair[1])]
        distances = Counter(distance for pair in pairs for distance in bins_between(*pair))
        return {
            "acceptance": round(accepted / checked, 3) if checked else None,
            "passes_per_answer": round(sum(map(len, self.passes)) / len(self.results), 2),
            "ms_per_answer": round(1000 * statistics.median(self.seconds), 2),
            "near_per_answer": round(sum(result.near for result in self.results) / len(self.results), 3),
            "different_labels": len(self.results) - len(pairs),
            "locations_by_bins": {str(bins): distances[bins] for bins in sorted(distances)},
        }


def bins_between(ours: Result, theirs: Result) -> list[int]:
    """Return the distance of each location, in bins; outlines of different length count as BINS."""
    distances: list[int] = []
    for a, b in zip(locations(ours), locations(theirs), strict=True):
        flat = np.ravel(a), np.ravel(b)
        same = flat[0].size == flat[1].size
        distances += np.rint(np.abs(flat[0] - flat[1]) * BINS).astype(int).tolist() if same else [BINS]
    return distances


def image_of(video: str, world: World, number: int) -> Image:
    if video == "still":
        return dataclasses.replace(world.scene(START), time=START + number * LIGHT_STEP).paint(*SIZE)
    return world.scene(START + number * SLOW_STEP).paint(*SIZE)


class BaseDecoder:
    """The decoder of Florence-2 base, which repeats the passes of other answers."""

    def __init__(self) -> None:
        self._engine = FastEngine(base().checkpoint, 1, "off")
        frame = job("object_detection", "base", 0, World(FIRST_SEED).scene(START).paint(*SIZE))
        tokens = self._engine.image_cache([frame.frame])[0]
        self._states = self._engine.encoder([tokens], [self._engine.processor.encode(frame)[0]])

    def ms_per_answer(self, answers: list[list[int]]) -> float:
        """Return the median time of the passes of one answer. Their drafts are wrong, which changes no time."""
        batch, start = self._engine.greedy.batch, len(self._engine.logits_processor.start)
        seconds = []
        for widths in answers:
            started = time.perf_counter()
            batch.add(self._states, [self._states.shape[1]], [1000], [[5] * (widths[0] - start)])
            for width in widths[1:]:
                batch.snapshot().read()
                batch.step([[5] * (width - 1)])
            batch.snapshot().read()
            seconds.append(time.perf_counter() - started)
            batch.remove(0)
        return round(1000 * statistics.median(seconds), 1)


@torch.inference_mode()
def measure(task: str, video: str, cameras: int, frames: int, decoder: BaseDecoder) -> dict[str, Any]:
    """Return the report of each draft mode."""
    sides = {mode: Side(mode) for mode in ("off", *(mode for mode in get_args(DraftMode) if mode != "off"))}
    for camera in range(cameras):
        world = World(FIRST_SEED + camera)
        for number in range(frames):
            for side in sides.values():
                side.answer(task, f"camera{camera}", number, image_of(video, world, number))
    reports = {}
    for mode, side in sides.items():
        reports[mode] = side.report(sides["off"].results)
        reports[mode]["base_decoding_ms"] = decoder.ms_per_answer(side.passes[-frames:])
    return reports


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cameras", type=int, default=8, help="cameras, one after the other [8]")
    parser.add_argument("--frames", type=int, default=25, help="frames per camera [25]")
    parser.add_argument("--threads", type=int, default=2, help="torch threads [2]")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/drafts.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    decoder = BaseDecoder()
    results: dict[str, Any] = {}
    for task in TASKS:
        for video in ("still", "slow"):
            name = f"{task}, {video}"
            results[name] = measure(task, video, args.cameras, args.frames, decoder)
            for mode, report in results[name].items():
                print(f"{name:28} {mode:6}", report, flush=True)
    if args.write:
        write("drafts", {"threads": args.threads, "work": results})


if __name__ == "__main__":
    main()
