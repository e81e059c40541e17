"""Our words, pixels, tokens and readings against transformers' own: `python -m benchmarks.exactness [--write]`.

Theirs is `AutoProcessor` and `generate`, one call per answer. Ours is the fast engine, without drafts, once on the
processor's pixels and once on its own; all in float32. The shipped model answers
all tasks, greedily and with beams; the base architecture with random weights writes a forced number of tokens; made-up
answers of all kinds are read by both.
Ends with 1 when anything is below what it must be.
"""

from __future__ import annotations

import argparse
import copy
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from transformers import AutoProcessor, Florence2ForConditionalGeneration

from benchmarks.engine import base, processor_of
from benchmarks.report import write
from pipelines.florence2.checkpoint import Checkpoint, load
from pipelines.florence2.checkpoint_files import SHIPPED, open_folder
from pipelines.florence2.fast.engine import FastEngine
from pipelines.florence2.parse import parse
from pipelines.florence2.processor import Generation
from pipelines.florence2.tasks import BINS, FLORENCE_TASKS, SPECS, Form, Quality
from pipelines.florence2.training.checkpoint_builder import POST_PROCESSOR
from streamer.toyworld.world import World
from streamer.types import Answer, DueTask, Frame, Image, Job, Point, Polygon, Quad, Task

FIRST_SEED = 800_000
SIZES = ((640, 480), (1280, 720), (333, 500))
BEAMS = 3
CAP = 128
"""Tokens of an answer that are compared."""
FORCED = 32
LEAST = {"ids": 1.0, "tokens_on_their_pixels": 1.0, "tokens_on_our_pixels": 0.99}
TEXTS = (
    "a red circle",
    "two {odd} stars, and the word: CAFÉ",
    "the large blue ring to the left of a small cross.",
    "星",
)


@dataclass
class Tally:
    """Counts over the questions of one run."""

    asked: int = 0
    equal: Counter[str] = field(default_factory=Counter)
    different: Counter[str] = field(default_factory=Counter)
    """Answers that differ on our pixels, by task."""
    most_levels: float = 0.0
    """The largest difference between two pixels."""
    ended: int = 0
    tokens: int = 0

    def row(self) -> dict[str, Any]:
        shares = {what: self.equal[what] / max(1, self.asked) for what in LEAST}
        return {"asked": self.asked, "ended": self.ended, "tokens": self.tokens, **shares,
                "different_on_our_pixels": dict(self.different), "most_levels": round(self.most_levels, 3)}  # fmt: skip

    def is_enough(self) -> bool:
        return all(self.equal[what] >= least * self.asked for what, least in LEAST.items())


