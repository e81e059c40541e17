"""The fast engine on the shipped model: `python -m benchmarks.shipped [--images 200] [--frames 10000] [--write]`.

same: share of answers with the plain engine's very tokens, in float32 and bfloat16, over all tasks, and where they
differ. drafts: how much of a camera's previous answer is right on a noisy drawn video. memory: of the process over
many frames.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
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
NOISE = 6.0
"""Standard deviation of the video's noise, in levels."""
CAMERAS, INTERVAL = 4, 0.5
"""Of the video: cameras, seconds between two frames of one."""
TASKS = ("caption", "object_detection", "dense_region_caption")


def params(task: str) -> Any:
    given: dict[str, Any] = {}
    if SPECS[task].takes_text:
        given["text"] = "a red circle"
    if SPECS[task].takes_region:
        given["region"] = (0.25, 0.25, 0.75, 0.75)
    return SPECS[task].parameters.model_validate(given)


def job(task: str, stream: str, number: int, image: Image) -> Job:
    return Job(DueTask(stream, Task(task, task, params(task)), 0.0), Frame(stream, 0, number, 0.0, 0.0, 0.0, image))


def answer(engine: Engine, jobs: Sequence[Job]) -> list[Result]:
    """All results, in the order of the jobs."""
    waiting = list(jobs)
    results: dict[int, Result] = {}
    while len(results) < len(jobs):
        count = min(engine.free(), len(waiting))
        engine.admit(waiting[:count])
        waiting = waiting[count:]
        results.update((id(result.job), result) for result in engine.step())
    return [results[id(one)] for one in jobs]


def words(result: Result) -> tuple[Any, ...]:
    said = result.answer
    shapes: list[Box | Polygon | Quad] = [*said.boxes, *said.polygons, *said.quads]
    return result.outcome, result.error, said.text, [(type(shape), shape.label) for shape in shapes]


def places(result: Result) -> list[Any]:
    said = result.answer
    outlines: list[Polygon | Quad] = [*said.polygons, *said.quads]
    return [*((box.x0, box.y0, box.x1, box.y1) for box in said.boxes), *(outline.points for outline in outlines)]


def said(result: Result) -> tuple[Any, ...]:
    """All but the scores, which differ in their last digits."""
    return words(result), places(result)


def same(images: int, dtype: str) -> dict[str, Any]:
    """Share of equal answers, and by task how many differ in words or number, and how many in places only."""
    plain = ReferenceEngine(load(open_folder(None), "cpu", dtype), 16)
    fast = FastEngine(load(open_folder(None), "cpu", dtype), 16, drafts=False)
    in_words: Counter[str] = Counter()
    in_places: Counter[str] = Counter()
    for number in range(images):
        image = World(FIRST_SEED + number).scene(1.0).paint(*SIZE)
        jobs = [job(task, "toy", number, image) for task in SPECS]
        for ours, theirs in zip(answer(fast, jobs), answer(plain, jobs), strict=True):
            other = words(ours) != words(theirs)
            in_words[ours.job.due.task.task] += other
            in_places[ours.job.due.task.task] += not other and places(ours) != places(theirs)
    asked = images * len(SPECS)
    different = in_words.total() + in_places.total()
    return {"asked": asked, "equal": 1 - different / asked, "in_words": dict(+in_words), "in_places": dict(+in_places)}


def video(noise: float, length: int) -> Iterator[list[Frame]]:
    """Frames of all cameras at one moment."""
    rng = np.random.default_rng(5)
    worlds = [World(FIRST_SEED + camera) for camera in range(CAMERAS)]
    for number in range(length):
        frames = []
        for camera, world in enumerate(worlds):
            clean = world.scene(number * INTERVAL).paint(*SIZE)
            image = (clean + rng.normal(0, noise, clean.shape)).clip(0, 255).astype(np.uint8)
            frames.append(Frame(f"camera{camera}", 0, number, 0.0, 0.0, 0.0, image))
        yield frames


def drafts(noise: float, length: int) -> dict[str, Any]:
    """Acceptance by task on the video, and that no answer changes."""
    table: dict[str, Any] = {}
    for task in TASKS:
        guessing = FastEngine(load(open_folder(None), "cpu", "float32"), CAMERAS)
        plodding = FastEngine(load(open_folder(None), "cpu", "float32"), CAMERAS, drafts=False)
        changed = 0
        for frames in video(noise, length):
            jobs = [job(task, frame.stream, frame.seq, frame.image) for frame in frames]
            pairs = zip(answer(guessing, jobs), answer(plodding, jobs), strict=True)
            changed += sum(said(a) != said(b) for a, b in pairs)
        figures = guessing.greedy.drafts.stats
        table[task] = {
            "acceptance": round(figures.acceptance, 4),
            "answers_with_draft": figures.answers,
            "answers": CAMERAS * length,
            "changed": changed,
        }
    return table


def memory(frames: int) -> dict[str, Any]:
    """Resident megabytes after a tenth of the frames and at the end, and what the engine still holds."""
    engine = FastEngine(load(open_folder(None), "cpu", "float32"), 8)
    images = [World(FIRST_SEED + number).scene(1.0).paint(*SIZE) for number in range(32)]
    after_tenth = resident()
    for number in range(frames):
        answer(engine, [job(TASKS[number % 3], f"camera{number % 8}", number, images[number % 32].copy())])
        if number == frames // 10:
            after_tenth = resident()
    held = {"frames": len(engine.image_cache), "rows": engine.greedy.batch.active, "free": engine.free()}
    return {"frames": frames, "mb_after_a_tenth": after_tenth, "mb_at_the_end": resident(), "held": held}


def resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--video", type=int, default=40, help="frames of each camera of the video")
    parser.add_argument("--frames", type=int, default=10_000, help="frames over which memory is watched")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="keep the result in benchmarks/results/")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    found: dict[str, Any] = {}
    for dtype in ("float32", "bfloat16"):
        found[f"same_{dtype}"] = same(args.images, dtype)
        print(dtype, found[f"same_{dtype}"], flush=True)
    for noise in (0.0, NOISE):
        found[f"drafts_noise_{noise:g}"] = drafts(noise, args.video)
        print(f"drafts, noise {noise:g}", found[f"drafts_noise_{noise:g}"], flush=True)
    found["memory"] = memory(args.frames)
    print("memory", found["memory"])
    if args.write:
        write("shipped", found)


if __name__ == "__main__":
    main()
