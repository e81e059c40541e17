"""Accuracy of the shipped model on toy worlds that were not in its training: `python -m benchmarks.accuracy`.

Prints recall, precision and IoU per task. A box is right when it has the label of an object and overlaps it with an IoU
of at least 0.5; each object counts once. A word is right when every letter is. A caption is compared by its facts: how
many objects of which colour and kind. Reading tasks have one row for words seen in training and one for other words.
"""

from __future__ import annotations

import argparse
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from benchmarks.report import write
from pipelines.florence2.parse import parse
from pipelines.florence2.pipeline import pipeline
from pipelines.florence2.training.labels import Example, caption, is_possible, make_example
from streamer.cli.demo_score import match
from streamer.core.boxes import Rect
from streamer.core.settings import parse_region
from streamer.toyworld.paint import COLOURS
from streamer.toyworld.words import HELD_OUT_WORDS
from streamer.toyworld.world import HARD, KINDS, NORMAL, SCENE_SECONDS, Difficulty, Scene, Thing, World
from streamer.types import Answer, Box, DueTask, Engine, Frame, Job, Task

FIRST_SEED = 500_000
WIDTH, HEIGHT = 640, 480
_LOCATION = re.compile(r"<loc_(\d+)>")
_NUMBERS = {"a": 1, "an": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
_FACT = re.compile(rf"({'|'.join(_NUMBERS)}) (?:large |small )?({'|'.join(COLOURS)}) ({'|'.join(KINDS)})")
_RELATION = re.compile(r"\w+ \w+ (?:is )?(?:to the left of|to the right of|above|below) (?:an?|the) \w+ \w+")

Outline = Sequence[tuple[float, float]]


@dataclass
class Score:
    """Counts of one row of the table."""

    right: int = 0
    expected: int = 0
    found: int = 0
    overlaps: list[float] = field(default_factory=list)
    absent: int = 0
    """Phrases in prompts that name nothing in the scene."""
    false_finds: int = 0
    """Absent phrases for which the answer has a shape."""

    def row(self) -> dict[str, float | int | None]:
        return {
            "recall": round(self.right / max(1, self.expected), 4),
            "precision": round(self.right / max(1, self.found), 4),
            "mean_iou": round(float(np.mean(self.overlaps)), 4) if self.overlaps else None,
            "false_finds": round(self.false_finds / self.absent, 4) if self.absent else None,
            "expected": self.expected,
        }


Scores = defaultdict[str, Score]
"""Scores by row suffix: empty, `seen` and `held out` (words), `relations`."""


def count_boxes(found: Sequence[Box], truth: Sequence[tuple[str, Rect]], score: Score) -> None:
    """Count the objects that a box of their label covers."""
    rows = match([(box.label, (box.x0, box.y0, box.x1, box.y1)) for box in found], truth)
    score.expected += len(truth)
    score.found += len(found)
    score.right += sum(row.found for row in rows)
    score.overlaps += [row.iou for row in rows if row.found]


def _count(found: Counter[str], expected: Counter[str], score: Score) -> None:
    score.expected += expected.total()
    score.found += found.total()
    score.right += (found & expected).total()


def facts(text: str) -> Counter[str]:
    """Return facts such as `2 blue star`, one per colour and kind, summed over the whole text."""
    counts: Counter[str] = Counter()
    for number, colour, kind in _FACT.findall(text):
        counts[f"{colour} {kind}"] += _NUMBERS[number]
    return Counter(f"{count} {phrase}" for phrase, count in counts.items())


def outline_iou(found: Sequence[Outline], truth: Sequence[Outline], side: int = 512) -> float:
    """Return the intersection over union of the areas inside two sets of outlines."""
    masks = []
    for outlines in (found, truth):
        mask = np.zeros((side, side), np.uint8)
        for outline in outlines:
            cv2.fillPoly(mask, [np.round(np.array(outline) * side * 16).astype(np.int32)], 1, shift=4)
        masks.append(mask > 0)
    union = (masks[0] | masks[1]).sum()
    return float((masks[0] & masks[1]).sum() / union) if union else 1.0


def _box_judge(label: Callable[[Thing], str]) -> Callable[[Answer, Scene, Example, Scores], None]:
    def judge(answer: Answer, scene: Scene, _: Example, scores: Scores) -> None:
        count_boxes(answer.boxes, [(label(thing), thing.box) for thing in scene.objects], scores[""])

    return judge


def _judge_text(answer: Answer, _: Scene, example: Example, scores: Scores) -> None:
    _count(Counter([answer.text or ""]), Counter([example.answer]), scores[""])


def _judge_caption(answer: Answer, scene: Scene, example: Example, scores: Scores) -> None:
    text = answer.text or ""
    _count(facts(text), facts(caption(scene)), scores[""])
    _count(Counter(_RELATION.findall(text)), Counter(_RELATION.findall(example.answer)), scores["relations"])


def _judge_search(answer: Answer, _: Scene, example: Example, scores: Scores) -> None:
    score = scores[""]
    truth = parse("boxes", example.answer).boxes
    count_boxes(answer.boxes, [(box.label, (box.x0, box.y0, box.x1, box.y1)) for box in truth], score)
    there = {box.label for box in truth}
    absent = {phrase for phrase in re.split(r", | and ", example.input) if phrase not in there}
    score.absent += len(absent)
    score.false_finds += len(absent & {box.label for box in answer.boxes})


def _judge_outlines(answer: Answer, _: Scene, example: Example, scores: Scores) -> None:
    score = scores[""]
    found = [polygon.points for polygon in answer.polygons]
    if not example.things:
        score.absent += 1
        score.false_finds += bool(found)
        return
    iou = outline_iou(found, [thing.silhouette.tolist() for thing in example.things])
    score.overlaps.append(iou)
    score.expected += 1
    score.found += bool(found)
    score.right += iou >= 0.5


def _judge_words(answer: Answer, _: Scene, example: Example, scores: Scores) -> None:
    words = Counter((answer.text or "").split())
    for sign in example.signs:
        score = scores["held out" if sign.text in HELD_OUT_WORDS else "seen"]
        score.expected += 1
        score.found += 1
        score.right += words[sign.text] > 0


def _judge_quads(answer: Answer, _: Scene, example: Example, scores: Scores) -> None:
    for sign in example.signs:
        score = scores["held out" if sign.text in HELD_OUT_WORDS else "seen"]
        near = [(outline_iou([quad.points], [sign.quad.tolist()]), quad.label) for quad in answer.quads]
        iou, text = max(near, default=(0.0, ""))
        score.expected += 1
        score.found += bool(near)
        score.right += text == sign.text
        score.overlaps.append(iou)


JUDGES: dict[str, Callable[[Answer, Scene, Example, Scores], None]] = {
    "object_detection": _box_judge(lambda thing: thing.kind),
    "dense_region_caption": _box_judge(lambda thing: f"{thing.size} {thing.colour} {thing.kind}"),
    "region_proposal": _box_judge(lambda thing: ""),
    "open_vocabulary_detection": _judge_search,
    "phrase_grounding": _judge_search,
    "referring_segmentation": _judge_outlines,
    "region_to_segmentation": _judge_outlines,
    "region_to_category": _judge_text,
    "region_to_description": _judge_text,
    "caption": _judge_caption,
    "detailed_caption": _judge_caption,
    "more_detailed_caption": _judge_caption,
    "ocr": _judge_words,
    "ocr_with_region": _judge_quads,
    "region_to_ocr": _judge_words,
}


def task_keys(example: Example) -> dict[str, object]:
    """Return the task's config keys for an example: its text or region."""
    if bins := _LOCATION.findall(example.input):
        return {"region": parse_region([(int(number) + 0.5) / 1000 for number in bins])}
    return {"text": example.input} if example.input else {}


def jobs(
    task: str, scenes: int, difficulty: Difficulty = NORMAL, first_seed: int = FIRST_SEED
) -> Iterator[tuple[Job, Scene, Example]]:
    """Yield a job with a random example of the task for each held-out scene that allows one."""
    spec = pipeline.tasks()[task]
    rng = np.random.default_rng(11)
    for index in range(scenes):
        scene = World(first_seed + index, difficulty=difficulty).scene(rng.random() * SCENE_SECONDS)
        if is_possible(task, scene):
            example = make_example(task, scene, rng)
            params = spec.parameters.model_validate(task_keys(example))
            frame = Frame("toy", 0, index, 0.0, 0.0, scene.time, scene.paint(WIDTH, HEIGHT))
            yield Job(DueTask("toy", Task(task, task, params), 0.0), frame), scene, example


def measure(engine: Engine, task: str, scenes: int, difficulty: Difficulty = NORMAL) -> Scores:
    """Run one task on all scenes, in batches as large as the engine takes."""
    scores: Scores = defaultdict(Score)
    remaining = jobs(task, scenes, difficulty)
    examples: dict[int, tuple[Scene, Example]] = {}
    while True:
        for _, (job, scene, example) in zip(range(engine.free()), remaining, strict=False):
            examples[job.frame.seq] = scene, example
            engine.admit([job])
        if not examples:
            return scores
        for result in engine.step():
            JUDGES[task](result.answer, *examples.pop(result.job.frame.seq), scores)


def _line(name: str, row: dict[str, float | int | None]) -> str:
    cells = (
        "-" if row[key] is None else f"{row[key]:.3f}" for key in ("recall", "precision", "mean_iou", "false_finds")
    )
    return f"{name:36}" + "".join(f"{cell:>12}" for cell in cells) + f"{row['expected']:9}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=200, help="scenes per task [200]")
    parser.add_argument("--tasks", nargs="*", default=list(JUDGES), choices=list(JUDGES), help="tasks to run [all]")
    parser.add_argument("--hard", action="store_true", help="small, overlapping and noisy objects")
    parser.add_argument("--checkpoint", help="checkpoint folder [the shipped model]")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/accuracy.json")
    args = parser.parse_args()
    engine = pipeline.open(pipeline.settings(checkpoint=args.checkpoint))
    columns = "".join(f"{name:>12}" for name in ("recall@0.5", "precision", "mean IoU", "false finds"))
    print(f"{f'{args.scenes} scenes':36}{columns}{'expected':>9}")
    rows = {}
    for task in args.tasks:
        started = time.monotonic()
        for kind, score in measure(engine, task, args.scenes, HARD if args.hard else NORMAL).items():
            name = f"{task}, {kind}" if kind else task
            rows[name] = score.row()
            print(_line(name, rows[name]), flush=True)
        rows[task] = {**rows.get(task, {}), "seconds": round(time.monotonic() - started, 1)}
    if args.write:
        write("accuracy", {"scenes": args.scenes, "tasks": rows})


if __name__ == "__main__":
    main()
