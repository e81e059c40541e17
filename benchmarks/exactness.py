"""Equality of prompts, pixels, tokens and parsed answers with transformers: `python -m benchmarks.exactness`.

The library side is `AutoProcessor` and `generate`, one call per answer. Our side is the fast engine without drafts, in
float32, once on the library's pixels and once on its own. The shipped model answers all tasks with greedy search and
with beams, Florence-2 base with random weights generates a fixed number of tokens, and both sides parse random answers.
Exits with 1 when a share is below its minimum.
"""

from __future__ import annotations

import argparse
import dataclasses
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
MAX_TOKENS = 128
"""Tokens of an answer that are compared."""
FORCED = 32
"""Tokens of each answer of Florence-2 base."""
REQUIRED = {"ids": 1.0, "tokens_on_their_pixels": 1.0, "tokens_on_our_pixels": 0.99}
TEXTS = (
    "a red circle",
    "two {odd} stars, and the word: CAFÉ",
    "the large blue ring to the left of a small cross.",
    "星",
)


@dataclass
class Tally:
    """Counts over the jobs of one run."""

    jobs: int = 0
    equal: Counter[str] = field(default_factory=Counter)
    different: Counter[str] = field(default_factory=Counter)
    """Answers on our pixels that differ, by task."""
    max_level_difference: float = 0.0
    """Largest difference of a pixel, in levels."""
    ended: int = 0
    tokens: int = 0

    def row(self) -> dict[str, Any]:
        shares = {what: self.equal[what] / max(1, self.jobs) for what in REQUIRED}
        return {
            "jobs": self.jobs,
            "ended": self.ended,
            "tokens": self.tokens,
            **shares,
            "different_on_our_pixels": dict(self.different),
            "max_level_difference": round(self.max_level_difference, 3),
        }

    def is_enough(self) -> bool:
        return all(self.equal[what] >= share * self.jobs for what, share in REQUIRED.items())


class Comparison:
    """One checkpoint in transformers and in the fast engine."""

    def __init__(self, checkpoint: Checkpoint, processor: Any, model: Any) -> None:
        self.processor, self.model = processor, model
        self.engine = FastEngine(checkpoint, len(SPECS), drafts="off")
        self._eos: int = checkpoint.tokenizer.eos_token_id
        self._std = torch.tensor(checkpoint.images.std).view(3, 1, 1)
        self._tokens: dict[int, list[int]] = {}
        decode = self.engine.processor.decode

        def record(job: Job, max_tokens: int, generation: Generation) -> Answer | str:
            self._tokens[id(job)] = self._cut(generation.tokens, max_tokens)
            return decode(job, max_tokens, generation)

        self.engine.processor.decode = record  # type: ignore[method-assign]

    def compare(self, jobs: Sequence[Job], tally: Tally) -> None:
        """Run jobs about one image on both sides and count equal outcomes."""
        image, quality = jobs[0].frame.image, jobs[0].due.task.params.quality
        theirs: list[list[int]] = []
        pixels = torch.empty(0)
        for job in jobs:
            prompt = FLORENCE_TASKS[job.due.task.task].token + self._input(job)
            inputs = self.processor(text=prompt, images=image[..., ::-1].copy(), return_tensors="pt")
            ids, _ = self.engine.processor.encode(job)
            tally.equal["ids"] += ids == inputs["input_ids"][0, -len(ids) :].tolist()
            pixels = inputs["pixel_values"][0]
            theirs.append(self._generate_theirs(inputs, quality, job.due.task.params.max_tokens))
        preprocess = self.engine.image_cache.preprocess
        difference = (preprocess(image) - pixels).abs() * self._std * 255
        tally.max_level_difference = max(tally.max_level_difference, float(difference.max()))
        tally.jobs += len(jobs)
        tally.ended += sum(tokens[-1] == self._eos for tokens in theirs)
        tally.tokens += sum(map(len, theirs))
        for job, ours, expected in zip(jobs, self._generate_ours(jobs), theirs, strict=True):
            tally.equal["tokens_on_our_pixels"] += ours == expected
            tally.different[job.due.task.task] += ours != expected
        tally.different = +tally.different
        self.engine.image_cache.preprocess = lambda _: pixels
        pairs = zip(self._generate_ours(jobs), theirs, strict=True)
        tally.equal["tokens_on_their_pixels"] += sum(ours == expected for ours, expected in pairs)
        self.engine.image_cache.preprocess = preprocess

    def _input(self, job: Job) -> str:
        """Return the job's text, or its region as quantised by the library."""
        params = job.due.task.params
        if not hasattr(params, "region"):
            return str(getattr(params, "text", ""))
        height, width, _ = job.frame.image.shape
        region = params.region
        corners = [region.x0 * width, region.y0 * height, region.x1 * width, region.y1 * height]
        bins = self.processor.post_processor.quantize(torch.tensor([corners], dtype=torch.float64), (width, height))
        return locations(bins[0].tolist())

    def _generate_theirs(self, inputs: Any, quality: Quality, max_tokens: int) -> list[int]:
        beams: dict[str, Any] = {"num_beams": 1, "early_stopping": False} if quality == "fast" else {"num_beams": BEAMS}
        # One more than is compared: an end that is forced at the very last position is no real end.
        with torch.inference_mode():
            output = self.model.generate(
                **inputs, **beams, do_sample=False, max_new_tokens=max_tokens + 1, max_length=None
            )
        return self._cut(output[0].tolist(), max_tokens)

    def _generate_ours(self, jobs: Sequence[Job]) -> list[list[int]]:
        self.engine.image_cache.clear()
        self.engine.admit(jobs)
        done = 0
        while done < len(jobs):
            done += len(self.engine.step())
        return [self._tokens.pop(id(job)) for job in jobs]

    def _cut(self, tokens: list[int], max_tokens: int) -> list[int]:
        """Return the tokens behind the start token, up to and including the end."""
        cut = tokens[1 : max_tokens + 1]
        return cut[: cut.index(self._eos) + 1] if self._eos in cut else cut


