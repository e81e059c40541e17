"""A model learns one new camera: `python -m benchmarks.data_engine [--write]`.

The camera (`new_camera.py`) draws other colours, textures, blur and another viewpoint than the world that the shipped
model was trained on (the old world), and two kinds of objects that the model has not seen. There are two such cameras:
`similar`, of whose objects the model finds 0.57, and `strange`, of whose objects it finds 0.37. Measured are the
labels of the shipped model before and after filters, also with the scores that are fitted to reviewed pictures, and two
trainings:

1. self: the shipped model labels the pictures, filters remove what is probably wrong, and the model is trained on the
   rest.
2. reviewed: 100 pictures have right labels, as after a review, and the shipped model is trained on them. Each picture
   shows another scene, as `streamer dataset collect` chooses them; the last ones by time end the training. Four tasks
   are made of the labels, so that each picture says more about its kinds of objects, and fifteen pictures are composed
   of each, others in each epoch.

Both trainings also get pictures of the old world, labelled by the shipped model itself (the rehearsal), so that the
model does not forget it. Both models are scored with later pictures of the camera, and with further pictures of the old
world.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from benchmarks.new_camera import HEIGHT, KINDS, LOOKS, WIDTH, Look, shot
from benchmarks.report import merge
from pipelines.dataset import filters
from pipelines.dataset.annotate import Shot
from pipelines.dataset.derive import examples
from pipelines.dataset.filter_options import fitted
from pipelines.dataset.filters import AnsweredPicture, FilterTable, Objects
from pipelines.dataset.gather import detected_objects
from pipelines.dataset.labels import LabelledObject, LabelledPicture, Labels
from pipelines.dataset.metrics.detection import matched_by_label, overall, score_labels
from pipelines.dataset.split import split_by_time
from pipelines.florence2.checkpoint_files import open_folder
from pipelines.florence2.examples import Example
from pipelines.florence2.finetune.run import train
from pipelines.florence2.finetune.settings import TrainingSettings
from pipelines.florence2.pipeline import pipeline
from pipelines.florence2.tasks import SPECS
from streamer.toyworld.world import SCENE_SECONDS, World
from streamer.types import Answer, DueTask, Engine, Frame, Image, Job, Task

CAMERA = 1
INTERVAL_S = 1.0
"""Seconds between two pictures of the camera."""
COLLECTED, REVIEWED, JUDGES, TESTED = 400, 100, 60, 200
"""Pictures that the model labels, that are reviewed, that end the training on own labels, and that are scored."""
HELD_OUT_SHARE = 0.15
"""Share of the reviewed pictures that ends the training on the others."""
PRECISION = 0.97
"""Share of right labels that the fitted scores should reach."""
OLD_TESTED = 300
OLD_SEED, REHEARSAL_SEED = 500_000, 910_000
ASKED = ("object_detection", "region_proposal", "dense_region_caption")
TAUGHT = ("object_detection",)
"""Tasks of own labels, of the rehearsal and of the pictures that end a training."""
TAUGHT_REVIEWED = ("object_detection", "region_proposal", "open_vocabulary_detection", "region_to_category")
SELF = {"rate": 3e-4, "epochs": 15, "batch": 16, "patience": 3}
BY_REVIEW = {"rate": 4e-4, "epochs": 9, "batch": 32, "patience": 9, "composed": 15}
"""Settings of the two trainings."""


def answer(engine: Engine, images: Sequence[Image], tasks: Sequence[str]) -> list[dict[str, Answer]]:
    """Return the answers about each image by task."""
    answers: list[dict[str, Answer]] = [{} for _ in images]
    made = [Task(name, name, SPECS[name].parameters()) for name in tasks]
    for number, image in enumerate(images):
        frame = Frame(str(number), 0, number, 0.0, 0.0, None, image)
        engine.admit([Job(DueTask(str(number), task, 1e12), frame) for task in made])
        while len(answers[number]) < len(tasks):
            for result in engine.step():
                answers[number][result.job.due.task.task] = result.answer
    return answers


def objects_of(engine: Engine, images: Sequence[Image]) -> Objects:
    answers = answer(engine, images, ["object_detection"])
    return detected_objects([AnsweredPicture("", one) for one in answers])


def scored(found: Objects, truth: Sequence[Sequence[LabelledObject]]) -> dict[str, float | None]:
    """Return recall, precision and average precision over all labels."""
    one = overall(score_labels(list(zip(found, truth, strict=True))))
    return {"recall": round(one.recall, 4), "precision": round(one.precision, 4), "ap50": round(one.ap50 or 0, 4)}


def recall_at(found: Objects, truth: Sequence[Sequence[LabelledObject]], precision: float) -> float:
    """Return the highest recall among the score limits at which all labels together have at least this precision."""
    by_label = matched_by_label(list(zip(found, truth, strict=True)))
    matches = sorted(chain.from_iterable(by_label.values()), key=lambda match: match.score, reverse=True)
    expected, right, best = sum(map(len, truth)), 0, 0.0
    for count, match in enumerate(matches, start=1):
        right += match.is_right
        if right / count >= precision:
            best = right / expected
    return best


class Bench:
    """The pictures of the new camera and of the old world, and the shipped model's answers."""

    def __init__(self, look: Look, rehearsed: int) -> None:
        self.base = pipeline.open(pipeline.settings(checkpoint=None, device="cpu"))
        times = [number * INTERVAL_S for number in range(COLLECTED + JUDGES)]
        # Reviewed scenes are later, tested ones an hour later; each picture shows another scene.
        reviewed = [600 + number * SCENE_SECONDS + 5.0 for number in range(REVIEWED)]
        times += reviewed + [3600 + number * SCENE_SECONDS + 5.0 for number in range(TESTED)]
        shots = [shot(CAMERA, time, look) for time in times]
        self.images = {f"new/{number}": one.image for number, one in enumerate(shots)}
        names = list(self.images)
        self.truth = {name: one.objects for name, one in zip(names, shots, strict=True)}
        self.collected, rest = names[:COLLECTED], names[COLLECTED:]
        self.judges, rest = rest[:JUDGES], rest[JUDGES:]
        places = [Shot(name, "camera", time) for name, time in zip(rest, reviewed, strict=False)]
        learned, held_out = split_by_time(places, HELD_OUT_SHARE, gap=0.0)
        self.learned, self.held_out = [one.image for one in learned], [one.image for one in held_out]
        self.tested = rest[REVIEWED:]
        scenes = [World(OLD_SEED + number).scene(3.0 + SCENE_SECONDS * (number % 5)) for number in range(OLD_TESTED)]
        self.old_images = [scene.paint(WIDTH, HEIGHT) for scene in scenes]
        self.old_truth = [[LabelledObject(thing.kind, thing.box) for thing in scene.objects] for scene in scenes]
        rehearsal = [World(REHEARSAL_SEED + number).scene(3.0).paint(WIDTH, HEIGHT) for number in range(rehearsed)]
        self.images |= {f"old/{number}": image for number, image in enumerate(rehearsal)}
        found = objects_of(self.base, rehearsal)
        self.rehearsal = [
            example for number, some in enumerate(found) for example in self.taught(f"old/{number}", some)
        ]

    def taught(self, name: str, objects: Sequence[LabelledObject], tasks: Sequence[str] = TAUGHT) -> list[Example]:
        return list(examples(LabelledPicture(name, WIDTH, HEIGHT, tuple(objects)), tasks))

    def judge(self, engine: Engine, base_precision: float | None = None) -> dict[str, Any]:
        """Return the scores of a model on the new camera and in the old world."""
        truth = [self.truth[name] for name in self.tested]
        found = objects_of(engine, [self.images[name] for name in self.tested])
        scores: dict[str, Any] = {"new": scored(found, truth)}
        if base_precision is not None:
            scores["new"]["recall at the shipped model's precision"] = round(recall_at(found, truth, base_precision), 4)
        scores["old"] = scored(objects_of(engine, self.old_images), self.old_truth)
        return scores

    def train(self, examples: Sequence[Example], judges: Sequence[Example], **settings: Any) -> tuple[Engine, Any]:
        """Return the model trained on examples and the rehearsal, and the training's record."""
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "trained"
            record = train(
                open_folder(None),
                out,
                TrainingSettings(full=True, vision=True, **settings),
                examples,
                judges,
                self.images.__getitem__,
                lambda line: print("  " + line, flush=True),
                "cpu",
                self.rehearsal,
            )
            return pipeline.open(pipeline.settings(checkpoint=str(out), device="cpu")), record

    def answered(self, names: Sequence[str], interval: float | None = None) -> list[AnsweredPicture]:
        """Return pictures with the shipped model's answers; `interval`: seconds between them, if they are near."""
        answers = answer(self.base, [self.images[name] for name in names], ASKED)
        return [
            AnsweredPicture(name, one, "camera", None if interval is None else number * interval)
            for number, (name, one) in enumerate(zip(names, answers, strict=True))
        ]

    def self_labels(self) -> tuple[Objects, FilterTable, dict[str, Any]]:
        """Return the shipped model's labels of the collected pictures after the filters, and their precision.

        `fitted` in the last one: after filters whose scores were fitted to the reviewed pictures.
        """
        pictures = self.answered(self.collected, INTERVAL_S)
        before = detected_objects(pictures)
        steps = [
            filters.by_size(),
            filters.by_overlap(),
            filters.by_agreement(["region_proposal", "dense_region_caption"]),
            filters.by_tracks(1.5 * INTERVAL_S),
        ]
        after, table = filters.run([*steps, filters.by_score(0.3)], pictures, before)
        of_score = filters.by_score(*self._limits(steps))
        sets = {"before": before, "after": after, "fitted": filters.run([*steps, of_score], pictures, before)[0]}
        truth = [self.truth[name] for name in self.collected]
        quality = {name: scored(some, truth) | {"kept": kept(some, before)} for name, some in sets.items()}
        return after, table, quality

    def _limits(self, steps: Sequence[filters.Step]) -> tuple[float, Mapping[str, float]]:
        """Return the lowest score, and those of single labels, fitted to the reviewed pictures."""
        pictures = self.answered([*self.learned, *self.held_out])
        objects, _ = filters.run(steps, pictures, detected_objects(pictures))
        reviewed = (LabelledPicture(one.image, WIDTH, HEIGHT, self.truth[one.image]) for one in pictures)
        return fitted(pictures, objects, Labels(KINDS, tuple(reviewed)), PRECISION, "reviewed pictures")


