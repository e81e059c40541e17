"""Accuracy of the rule condition `state` on toy scenes: `python -m benchmarks.object_states`.

In each toy scene an object stands for one that can have two colours, its own and another that no object of its kind
has. The shipped model searches for both, with a second look. The zone is the object's box, a tenth larger on each side.
Prints, for each margin between the scores, the share of scenes with the right state, with no answer and with the wrong
state. Exits with 1 if the margin in use gives less than 0.9 right or more than 0.02 wrong.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

from benchmarks.accuracy import FIRST_SEED, HEIGHT, WIDTH
from benchmarks.report import write
from benchmarks.shipped import run
from pipelines.florence2.pipeline import pipeline
from pipelines.florence2.tasks import SPECS
from pipelines.florence2.training.labels import matching
from streamer.rules.fixed_object import MARGIN, BestState, best_state
from streamer.rules.geometry import foot
from streamer.rules.observation import Shape
from streamer.toyworld.paint import COLOURS
from streamer.toyworld.world import SCENE_SECONDS, World
from streamer.types import DueTask, Engine, Frame, Job, Task

CALIBRATION_SEED = 2_000_000
"""First seed of the scenes for `--calibrate`: training uses seeds from 1,000,000 on."""
MARGINS = (0.0, 0.02, 0.05, 0.1, 0.2)
LEAST_RIGHT, MOST_WRONG = 0.9, 0.02
ROOM = 0.1
"""Part of the box's size by which the zone is larger on each side."""
TASK = "open_vocabulary_detection"


def states(engine: Engine, scenes: int, first_seed: int) -> list[tuple[BestState | None, str]]:
    """Return what was found in each scene, and the true text."""
    rng, found = np.random.default_rng(20), []
    for number in range(scenes):
        scene = World(first_seed + number).scene(rng.random() * SCENE_SECONDS)
        things = [one for one in scene.objects if len(matching(scene, f"{one.colour} {one.kind}")) == 1]
        if not things:
            continue
        thing = things[int(rng.integers(len(things)))]
        absent = [colour for colour in COLOURS if not matching(scene, f"{colour} {thing.kind}")]
        true, other = f"{thing.colour} {thing.kind}", f"{rng.choice(absent)} {thing.kind}"
        texts = [true, other] if rng.random() < 0.5 else [other, true]
        params = SPECS[TASK].parameters.model_validate({"text": texts, "confirm": True})
        frame = Frame("toy", 0, number, 0.0, 0.0, scene.time, scene.paint(WIDTH, HEIGHT))
        (result,) = run(engine, [Job(DueTask("toy", Task("state", TASK, params), 0.0), frame)])
        assert result.outcome in ("ok", "empty"), result.error
        x0, y0, x1, y1 = thing.box
        dx, dy = ROOM * (x1 - x0), ROOM * (y1 - y0)
        shapes = [Shape(one.label, one.score, (one.x0, one.y0, one.x1, one.y1)) for one in result.answer.boxes]
        for polygon in result.answer.polygons:
            xs, ys = zip(*polygon.points, strict=True)
            shapes.append(Shape(polygon.label, polygon.score, (min(xs), min(ys), max(xs), max(ys))))
        inside = [
            one for one in shapes if x0 - dx <= foot(one.box)[0] <= x1 + dx and y0 - dy <= foot(one.box)[1] <= y1 + dy
        ]
        found.append((best_state(inside, texts), true))
    return found


def row(found: list[tuple[BestState | None, str]], margin: float) -> dict[str, float]:
    decided = [(best.shape.label == true) for best, true in found if best is not None and best.margin >= margin]
    right, wrong = sum(decided), len(decided) - sum(decided)
    return {
        "right": round(right / len(found), 4),
        "none": round(1 - len(decided) / len(found), 4),
        "wrong": round(wrong / len(found), 4),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=500, help="scenes [500]")
    parser.add_argument("--calibrate", action="store_true", help="use scenes of the training's seeds")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/object_states.json")
    args = parser.parse_args()
    engine = pipeline.open(pipeline.settings(drafts="off"))
    found = states(engine, args.scenes, CALIBRATION_SEED if args.calibrate else FIRST_SEED)
    rows: dict[str, Any] = {f"{margin:g}": row(found, margin) for margin in MARGINS}
    for margin, one in rows.items():
        print(f"margin {margin:5} right {one['right']:.3f}  no answer {one['none']:.3f}  wrong {one['wrong']:.3f}")
    if args.write:
        write("object_states", {"scenes": len(found), "margin": MARGIN, "by_margin": rows})
    used = row(found, MARGIN)
    return 0 if used["right"] >= LEAST_RIGHT and used["wrong"] <= MOST_WRONG else 1


if __name__ == "__main__":
    raise SystemExit(main())
