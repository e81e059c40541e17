"""How true the shipped model's answers are, on worlds it was never trained on: `python benchmarks/accuracy.py`.

Boxes are right when label and place (IoU at least 0.5) match one object each; captions are taken apart into facts.
Prints a table, and writes it as JSON with the machine and the commit with `--write`.
"""

from __future__ import annotations

import argparse
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from report import write

from pipelines.florence2 import pipeline
from pipelines.parse import parse
from pipelines.training.answers import ask, caption
from streamer.demo import Rect, match
from streamer.settings import parse_region
from streamer.toyworld import SCENE_SECONDS, Scene, Thing, World
from streamer.types import Answer, Box, Due, Engine, Frame, Job

FIRST_SEED = 500_000
WIDTH, HEIGHT = 640, 480
_LOCATION = re.compile(r"<loc_(\d+)>")


@dataclass
class Score:
    """Counts of one task."""

    right: int = 0
    wanted: int = 0
    given: int = 0
    overlaps: list[float] = field(default_factory=list)

    def row(self) -> dict[str, float | int | None]:
        return {
            "recall": round(self.right / max(1, self.wanted), 4),
            "precision": round(self.right / max(1, self.given), 4),
            "mean_iou": round(float(np.mean(self.overlaps)), 4) if self.overlaps else None,
            "wanted": self.wanted,
        }


def count_boxes(found: Sequence[Box], truth: Sequence[tuple[str, Rect]], score: Score) -> None:
    """Count each object that a box of its label covers."""
    rows = match([(box.label, (box.x0, box.y0, box.x1, box.y1)) for box in found], truth)
    score.wanted += len(truth)
    score.given += len(found)
    score.right += sum(row.found for row in rows)
    score.overlaps += [row.iou for row in rows if row.found]


def count_facts(said: str, truth: str, score: Score) -> None:
    """Facts are the counted phrases of a caption: `two blue stars`."""
    facts, wanted = (Counter(re.split(r", | and ", text)) for text in (said, truth))
    score.wanted += wanted.total()
    score.given += facts.total()
    score.right += (facts & wanted).total()


def _box_judge(label: Callable[[Thing], str]) -> Callable[[Answer, Scene, str, Score], None]:
    def judge(answer: Answer, scene: Scene, _: str, score: Score) -> None:
        count_boxes(answer.boxes, [(label(thing), thing.box) for thing in scene.objects], score)

    return judge


def _judge_text(answer: Answer, _: Scene, truth: str, score: Score) -> None:
    score.wanted += 1
    score.given += 1
    score.right += (answer.text or "") == truth


def _judge_caption(answer: Answer, scene: Scene, _: str, score: Score) -> None:
    count_facts(answer.text or "", caption(scene), score)


def _judge_sentences(answer: Answer, _: Scene, truth: str, score: Score) -> None:
    said, wanted = (Counter(re.split(r"[:,.] | and |\.$", text)) for text in (answer.text or "", truth))
    score.wanted += wanted.total()
    score.given += said.total()
    score.right += (said & wanted).total()


def _judge_search(answer: Answer, _: Scene, truth: str, score: Score) -> None:
    boxes = parse("boxes", truth).boxes
    count_boxes(answer.boxes, [(box.label, (box.x0, box.y0, box.x1, box.y1)) for box in boxes], score)


JUDGES: dict[str, Callable[[Answer, Scene, str, Score], None]] = {
    "object_detection": _box_judge(lambda thing: thing.kind),
    "dense_region_caption": _box_judge(lambda thing: f"{thing.size} {thing.colour} {thing.kind}"),
    "region_proposal": _box_judge(lambda thing: ""),
    "open_vocabulary_detection": _judge_search,
    "phrase_grounding": _judge_search,
    "caption": _judge_caption,
    "detailed_caption": _judge_sentences,
    "more_detailed_caption": _judge_sentences,
    "region_to_category": _judge_text,
    "region_to_description": _judge_text,
}


def _given(task: str, prompt: str) -> dict[str, object]:
    """The task's own keys, taken back out of the prompt that training would have used."""
    if bins := _LOCATION.findall(prompt):
        return {"region": parse_region([(int(number) + 0.5) / 1000 for number in bins])}
    if task == "open_vocabulary_detection":
        return {"text": prompt.removeprefix("Locate ").removesuffix(" in the image.")}
    if task == "phrase_grounding":
        return {"text": prompt.removeprefix("Locate the phrases in the caption: ")}
    return {}


def jobs(task: str, scenes: int) -> Iterator[tuple[Job, Scene, str]]:
    """One question of this task for each of the held-out scenes, with the right answer's text."""
    spec = pipeline.tasks()[task]
    rng = np.random.default_rng(11)
    for index in range(scenes):
        scene = World(FIRST_SEED + index).scene(rng.random() * SCENE_SECONDS)
        prompt, truth = ask(task, scene, rng)
        params = spec.parameters.model_validate(_given(task, prompt))
        frame = Frame("toy", 0, index, 0.0, 0.0, scene.time, scene.paint(WIDTH, HEIGHT))
        yield Job(Due("toy", task, task, params, 0.0), frame), scene, truth


def measure(engine: Engine, task: str, scenes: int) -> Score:
    """Ask one task of all scenes, in batches as large as the engine takes."""
    score = Score()
    asked = list(jobs(task, scenes))
    known = {job.frame.seq: (scene, truth) for job, scene, truth in asked}
    while asked:
        batch, asked = asked[: engine.free()], asked[engine.free() :]
        engine.admit([job for job, _, _ in batch])
        for result in engine.step():
            JUDGES[task](result.answer, *known[result.job.frame.seq], score)
    return score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--tasks", nargs="*", default=list(JUDGES), choices=list(JUDGES))
    parser.add_argument("--checkpoint", help="folder of a checkpoint [the shipped one]")
    parser.add_argument("--write", action="store_true", help="keep the table in benchmarks/results/")
    args = parser.parse_args()
    engine = pipeline.open(pipeline.settings(checkpoint=args.checkpoint))
    print(f"{'task':28} {'recall@0.5':>10} {'precision':>10} {'mean IoU':>9} {'wanted':>7}   ({args.scenes} scenes)")
    rows = {}
    for task in args.tasks:
        started = time.monotonic()
        row = rows[task] = measure(engine, task, args.scenes).row()
        shown = "-" if row["mean_iou"] is None else f"{row['mean_iou']:.3f}"
        print(f"{task:28} {row['recall']:10.3f} {row['precision']:10.3f} {shown:>9} {row['wanted']:7}"
              f"   {(time.monotonic() - started) / args.scenes * 1000:.0f} ms/scene", flush=True)  # fmt: skip
    if args.write:
        write("accuracy", {"scenes": args.scenes, "tasks": rows})


if __name__ == "__main__":
    main()