def kept(some: Objects, before: Objects) -> float:
    return round(sum(map(len, some)) / max(1, sum(map(len, before))), 4)


def _effort(record: Any, started: float) -> dict[str, Any]:
    losses = {"held-out loss": [round(record["held_out_loss_before"], 4), round(record["best"], 4)]}
    return {**losses, "steps": record["best_step"], "seconds": round(time.monotonic() - started)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data_engine")
    parser.add_argument("--only", choices=("labels", "self", "reviewed"), help="measure only this part [all]")
    parser.add_argument("--camera", choices=LOOKS, default="strange", help="how its pictures look [strange]")
    parser.add_argument("--rate", type=float, help="learning rate [self: 3e-4, reviewed: 4e-4]")
    parser.add_argument("--epochs", type=int, help="passes over the examples at most [self: 15, reviewed: 9]")
    parser.add_argument(
        "--rehearsed", type=int, default=2000, help="pictures of the old world that are mixed in [2000]"
    )
    parser.add_argument("--threads", type=int, default=2, help="threads of torch [2]")
    parser.add_argument("--write", action="store_true", help="store the result in benchmarks/results/data_engine.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    bench, result = Bench(LOOKS[args.camera], args.rehearsed), dict[str, Any]()
    given = {name: value for name in ("rate", "epochs") if (value := getattr(args, name)) is not None}
    result["shipped"] = bench.judge(bench.base)
    print("shipped", result["shipped"], flush=True)
    precision = result["shipped"]["new"]["precision"]
    if args.only in (None, "labels", "self"):
        labels, table, quality = bench.self_labels()
        rows = [{"filter": row.name, "removed": sum(row.removed.values()), "added": sum(row.added.values()),
                 "kept": row.kept, "why": row.why} for row in table.rows]  # fmt: skip
        result["self labels"] = {"quality": quality, "filters": rows}
        print("labels", quality, *rows, sep="\n  ", flush=True)
    if args.only in (None, "self"):
        split = COLLECTED - JUDGES
        taught = [one for name, some in zip(bench.collected, labels, strict=True) for one in bench.taught(name, some)]
        started = time.monotonic()
        engine, record = bench.train(taught[:split], taught[split:], **SELF | given)
        result["self"] = {**bench.judge(engine, precision), **_effort(record, started)}
        print("self", result["self"], flush=True)
    if args.only in (None, "reviewed"):
        truth = bench.truth
        learned = [one for name in bench.learned for one in bench.taught(name, truth[name], TAUGHT_REVIEWED)]
        judges = [one for name in bench.held_out for one in bench.taught(name, truth[name])]
        started = time.monotonic()
        engine, record = bench.train(learned, judges, **BY_REVIEW | given)
        result["reviewed"] = {**bench.judge(engine, precision), **_effort(record, started)}
        print("reviewed", result["reviewed"], flush=True)
    if args.write:
        merge("data_engine", {f"{args.camera}: {part}": row for part, row in result.items()})


if __name__ == "__main__":
    main()
