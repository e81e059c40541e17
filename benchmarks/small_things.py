"""Small words and objects in toy pictures of 3840x2160, which the model sees at 192x192: `benchmarks.small_things`.

- text: share of words that `region_to_ocr` reads in given regions, by height of the text as a percentage of the frame's
  height, without and with `crop: native`.
- margins: the same for texts of 2 %, by the margin around the region (`streamer.inference.crop.MARGIN`).
- tiles: recall and precision of `object_detection` for objects of 2 %, by `tiles`.
- found: share of words of 2 % that `ocr_with_region` reads by `tiles`, and that `region_to_ocr` then reads of what it
  finds, with `crop: native`.
- kinds: share of objects of 2 % for which `region_to_category` gives the right kind, without and with `crop: native`.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

# As in the pipeline, before torch is imported: idle OpenMP threads sleep.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

from benchmarks.accuracy import Score, count_boxes
from benchmarks.report import write
from benchmarks.shipped import run
from pipelines.florence2.pipeline import pipeline
from streamer.config.model import from_mapping
from streamer.config.task import ScheduledTask
from streamer.inference import crop as cropping
from streamer.inference.follow_ups import FollowUps
from streamer.toyworld.paint import lettering
from streamer.toyworld.words import SEEN_WORDS
from streamer.toyworld.world import Difficulty, Scene, Sign, Thing, World
from streamer.types import DueTask, Engine, Frame, Job

WIDTH, HEIGHT = 3840, 2160
FIRST_SEED = 900_000
SMALL = 0.02
"""Height of the texts and objects, as a fraction of the frame's height."""
COLUMNS, ROWS = 3, 2
"""Cells of a picture, each with one word at a random place."""
TURN = 15
"""Largest turn of a word in degrees, as on the signs of the model's training."""
OBJECTS = Difficulty(sides=(0.9 * SMALL, 1.1 * SMALL), objects=(4, 6), overlap=0.0)
HEIGHTS = (0.005, 0.01, SMALL, 0.04, 0.08)
GRIDS = (None, "2x2", "3x3", "4x4")
MARGINS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0)


def words(seed: int, height: float) -> tuple[Sign, ...]:
    """Return one word per cell, from top to bottom and from left to right."""
    rng = np.random.default_rng([seed, 3])
    signs = []
    for cell in range(COLUMNS * ROWS):
        text = str(rng.choice(list(SEEN_WORDS)))
        angle = np.deg2rad(rng.uniform(-TURN, TURN))
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        half = np.array([lettering(text).aspect * height, height]) / 2
        corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * half @ turn * (HEIGHT / WIDTH, 1)
        reach, size = np.abs(corners).max(axis=0), np.array([1 / COLUMNS, 1 / ROWS])
        start = size * (cell % COLUMNS, cell // COLUMNS)
        signs.append(Sign(text, corners + start + reach + (size - 2 * reach) * rng.random(2), lettering(text).ends))
    return tuple(sorted(signs, key=lambda sign: (sign.box[1], sign.box[0])))


def pictures(scenes: int, height: float | None) -> Iterator[tuple[Scene, Frame]]:
    """Yield scenes with words of this height, or with small objects where `height` is None."""
    for number in range(scenes):
        seed = FIRST_SEED + number
        scene = Scene(seed, 1.0, (), words(seed, height), 12) if height else World(seed, difficulty=OBJECTS).scene(1.0)
        if height is None:
            scene = Scene(seed, 1.0, scene.objects, (), scene.noise)
        yield scene, Frame("toy", 0, number, 0.0, 0.0, 0.0, scene.paint(WIDTH, HEIGHT))


def make_task(**keys: Any) -> ScheduledTask:
    return from_mapping({"streams": {"toy": {"source": "synthetic", "tasks": [keys]}}}).streams["toy"].tasks[0]


def asked(engine: Engine, task: str, scenes: int, height: float | None, **keys: Any) -> float:
    """Return the share of words or kinds that the task gives for the true regions."""
    right = total = 0
    for scene, frame in pictures(scenes, height):
        things: list[Sign | Thing] = [*scene.signs, *scene.objects]
        places = [[min(max(edge, 0.0), 1.0) for edge in thing.box] for thing in things]
        jobs = [
            cropping.crop(Job(DueTask("toy", make_task(task=task, region=place, **keys), 0.0), frame), {})
            for place in places
        ]
        for thing, result in zip(things, run(engine, jobs), strict=True):
            total += 1
            right += result.answer.text == (thing.text if isinstance(thing, Sign) else thing.kind)
    return round(right / total, 4)


def both(engine: Engine, task: str, scenes: int, height: float | None) -> dict[str, float]:
    return {
        "frame": asked(engine, task, scenes, height),
        "native": asked(engine, task, scenes, height, crop="native"),
    }


def text(engine: Engine, scenes: int) -> dict[str, Any]:
    return {f"{height:.1%}": both(engine, "region_to_ocr", scenes, height) for height in HEIGHTS}


def margins(engine: Engine, scenes: int) -> dict[str, Any]:
    default, rates = cropping.MARGIN, {}
    try:
        for cropping.MARGIN in MARGINS:
            rates[str(cropping.MARGIN)] = asked(engine, "region_to_ocr", scenes, SMALL, crop="native")
    finally:
        cropping.MARGIN = default
    return rates


def kinds(engine: Engine, scenes: int) -> dict[str, Any]:
    return both(engine, "region_to_category", scenes, None)


def tiles(engine: Engine, scenes: int) -> dict[str, Any]:
    rows = {}
    for grid in GRIDS:
        task, score = make_task(task="object_detection", **({"tiles": grid} if grid else {})), Score()
        for scene, frame in pictures(scenes, None):
            (result,) = run(engine, [Job(DueTask("toy", task, 0.0), frame)])
            count_boxes(result.answer.boxes, [(thing.kind, thing.box) for thing in scene.objects], score)
        rows[grid or "none"] = {key: score.row()[key] for key in ("recall", "precision", "mean_iou", "expected")}
    return rows


def found(engine: Engine, scenes: int) -> dict[str, Any]:
    rows = {}
    for grid in GRIDS:
        then = [{"task": "region_to_ocr", "crop": "native", "most": 64}]
        task = make_task(task="ocr_with_region", then=then, **({"tiles": grid} if grid else {}))
        total = first = second = 0
        for scene, frame in pictures(scenes, SMALL):
            texts = Counter(sign.text for sign in scene.signs)
            (result,) = run(engine, [Job(DueTask("toy", task, 0.0), frame)])
            jobs, _ = FollowUps().plan(result, "event")
            again = run(engine, [cropping.crop(job, {}) for job in jobs])
            total += texts.total()
            first += (texts & Counter(quad.label for quad in result.answer.quads)).total()
            second += (texts & Counter(one.answer.text or "" for one in again)).total()
        rows[grid or "none"] = {"first": round(first / total, 4), "again": round(second / total, 4)}
    return rows


PARTS = {"text": text, "margins": margins, "kinds": kinds, "tiles": tiles, "found": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=40, help="pictures per row [40]")
    parser.add_argument("--only", choices=list(PARTS))
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/small_things.json")
    options = parser.parse_args()
    engine = pipeline.open(pipeline.settings())
    rows: dict[str, Any] = {"scenes": options.scenes}
    for name, part in PARTS.items():
        if options.only in (None, name):
            rows[name] = part(engine, options.scenes)
            print(f"{name}: {rows[name]}", flush=True)
    if options.write:
        write("small_things", rows)


if __name__ == "__main__":
    main()