class Sides:
    """One checkpoint, as transformers uses it and as we do."""

    def __init__(self, checkpoint: Checkpoint, processor: Any, model: Any) -> None:
        self.processor, self.model = processor, model
        self.engine = FastEngine(checkpoint, len(SPECS), drafts=False)
        self._eos: int = checkpoint.tokenizer.eos_token_id
        self._std = torch.tensor(checkpoint.images.std).view(3, 1, 1)
        self._written: dict[int, list[int]] = {}
        decode = self.engine.processor.decode

        def record(job: Job, max_tokens: int, generation: Generation) -> Answer | str:
            self._written[id(job)] = self._cut(generation.tokens, max_tokens)
            return decode(job, max_tokens, generation)

        self.engine.processor.decode = record  # type: ignore[method-assign]

    def compare(self, jobs: Sequence[Job], tally: Tally) -> None:
        """Ask both sides the same about one picture."""
        image, quality = jobs[0].frame.image, jobs[0].due.task.params.quality
        theirs: list[list[int]] = []
        pixels = torch.empty(0)
        for job in jobs:
            words = FLORENCE_TASKS[job.due.task.task].token + self._given(job)
            inputs = self.processor(text=words, images=image[..., ::-1].copy(), return_tensors="pt")
            tally.equal["ids"] += self.engine.processor.encode(job).ids == inputs["input_ids"][0].tolist()
            pixels = inputs["pixel_values"][0]
            theirs.append(self._generate(inputs, quality, job.due.task.params.max_tokens))
        preprocess = self.engine.image_cache.preprocess
        apart = (preprocess(image) - pixels).abs() * self._std * 255
        tally.most_levels = max(tally.most_levels, float(apart.max()))
        tally.asked += len(jobs)
        tally.ended += sum(tokens[-1] == self._eos for tokens in theirs)
        tally.tokens += sum(map(len, theirs))
        for job, ours, right in zip(jobs, self._answer(jobs), theirs, strict=True):
            tally.equal["tokens_on_our_pixels"] += ours == right
            tally.different[job.due.task.task] += ours != right
        tally.different = +tally.different
        self.engine.image_cache.preprocess = lambda _: pixels
        pairs = zip(self._answer(jobs), theirs, strict=True)
        tally.equal["tokens_on_their_pixels"] += sum(ours == right for ours, right in pairs)
        self.engine.image_cache.preprocess = preprocess

    def _given(self, job: Job) -> str:
        """The job's text, or its region by their own quantisation."""
        params = job.due.task.params
        if not hasattr(params, "region"):
            return str(getattr(params, "text", ""))
        height, width, _ = job.frame.image.shape
        region = params.region
        corners = [region.x0 * width, region.y0 * height, region.x1 * width, region.y1 * height]
        bins = self.processor.post_processor.quantize(torch.tensor([corners], dtype=torch.float64), (width, height))
        return locations(bins[0].tolist())

    def _generate(self, inputs: Any, quality: Quality, cap: int) -> list[int]:
        beams: dict[str, Any] = {"num_beams": 1, "early_stopping": False} if quality == "fast" else {"num_beams": BEAMS}
        # One more than is compared: at the very last place an end may be forced, and that is no real end.
        with torch.inference_mode():
            made = self.model.generate(**inputs, **beams, do_sample=False, max_new_tokens=cap + 1, max_length=None)
        return self._cut(made[0].tolist(), cap)

    def _answer(self, jobs: Sequence[Job]) -> list[list[int]]:
        self.engine.image_cache.clear()
        self.engine.admit(jobs)
        done = 0
        while done < len(jobs):
            done += len(self.engine.step())
        return [self._written.pop(id(job)) for job in jobs]

    def _cut(self, tokens: list[int], cap: int) -> list[int]:
        """What was written behind the start token, its end included."""
        written = tokens[1 : cap + 1]
        return written[: written.index(self._eos) + 1] if self._eos in written else written


def shipped() -> Sides:
    """The small model, whatever its own settings say with the same number of beams on both sides."""
    checkpoint = load(open_folder(None), "cpu", "float32")
    checkpoint.generation.num_beams = BEAMS
    model: Any = Florence2ForConditionalGeneration.from_pretrained(
        SHIPPED, local_files_only=True, dtype=torch.float32, attn_implementation="sdpa"
    )
    return Sides(checkpoint, AutoProcessor.from_pretrained(SHIPPED, local_files_only=True), model.eval())


def random_base() -> Sides:
    """Florence-2 base with random weights that never end an answer."""
    checkpoint = base(torch.float32)
    return Sides(checkpoint, processor_of(checkpoint), copy.deepcopy(checkpoint.model))


def jobs(number: int, quality: Quality, cap: int, tasks: Sequence[str] = tuple(SPECS)) -> list[Job]:
    """All tasks about one picture of the drawn world, with words and a region of its own."""
    rng = np.random.default_rng([FIRST_SEED, number])
    width, height = SIZES[number % len(SIZES)]
    image: Image = World(FIRST_SEED + number).scene(float(rng.uniform(0, 10))).paint(width, height)
    frame = Frame("toy", 0, number, 0.0, 0.0, 0.0, image)
    (x0, x1), (y0, y1) = (sorted(rng.random(2).tolist()) for _ in range(2))
    made = []
    for task in tasks:
        given: dict[str, Any] = {"quality": quality, "max_tokens": cap}
        if SPECS[task].takes_text:
            given["text"] = TEXTS[number % len(TEXTS)]
        if SPECS[task].takes_region:
            given["region"] = (x0, y0, x1, y1)
        made.append(Job(DueTask("toy", Task(task, task, SPECS[task].parameters.model_validate(given)), 0.0), frame))
    return made


WORDS = ("car", "a red circle", "two people,", "EXIT", "it", "no. 7", "(left)")
READ_SIZES = ((1000, 2000), (2000, 500), (4000, 1000))
"""The middle of a bin is a whole number of pixels or a half there, so that the library's cut is exact too."""