def shipped() -> Comparison:
    """Compare the shipped model, with the same number of beams on both sides."""
    checkpoint = load(open_folder(None), "cpu", "float32")
    checkpoint = dataclasses.replace(
        checkpoint, generation=checkpoint.generation.model_copy(update={"num_beams": BEAMS})
    )
    model: Any = Florence2ForConditionalGeneration.from_pretrained(
        SHIPPED, local_files_only=True, dtype=torch.float32, attn_implementation="sdpa"
    )
    return Comparison(checkpoint, AutoProcessor.from_pretrained(SHIPPED, local_files_only=True), model.eval())


def random_base() -> Comparison:
    """Compare Florence-2 base with random weights; its answers never end."""
    made = base(torch.float32)
    return Comparison(made.checkpoint, processor_of(made.tokenizer), made.network)


def jobs(number: int, quality: Quality, max_tokens: int, tasks: Sequence[str] = tuple(SPECS)) -> list[Job]:
    """Return jobs of all tasks about toy scene `number`, with a text and a random region."""
    rng = np.random.default_rng([FIRST_SEED, number])
    width, height = SIZES[number % len(SIZES)]
    image: Image = World(FIRST_SEED + number).scene(float(rng.uniform(0, 10))).paint(width, height)
    frame = Frame("toy", 0, number, 0.0, 0.0, 0.0, image)
    (x0, x1), (y0, y1) = (sorted(rng.random(2).tolist()) for _ in range(2))
    made = []
    for task in tasks:
        keys: dict[str, Any] = {"quality": quality, "max_tokens": max_tokens}
        if SPECS[task].takes_text:
            keys["text"] = TEXTS[number % len(TEXTS)]
        if SPECS[task].takes_region:
            keys["region"] = (x0, y0, x1, y1)
        made.append(Job(DueTask("toy", Task(task, task, SPECS[task].parameters.model_validate(keys)), 0.0), frame))
    return made


WORDS = ("car", "a red circle", "two people,", "EXIT", "it", "no. 7", "(left)")
PARSE_SIZES = ((1000, 2000), (2000, 500), (4000, 1000))
"""Sizes in which the middle of a bin is a multiple of half a pixel, so that the library's rounding is exact."""


