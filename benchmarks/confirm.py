"""False finds and recall with and without a second look (`confirm`) on toy scenes: `python -m benchmarks.confirm`.

In each scene the shipped model searches for one object that is there and for up to three that are not: two that share
its kind or its colour, and a kind of which there is none. A caption for phrase_grounding names objects of both sorts. A
false find is a phrase that is absent but has a shape. An object is found if a shape of its phrase overlaps it with an
IoU of at least 0.5; outlines are compared by their bounding boxes.

Exits with 1 if the second look leaves more than half of a task's false finds, or costs more than 2 points of recall.
`--calibrate` uses scenes of the training's seeds, and prints false finds and recall for each threshold.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

from benchmarks.accuracy import FIRST_SEED, HEIGHT, WIDTH
from benchmarks.report import write
from benchmarks.shipped import run
from pipelines.florence2.confirm import MIN_SCORES
from pipelines.florence2.pipeline import pipeline
from pipelines.florence2.tasks import SPECS
from pipelines.florence2.training.labels import matching
from streamer.cli.demo_score import GOOD_IOU
from streamer.core.boxes import iou
from streamer.toyworld.paint import COLOURS
from streamer.toyworld.world import HARD, KINDS, NORMAL, SCENE_SECONDS, Difficulty, Scene, World
from streamer.types import Answer, Box, DueTask, Engine, Frame, Job, Polygon, Task

CALIBRATION_SEED = 2_000_000
"""First seed of the scenes for `--calibrate`: training uses seeds from 1,000,000 on."""
THRESHOLDS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4)
MAX_FALSE_SHARE, MAX_RECALL_LOSS = 0.5, 0.02
TASKS = tuple(MIN_SCORES)

_Found = list[tuple[Box, float | None]]
"""Bounding box of each shape of a phrase, with its score in the second look; None: it was confirmed."""


@dataclass
class Counts:
    """Finds and false finds of one task."""

    present: int = 0
    found: int = 0
    absent: int = 0
    false_finds: int = 0

    def add(self, shapes: Sequence[Box], truth: Sequence[tuple[float, float, float, float]]) -> None:
        """Count the shapes of one phrase, which names the objects with the boxes `truth`."""
        if not truth:
            self.absent += 1
            self.false_finds += bool(shapes)
        left = list(shapes)
        for box in truth:
            self.present += 1
            best = max(left, key=lambda one: iou((one.x0, one.y0, one.x1, one.y1), box), default=None)
            if best is not None and iou((best.x0, best.y0, best.x1, best.y1), box) >= GOOD_IOU:
                self.found += 1
                left.remove(best)

    @property
    def recall(self) -> float:
        return self.found / max(1, self.present)

    def row(self) -> dict[str, float | int]:
        return {
            "objects": self.present,
            "recall": round(self.recall, 4),
            "absent": self.absent,
            "false_finds": self.false_finds,
            "false_rate": round(self.false_finds / max(1, self.absent), 4),
        }


@dataclass
class Pair:
    """Counts without and with the second look."""

    without: Counts = field(default_factory=Counts)
    confirmed: Counts = field(default_factory=Counts)
    by_reason: dict[str, int] = field(default_factory=dict)
    """Refused shapes by reason."""

    @property
    def passed(self) -> bool:
        few = self.confirmed.false_finds <= MAX_FALSE_SHARE * self.without.false_finds
        return few and self.without.recall - self.confirmed.recall <= MAX_RECALL_LOSS


def searches(scene: Scene, rng: np.random.Generator) -> Iterator[tuple[str, list[str]]]:
    """Yield tasks with the phrases of one job: for phrase_grounding those of a caption, else one phrase."""
    thing = scene.objects[int(rng.integers(len(scene.objects)))]
    present = f"{thing.colour} {thing.kind}"
    similar = [f"{thing.colour} {kind}" for kind in KINDS] + [f"{colour} {thing.kind}" for colour in COLOURS]
    absent = [str(one) for one in rng.choice([one for one in similar if not matching(scene, one)], 2, replace=False)]
    kinds = [kind for kind in KINDS if not matching(scene, kind)]
    absent += [str(one) for one in rng.choice(kinds, min(1, len(kinds)), replace=False)]
    for task in TASKS:
        if task == "phrase_grounding":
            yield task, [present, absent[0]]
            yield task, [thing.kind, *absent[2:]]
            yield task, [absent[1]]
        else:
            yield from ((task, [phrase]) for phrase in (present, *absent))


def text_of(phrases: Sequence[str]) -> str:
    """Return a caption with the phrases; a single phrase of a search has no article in it."""
    return " and ".join(f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}" for phrase in phrases)


def shapes_by_phrase(answer: Answer, phrases: Sequence[str]) -> dict[str, _Found]:
    """Return the shapes of each phrase, those that were refused with their score."""
    found: dict[str, _Found] = {phrase: [] for phrase in phrases}
    assert answer.confirmation is not None
    shapes: list[tuple[Box | Polygon, float | None]] = [
        (one.box, one.support or 0.0) for one in answer.confirmation.refused
    ]
    shapes += [(box, None) for box in answer.boxes]
    shapes += [(polygon, None) for polygon in answer.polygons]
    for shape, support in shapes:
        named = [phrase for phrase in phrases if shape.label in (phrase, text_of([phrase]))]
        # A job with one phrase may label its shapes otherwise, or not at all.
        for phrase in named or (phrases if len(phrases) == 1 else ()):
            found[phrase].append((_box(shape), support))
    return found


def _box(shape: Box | Polygon) -> Box:
    if isinstance(shape, Box):
        return shape
    xs, ys = zip(*shape.points, strict=True)
    return Box(min(xs), min(ys), max(xs), max(ys), shape.label, shape.score)


def answers(
    engine: Engine, scenes: int, difficulty: Difficulty, first_seed: int, confirm: Any
) -> Iterator[tuple[str, Scene, Answer, list[str]]]:
    """Yield task, scene, answer and phrases of each search."""
    rng = np.random.default_rng(19)
    for number in range(scenes):
        scene = World(first_seed + number, difficulty=difficulty).scene(rng.random() * SCENE_SECONDS)
        frame = Frame("toy", 0, number, 0.0, 0.0, scene.time, scene.paint(WIDTH, HEIGHT))
        planned = list(searches(scene, rng)) if scene.objects else []
        jobs = []
        for index, (task, phrases) in enumerate(planned):
            text = text_of(phrases) if task == "phrase_grounding" else phrases[0]
            params = SPECS[task].parameters.model_validate({"text": text, "confirm": confirm})
            jobs.append(Job(DueTask("toy", Task(f"{task}-{index}", task, params), 0.0), frame))
        for (task, phrases), result in zip(planned, run(engine, jobs), strict=True):
            assert result.outcome in ("ok", "empty"), result.error
            yield task, scene, result.answer, phrases


def measure(engine: Engine, scenes: int, difficulty: Difficulty, agree: str) -> dict[str, Pair]:
    """Return the counts of each task on held-out scenes, with the default thresholds."""
    pairs = {task: Pair() for task in TASKS}
    for task, scene, answer, phrases in answers(engine, scenes, difficulty, FIRST_SEED, {"agree": agree}):
        for phrase, found in shapes_by_phrase(answer, phrases).items():
            truth = [thing.box for thing in matching(scene, phrase)]
            pairs[task].without.add([box for box, _ in found], truth)
            pairs[task].confirmed.add([box for box, support in found if support is None], truth)
        assert answer.confirmation is not None
        for refused in answer.confirmation.refused:
            pairs[task].by_reason[refused.reason] = pairs[task].by_reason.get(refused.reason, 0) + 1
    return pairs


def calibrate(engine: Engine, scenes: int, difficulty: Difficulty, agree: str) -> None:
    """Print false finds and recall of each task for each threshold, on scenes of the training's seeds."""
    counts = {task: {least: Counts() for least in (0.0, *THRESHOLDS)} for task in TASKS}
    refuse_all = {"agree": agree, "min_score": 1.0}
    for task, scene, answer, phrases in answers(engine, scenes, difficulty, CALIBRATION_SEED, refuse_all):
        for phrase, found in shapes_by_phrase(answer, phrases).items():
            truth = [thing.box for thing in matching(scene, phrase)]
            for least, count in counts[task].items():
                count.add([box for box, support in found if support is None or support >= least], truth)
    for task, by_threshold in counts.items():
        for least, count in by_threshold.items():
            print(f"{task:28} min_score {least:<5} {count.row()}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=500, help="scenes [500]")
    parser.add_argument("--agree", default="description", choices=["description", "category", "both"])
    parser.add_argument("--hard", action="store_true", help="small, overlapping and noisy objects")
    parser.add_argument("--calibrate", action="store_true", help="print all thresholds, on the training's scenes")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/confirm.json")
    args = parser.parse_args()
    engine = pipeline.open(pipeline.settings(drafts="off"))
    difficulty = HARD if args.hard else NORMAL
    if args.calibrate:
        calibrate(engine, args.scenes, difficulty, args.agree)
        return 0
    rows: dict[str, Any] = {}
    print(f"{f'{args.scenes} scenes':28}{'recall':>18}{'false finds':>22}{'absent':>8}")
    for task, pair in measure(engine, args.scenes, difficulty, args.agree).items():
        without, confirmed = pair.without.row(), pair.confirmed.row()
        rows[task] = {"without": without, "confirm": confirmed, "refused": pair.by_reason, "passed": pair.passed}
        recall = f"{without['recall']:.3f} -> {confirmed['recall']:.3f}"
        finds = f"{without['false_finds']} -> {confirmed['false_finds']}"
        print(f"{task:28}{recall:>18}{finds:>22}{without['absent']:>8}  {'' if pair.passed else 'FAILED'}", flush=True)
    if args.write:
        write("confirm", {"scenes": args.scenes, "agree": args.agree, "hard": args.hard, "tasks": rows})
    return 0 if all(row["passed"] for row in rows.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
