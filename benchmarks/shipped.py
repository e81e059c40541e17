"""Equality and memory of the fast engine on the shipped model: `python -m benchmarks.shipped`.

- same: share of answers equal to the reference engine's, over all tasks, in float32 and bfloat16.
- memory: memory of the process after a tenth of many frames and at the end.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from benchmarks.report import write
from pipelines.florence2.checkpoint import load
from pipelines.florence2.checkpoint_files import open_folder
from pipelines.florence2.fast.engine import FastEngine
from pipelines.florence2.reference_engine import ReferenceEngine
from pipelines.florence2.tasks import SPECS
from streamer.toyworld.world import World
from streamer.types import Box, DueTask, Engine, Frame, Image, Job, Polygon, Quad, Result, Task

FIRST_SEED = 700_000
SIZE = (480, 360)
TASKS = ("caption", "object_detection", "dense_region_caption")


def params(task: str) -> Any:
    keys: dict[str, Any] = {}
    if SPECS[task].takes_text:
        keys["text"] = "a red circle"
    if SPECS[task].takes_region:
        keys["region"] = (0.25, 0.25, 0.75, 0.75)
    return SPECS[task].parameters.model_validate(keys)


def job(task: str, stream: str, number: int, image: Image) -> Job:
    return Job(DueTask(stream, Task(task, task, params(task)), 0.0), Frame(stream, 0, number, 0.0, 0.0, 0.0, image))


def run(engine: Engine, jobs: Sequence[Job]) -> list[Result]:
    """Return all results, in the order of the jobs."""
    waiting = list(jobs)
    results: dict[int, Result] = {}
    while len(results) < len(jobs):
        count = min(engine.free(), len(waiting))
        engine.admit(waiting[:count])
        waiting = waiting[count:]
        results.update((id(result.job), result) for result in engine.step())
    return [results[id(one)] for one in jobs]


def labels(result: Result) -> tuple[Any, ...]:
    """Return everything but locations and scores."""
    answer = result.answer
    shapes: list[Box | Polygon | Quad] = [*answer.boxes, *answer.polygons, *answer.quads]
    return result.outcome, result.error, answer.text, [(type(shape), shape.label) for shape in shapes]


def locations(result: Result) -> list[Any]:
    answer = result.answer
    outlines: list[Polygon | Quad] = [*answer.polygons, *answer.quads]
    return [*((box.x0, box.y0, box.x1, box.y1) for box in answer.boxes), *(outline.points for outline in outlines)]


def without_scores(result: Result) -> tuple[Any, ...]:
    """Return everything but scores, which differ in their last digits."""
    return labels(result), locations(result)


def same(images: int, dtype: str) -> dict[str, Any]:
    """Return the share of equal answers, and the different ones by task: in labels or number, or only in locations."""
    plain = ReferenceEngine(load(open_folder(None), "cpu", dtype), 16)
    fast = FastEngine(load(open_folder(None), "cpu", dtype), 16, drafts="off")
    in_labels: Counter[str] = Counter()
    in_locations: Counter[str] = Counter()
    for number in range(images):
        image = World(FIRST_SEED + number).scene(1.0).paint(*SIZE)
        jobs = [job(task, "toy", number, image) for task in SPECS]
        for ours, theirs in zip(run(fast, jobs), run(plain, jobs), strict=True):
            is_different = labels(ours) != labels(theirs)
            in_labels[ours.job.due.task.task] += is_different
            in_locations[ours.job.due.task.task] += not is_different and locations(ours) != locations(theirs)
    answers = images * len(SPECS)
    different = in_labels.total() + in_locations.total()
    return {
        "answers": answers,
        "equal": 1 - different / answers,
        "in_labels": dict(+in_labels),
        "in_locations": dict(+in_locations),
    }


def memory(frames: int) -> dict[str, Any]:
    """Return resident megabytes after a tenth of the frames and at the end, and what the engine still holds."""
    engine = FastEngine(load(open_folder(None), "cpu", "float32"), 8)
    images = [World(FIRST_SEED + number).scene(1.0).paint(*SIZE) for number in range(32)]
    after_tenth = resident()
    for number in range(frames):
        run(engine, [job(TASKS[number % 3], f"camera{number % 8}", number, images[number % 32].copy())])
        if number == frames // 10:
            after_tenth = resident()
    held = {"frames": len(engine.image_cache), "rows": engine.greedy.batch.active, "free": engine.free()}
    return {"frames": frames, "mb_after_a_tenth": after_tenth, "mb_at_the_end": resident(), "held": held}


def resident() -> float:
    """Return the resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200, help="images with all tasks [200]")
    parser.add_argument("--frames", type=int, default=10_000, help="frames for the memory measurement [10000]")
    parser.add_argument("--threads", type=int, default=2, help="torch threads [2]")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/shipped.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results: dict[str, Any] = {}
    for dtype in ("float32", "bfloat16"):
        results[f"same_{dtype}"] = same(args.images, dtype)
        print(dtype, results[f"same_{dtype}"], flush=True)
    results["memory"] = memory(args.frames)
    print("memory", results["memory"])
    if args.write:
        write("shipped", results)


if __name__ == "__main__":
    main()