def well_formed(form: Form, rng: np.random.Generator) -> str:
    """Return a random answer of a form; boxes and masks are not mixed, since the library parses no mixture."""
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


def in_pixels(answer: Answer, size: tuple[int, int]) -> list[Any]:
    """Return our answer in whole pixels: its text, or the corners and label of each shape."""
    if answer.text is not None:
        return [answer.text]
    outlines: list[Polygon | Quad] = [*answer.polygons, *answer.quads]
    shapes: list[tuple[tuple[Point, ...], str]] = [
        *((((box.x0, box.y0), (box.x1, box.y1)), box.label) for box in answer.boxes),
        *((outline.points, outline.label) for outline in outlines),
    ]
    # 1e-6 because 0.5005 * 2000 is 1000.9999999.
    return [([int(value * side + 1e-6) for point in points for value, side in zip(point, size, strict=True)], label)
            for points, label in shapes]  # fmt: skip


def flatten(theirs: Any) -> list[Any]:
    """Return the library's answer in the format of `in_pixels`, each ring of a mask as a shape."""
    if isinstance(theirs, str):
        return [theirs]
    shapes: list[Any] = []
    for corners in {"bboxes", "quad_boxes", "polygons"} & theirs.keys():
        for found, label in zip(theirs[corners], theirs.get(f"{corners}_labels", theirs.get("labels")), strict=True):
            shapes += [(ring, label) for ring in found] if corners == "polygons" else [(found, label)]
    return shapes


def compare_parsing(processor: Any, count: int) -> dict[str, Any]:
    """Return the share of random answers that both sides parse alike, and the first that they do not."""
    rng = np.random.default_rng(FIRST_SEED)
    banned = frozenset(POST_PROCESSOR["phrase_grounding"]["banned_grounding_tokens"])
    rows, equal, first = list(FLORENCE_TASKS.values()), 0, None
    for number in range(count):
        row, size = rows[number % len(rows)], PARSE_SIZES[number % len(PARSE_SIZES)]
        text = well_formed(row.form, rng)
        theirs = flatten(processor.post_process_generation(text, task=row.token, image_size=size)[row.token])
        if in_pixels(parse(row.form, text, banned), size) == theirs:
            equal += 1
        else:
            first = first or [row.name, text]
    return {"answers": count, "equal": equal / count, "first_different": first}


def compare(comparison: Comparison, images: int, quality: Quality, max_tokens: int) -> Tally:
    """Run all tasks on that many images."""
    tally = Tally()
    for number in range(images):
        comparison.compare(jobs(number, quality, max_tokens), tally)
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200, help="images for greedy search with the shipped model [200]")
    parser.add_argument(
        "--beam-images", type=int, default=50, help="images for beam search with the shipped model [50]"
    )
    parser.add_argument("--base-images", type=int, default=2, help="images for Florence-2 base with random weights [2]")
    parser.add_argument("--tokens", type=int, default=MAX_TOKENS, help="tokens of an answer that are compared [128]")
    parser.add_argument("--strings", type=int, default=10_000, help="random answers to parse [10000]")
    parser.add_argument("--threads", type=int, default=2, help="torch threads [2]")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/exactness.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    small = shipped()
    runs: dict[str, Callable[[], Tally]] = {
        "shipped, greedy": lambda: compare(small, args.images, "fast", args.tokens),
        "shipped, beams": lambda: compare(small, args.beam_images, "official", args.tokens),
        "base, greedy, forced": lambda: compare(random_base(), args.base_images, "fast", FORCED),
    }
    tallies: dict[str, Tally] = {}
    for name, run in runs.items():
        tallies[name] = run()
        print(f"{name:24}{tallies[name].row()}", flush=True)
    parsing = compare_parsing(small.processor, args.strings)
    print(f"{'parsing':24}{parsing}")
    if args.write:
        write("exactness", {**{name: tally.row() for name, tally in tallies.items()}, "parsing": parsing})
    return 0 if parsing["equal"] == 1 and all(tally.is_enough() for tally in tallies.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
