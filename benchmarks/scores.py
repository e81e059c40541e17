"""Whether a box's score says how likely it is right: `python -m benchmarks.scores [--scenes 500] [--write]`.

On a hard split of the drawn world: small things that overlap, under noise. A box is right when it has the label of an
object of its own and an overlap (IoU) of at least 0.5 with it. Prints how often the boxes of each score are right, and
the area under the ROC curve: the chance that a right box scores higher than a wrong one.
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
from pipelines.florence2.training.labels import ask
from streamer.cli.demo_score import Rect, iou
from streamer.toyworld.world import HARD, World
from streamer.types import Box, DueTask, Engine, Frame, Image, Job, Task

FIRST_SEED = 900_000
WIDTH, HEIGHT = 640, 480
TASKS = ("object_detection", "dense_region_caption", "region_proposal")
RIGHT_OVERLAP = 0.5
MIN_AUC = 0.85

Truth = dict[str, Sequence[Box]]
"""The right boxes of each task."""
Scored = list[tuple[float, bool]]
"""Of each box, its score and whether it is right."""


def hard(number: int) -> tuple[Image, Truth]:
    """A scene of small, overlapping things under noise."""
    scene = World(FIRST_SEED + number, difficulty=HARD).scene(3.0)
    rng = np.random.default_rng(number)
    truth: Truth = {task: parse(FLORENCE_TASKS[task].form, ask(task, scene, rng).answer).boxes for task in TASKS}
    return scene.paint(WIDTH, HEIGHT), truth


def _edges(box: Box) -> Rect:
    return box.x0, box.y0, box.x1, box.y1


def judge(found: Sequence[Box], truth: Sequence[Box]) -> list[bool]:
    """Which boxes are right; the best pairs first, each object counts once."""
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
    """The chance that a right one scores higher than a wrong one; a tie counts half."""
    right, wrong = (np.array([score for score, good in scored if good is kind]) for kind in (True, False))
    return float(np.mean((right[:, None] > wrong) + 0.5 * (right[:, None] == wrong)))


def reliability(scored: Scored) -> list[dict[str, float]]:
    """By tenths of the score: how many boxes, their mean score, how many of them are right."""
    table = []
    for tenth in range(10):
        part = [(score, good) for score, good in scored if min(9, int(10 * score)) == tenth]
        if part:
            scores, goods = zip(*part, strict=True)
            row = {"from": tenth / 10, "boxes": len(part), "score": float(np.mean(scores))}
            table.append({**row, "precision": float(np.mean(goods))})
    return table


def measure(engine: Engine, scenes: int) -> dict[str, Scored]:
    """Ask all tasks of that many hard scenes."""
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
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--checkpoint", help="folder of a checkpoint [the shipped one]")
    parser.add_argument("--write", action="store_true", help="keep the table in benchmarks/results/")
    args = parser.parse_args()
    engine = pipeline.open(pipeline.settings(checkpoint=args.checkpoint, drafts=False))
    kept: dict[str, Any] = {"scenes": args.scenes}
    for task, scored in measure(engine, args.scenes).items():
        kept[task] = {"boxes": len(scored), "auc": auc(scored), "reliability": reliability(scored)}
        print(f"{task}: AUC {kept[task]['auc']:.3f} over {len(scored)} boxes")
        for row in kept[task]["reliability"]:
            print("  from {from:.1f}{boxes:6} boxes, score {score:.2f}, {precision:.2f} right".format(**row))
    if args.write:
        write("scores", kept)
    return 0 if all(kept[task]["auc"] >= MIN_AUC for task in TASKS) else 1


if __name__ == "__main__":
    raise SystemExit(main())