def well_formed(form: Form, rng: np.random.Generator) -> str:
    """An answer of that kind; of boxes and masks it has only one, since the library reads no mixture."""
    masked = form == "polygons" or (form == "boxes_or_polygons" and rng.random() < 0.5)
    parts = []
    for _ in range(rng.integers(1, 5)):
        words = " ".join(rng.choice(WORDS, rng.integers(1, 4)))
        corners = np.sort(rng.integers(0, BINS, (rng.integers(1, 4), 2, 2)), axis=1).flatten().tolist()
        rings = [rng.integers(0, BINS, 2 * rng.integers(3, 7)).tolist() for _ in range(rng.integers(1, 3))]
        if form == "text":
            marks = " "
        elif form == "quads":
            marks = locations(rng.integers(0, BINS, 8).tolist())
        elif masked:
            marks = f"<poly>{'<sep>'.join(map(locations, rings))}</poly>"
        else:
            marks = locations(corners)
        parts.append(marks if form in ("regions", "polygons") else words + marks)
    return f"</s><s>{''.join(parts)}</s>"


def locations(bins: Sequence[int]) -> str:
    return "".join(f"<loc_{place}>" for place in bins)


def as_theirs(answer: Answer, size: tuple[int, int]) -> list[Any]:
    """Our answer in whole pixels: its text, or each shape's corners and label."""
    if answer.text is not None:
        return [answer.text]
    outlines: list[Polygon | Quad] = [*answer.polygons, *answer.quads]
    shapes: list[tuple[tuple[Point, ...], str]] = [
        *((((box.x0, box.y0), (box.x1, box.y1)), box.label) for box in answer.boxes),
        *((outline.points, outline.label) for outline in outlines),
    ]
    # The tiny addend: 0.5005 * 2000 is 1000.9999999.
    return [([int(value * side + 1e-6) for point in points for value, side in zip(point, size, strict=True)], label)
            for points, label in shapes]  # fmt: skip


def flat(theirs: Any) -> list[Any]:
    """The library's answer, in the same way; the rings of its masks one by one."""
    if isinstance(theirs, str):
        return [theirs]
    shapes: list[Any] = []
    for corners in {"bboxes", "quad_boxes", "polygons"} & theirs.keys():
        for found, label in zip(theirs[corners], theirs.get(f"{corners}_labels", theirs.get("labels")), strict=True):
            shapes += [(ring, label) for ring in found] if corners == "polygons" else [(found, label)]
    return shapes


def readings(processor: Any, count: int) -> dict[str, Any]:
    """How many well-formed answers of all kinds are read as the library reads them, and the first that is not."""
    rng = np.random.default_rng(FIRST_SEED)
    banned = frozenset(POST_PROCESSOR["phrase_grounding"]["banned_grounding_tokens"])
    rows, equal, first = list(FLORENCE_TASKS.values()), 0, None
    for number in range(count):
        row, size = rows[number % len(rows)], READ_SIZES[number % len(READ_SIZES)]
        text = well_formed(row.form, rng)
        theirs = flat(processor.post_process_generation(text, task=row.token, image_size=size)[row.token])
        if as_theirs(parse(row.form, text, banned), size) == theirs:
            equal += 1
        else:
            first = first or [row.name, text]
    return {"asked": count, "equal": equal / count, "first_different": first}


def compare(sides: Sides, images: int, quality: Quality, cap: int) -> Tally:
    """All tasks on that many pictures."""
    tally = Tally()
    for number in range(images):
        sides.compare(jobs(number, quality, cap), tally)
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200, help="pictures for greedy answers of the shipped model")
    parser.add_argument("--beam-images", type=int, default=50, help="pictures for answers with beams")
    parser.add_argument("--base-images", type=int, default=2, help="pictures for the random base architecture")
    parser.add_argument("--tokens", type=int, default=CAP, help="longest answer of the shipped model")
    parser.add_argument("--strings", type=int, default=10_000, help="well-formed answers that are read")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="keep the result in benchmarks/results/")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sides = shipped()
    runs: dict[str, Callable[[], Tally]] = {
        "shipped, greedy": lambda: compare(sides, args.images, "fast", args.tokens),
        "shipped, beams": lambda: compare(sides, args.beam_images, "official", args.tokens),
        "base, greedy, forced": lambda: compare(random_base(), args.base_images, "fast", FORCED),
    }
    tallies: dict[str, Tally] = {}
    for name, run in runs.items():
        tallies[name] = run()
        print(f"{name:24}{tallies[name].row()}", flush=True)
    read = readings(sides.processor, args.strings)
    print(f"{'answers read alike':24}{read}")
    if args.write:
        write("exactness", {**{name: tally.row() for name, tally in tallies.items()}, "answers read alike": read})
    return 0 if read["equal"] == 1 and all(tally.is_enough() for tally in tallies.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
