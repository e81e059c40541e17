"""Whether a box's score says how likely it is right: `python benchmarks/scores.py [--scenes 500] [--write]`.

On a hard split of the drawn world: small things, hidden ones, noise. A box is right when it has the label of an object
of its own and an overlap (IoU) of at least 0.5 with it. Prints how often the boxes of each score are right, and the
area under the ROC curve: the chance that a right box scores higher than a wrong one.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from report import write

from pipelines.florence2 import pipeline
from pipelines.parse import parse
from pipelines.tasks import FLORENCE_TASKS, SPECS
from pipelines.training.answers import ask
from streamer.toyworld import Scene, World
from streamer.types import Box, Due, Engine, Frame, Image, Job

FIRST_SEED = 900_000
WIDTH, HEIGHT = 640, 480
TASKS = ("object_detection", "region_proposal")
RIGHT_OVERLAP = 0.5
HIDDEN = 0.5
"""Share of an object behind the small picture from which on it need not be found."""
MOST_NOISE = 45
LEAST_AUC = 0.85

Truth = dict[str, list[Box]]
"""The right boxes of each task."""
Scored = list[tuple[float, bool]]
"""Of each box, its score and whether it is right."""


def hard(number: int) -> tuple[Image, Truth]:
    """A scene with a second, smaller one somewhere on top of it, under noise."""
    rng = np.random.default_rng([FIRST_SEED, number])
    back, front = (World(FIRST_SEED + 2 * number + n).scene(float(rng.uniform(0, 10))) for n in (0, 1))
    image = back.paint(WIDTH, HEIGHT).copy()
    part = rng.uniform(0.35, 0.75)
    width, height = int(WIDTH * part), int(HEIGHT * part)
    x, y = int(rng.integers(WIDTH - width)), int(rng.integers(HEIGHT - height))
    image[y : y + height, x : x + width] = front.paint(width, height)
    noise = rng.normal(0, rng.uniform(0, MOST_NOISE), image.shape)
    cover = Box(x / WIDTH, y / HEIGHT, (x + width) / WIDTH, (y + height) / HEIGHT, "")
    truth = {
        task: [box for box in _told(task, back) if _common(box, cover) < HIDDEN * _area(box)]
        + [_within(box, cover) for box in _told(task, front)]
        for task in TASKS
    }
    return (image + noise).clip(0, 255).astype(np.uint8), truth


def _told(task: str, scene: Scene) -> Sequence[Box]:
    """The boxes of the answer that is taught."""
    return parse(FLORENCE_TASKS[task].form, ask(task, scene, np.random.default_rng(0))[1]).boxes


def _within(box: Box, cover: Box) -> Box:
    wide, high = cover.x1 - cover.x0, cover.y1 - cover.y0
    return Box(cover.x0 + wide * box.x0, cover.y0 + high * box.y0,
               cover.x0 + wide * box.x1, cover.y0 + high * box.y1, box.label)  # fmt: skip


def _area(box: Box) -> float:
    return (box.x1 - box.x0) * (box.y1 - box.y0)


def _common(a: Box, b: Box) -> float:
    wide, high = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
    return max(0.0, wide) * max(0.0, high)


def _overlap(a: Box, b: Box) -> float:
    common = _common(a, b)
    return common / max(1e-9, _area(a) + _area(b) - common)


def judge(found: Sequence[Box], truth: Sequence[Box]) -> list[bool]:
    """Which boxes are right; the best pairs first, each object counts once."""
    pairs = sorted(
        ((_overlap(a, b), i, j) for i, a in enumerate(found) for j, b in enumerate(truth) if a.label == b.label),
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
        engine.admit([Job(Due("toy", task, task, SPECS[task].parameters(), 0.0), frame) for task in TASKS])
        done = 0
        while done < len(TASKS):
            for result in engine.step():
                task, boxes = result.job.due.task, result.answer.boxes
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
    return 0 if all(kept[task]["auc"] >= LEAST_AUC for task in TASKS) else 1


if __name__ == "__main__":
    raise SystemExit(main())
