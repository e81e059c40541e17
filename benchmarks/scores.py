"""Reliability of box scores on hard toy scenes: `python -m benchmarks.scores`.

Hard scenes have small, overlapping objects and noise. A box is right when it has the label of an object and overlaps it
with an IoU of at least 0.5; each object counts once. Prints the precision for each tenth of the score, and the area
under the ROC curve (AUC), the probability that a right box scores higher than a wrong one. Exits with 1 when an AUC is
below 0.85.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

from benchmarks.report import write
from pipelines.florence2.parse import parse
from pipelines.florence2.pipeline import pipeline
from pipelines.florence2.tasks import FLORENCE_TASKS, SPECS
from pipelines.florence2.training.labels import make_example
from streamer.core.boxes import Rect, iou
from streamer.toyworld.world import HARD, World
from streamer.types import Box, DueTask, Engine, Frame, Image, Job, Task

FIRST_SEED = 900_000
WIDTH, HEIGHT = 640, 480
TASKS = ("object_detection", "dense_region_caption", "region_proposal")
RIGHT_OVERLAP = 0.5
MIN_AUC = 0.85

Truth = dict[str, Sequence[Box]]
"""Right boxes by task."""
Scored = list[tuple[float, bool]]
"""Score of each box, and whether the box is right."""


def hard(number: int) -> tuple[Image, Truth]:
    """Return the image and the right boxes of hard scene `number`."""
    scene = World(FIRST_SEED + number, difficulty=HARD).scene(3.0)
    rng = np.random.default_rng(number)
    answers = {task: make_example(task, scene, rng).answer for task in TASKS}
    truth: Truth = {task: parse(FLORENCE_TASKS[task].form, answers[task]).boxes for task in TASKS}
    return scene.paint(WIDTH, HEIGHT), truth


def _edges(box: Box) -> Rect:
    return box.x0, box.y0, box.x1, box.y1


def judge(found: Sequence[Box], truth: Sequence[Box]) -> list[bool]:
    """Return which boxes are right; the pairs with the largest overlap are matched first."""
    pairs = sorted(
        (
            (iou(_edges(a), _edges(b)), i, j)
            for i, a in enumerate(found)
            for j, b in enumerate(truth)
            if a.label == b.label
        ),
        reverse=True,
    )
    taken: dict[int, int] = {}
    for overlap, i, j in pairs:
        if overlap >= RIGHT_OVERLAP and i not in taken and j not in taken.values():
            taken[i] = j
    return [i in taken for i in range(len(found))]


def auc(scored: Scored) -> float:
    """Return the probability that a right box scores higher than a wrong one; a tie counts half."""
    right, wrong = (np.array([score for score, good in scored if good is kind]) for kind in (True, False))
    return float(np.mean((right[:, None] > wrong) + 0.5 * (right[:, None] == wrong)))


def reliability(scored: Scored) -> list[dict[str, float]]:
    """Return the number of boxes, mean score and precision for each tenth of the score."""
    table = []
    for tenth in range(10):
        part = [(score, good) for score, good in scored if min(9, int(10 * score)) == tenth]
        if part:
            scores, goods = zip(*part, strict=True)
            row = {"from": tenth / 10, "boxes": len(part), "score": float(np.mean(scores))}
            table.append({**row, "precision": float(np.mean(goods))})
    return table


def measure(engine: Engine, scenes: int) -> dict[str, Scored]:
    """Run all tasks on that many hard scenes."""
    scored: dict[str, Scored] = {task: [] for task in TASKS}
    for number in range(scenes):
        image, truth = hard(number)
        frame = Frame("toy", 0, number, 0.0, 0.0, 0.0, image)
        engine.admit([Job(DueTask("toy", Task(task, task, SPECS[task].parameters()), 0.0), frame) for task in TASKS])
        done = 0
        while done < len(TASKS):
            for result in engine.step():
                task, boxes = result.job.due.task.task, result.answer.boxes
                goods = judge(boxes, truth[task])
                scored[task] += [(box.score or 0.0, good) for box, good in zip(boxes, goods, strict=True)]
                done += 1
    return scored


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=500, help="hard scenes [500]")
    parser.add_argument("--checkpoint", help="checkpoint folder [the shipped model]")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/scores.json")
    args = parser.parse_args()
    engine = pipeline.open(pipeline.settings(checkpoint=args.checkpoint, drafts="off"))
    kept: dict[str, Any] = {"scenes": args.scenes}
    for task, scored in measure(engine, args.scenes).items():
        kept[task] = {"boxes": len(scored), "auc": auc(scored), "reliability": reliability(scored)}
        print(f"{task}: AUC {kept[task]['auc']:.3f} over {len(scored)} boxes")
        for row in kept[task]["reliability"]:
            print("  from {from:.1f}: {boxes:5} boxes, mean score {score:.2f}, precision {precision:.2f}".format(**row))
    if args.write:
        write("scores", kept)
    return 0 if all(kept[task]["auc"] >= MIN_AUC for task in TASKS) else 1


if __name__ == "__main__":
    raise SystemExit(main())
