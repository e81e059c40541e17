"""Follow-ups (`then`) on held-out toy scenes, and their cost: `python -m benchmarks.follow_ups`.

- category: each object that the shipped model detects is asked about by `region_to_category`; the share of right kinds.
- cost: time for 8 regions of one frame in one admission, and of 8 frames with one region each, in vision passes of
  the base architecture (random weights).
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from typing import Any

# As in the pipeline, before torch is imported: idle OpenMP threads sleep.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from benchmarks.accuracy import FIRST_SEED, HEIGHT, WIDTH
from benchmarks.engine import base
from benchmarks.report import merge
from benchmarks.shipped import run
from pipelines.florence2.fast.engine import FastEngine
from pipelines.florence2.pipeline import pipeline
from streamer.cli.demo_score import GOOD_IOU
from streamer.config.model import from_mapping
from streamer.core.boxes import iou
from streamer.inference.follow_ups import FollowUps
from streamer.toyworld.world import World
from streamer.types import DueTask, Engine, Frame, Image, Job

REGIONS = 8
TOKENS = 4
"""Tokens of an answer, as those of `region_to_category` on the shipped model."""
TASK = {"task": "object_detection", "then": [{"task": "region_to_category", "max_tokens": TOKENS, "most": 64}]}


def category(scenes: int) -> dict[str, Any]:
    """Return how many detected objects get the right kind."""
    (task,) = from_mapping({"streams": {"toy": {"source": "synthetic", "tasks": [TASK]}}}).streams["toy"].tasks
    engine, follow_ups = pipeline.open(pipeline.settings()), FollowUps()
    found = right = 0
    for number in range(scenes):
        scene = World(FIRST_SEED + number).scene(1.0)
        frame = Frame("toy", 0, number, 0.0, 0.0, 0.0, scene.paint(WIDTH, HEIGHT))
        (detected,) = run(engine, [Job(DueTask("toy", task, 0.0), frame)])
        jobs, _ = follow_ups.plan(detected, str(number))
        for result in run(engine, jobs):
            assert result.job.due.parent is not None
            region = result.job.due.parent.region
            assert region is not None
            box = (region.x0, region.y0, region.x1, region.y1)
            thing = max(scene.objects, key=lambda one: iou(one.box, box), default=None)
            if thing is None or iou(thing.box, box) < GOOD_IOU:
                continue  # a false detection has no kind
            found += 1
            right += result.answer.text == thing.kind
    return {"scenes": scenes, "objects": found, "right": round(right / max(1, found), 4)}


def cost(rounds: int) -> dict[str, Any]:
    """Return the times of a vision pass and of the answers about 8 regions, in turns."""
    engine = FastEngine(base(clear_margins=True).checkpoint, REGIONS, drafts="off")
    image = World(0).scene(1.0).paint(1920, 1080)
    measured: dict[str, list[float]] = {"vision pass": [], "8 regions of one frame": [], "8 frames": []}
    for _ in range(rounds + 1):
        for name, times in measured.items():
            jobs = _region_jobs([image.copy()] * REGIONS if "one" in name else [image.copy() for _ in range(REGIONS)])
            started = time.perf_counter()
            if name == "vision pass":
                with torch.inference_mode():
                    engine.image_cache([jobs[0].frame])
            else:
                answer(engine, jobs)
            times.append(time.perf_counter() - started)
            engine.image_cache.clear()
    seconds = {name: statistics.median(times[1:]) for name, times in measured.items()}
    passes = {name: round(value / seconds["vision pass"], 3) for name, value in seconds.items()}
    return {"ms": {name: round(1000 * value, 1) for name, value in seconds.items()}, "vision_passes": passes}


def _region_jobs(images: Sequence[Image]) -> list[Job]:
    regions = [[index / REGIONS, 0.2, (index + 1) / REGIONS, 0.8] for index in range(REGIONS)]
    tasks = [
        {"task": "region_to_category", "name": f"r{i}", "region": r, "max_tokens": TOKENS}
        for i, r in enumerate(regions)
    ]
    made = from_mapping({"streams": {"toy": {"source": "synthetic", "tasks": tasks}}}).streams["toy"].tasks
    frames = {id(image): Frame("toy", 0, number, 0.0, 0.0, 0.0, image) for number, image in enumerate(images)}
    return [Job(DueTask("toy", task, 0.0), frames[id(image)]) for task, image in zip(made, images, strict=True)]


def answer(engine: Engine, jobs: Sequence[Job]) -> None:
    """Run jobs whose answers are cut after TOKENS tokens."""
    for result in run(engine, jobs):
        assert result.error == f"the answer did not end within {TOKENS} tokens", result.error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["category", "cost"])
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    rows: dict[str, Any] = {}
    if options.only != "cost":
        rows["category"] = category(options.scenes)
        print("category:", rows["category"])
    if options.only != "category":
        rows["cost"] = cost(options.rounds)
        print("cost:", rows["cost"])
    if options.write:
        merge("follow_ups", rows)


if __name__ == "__main__":
    main()
