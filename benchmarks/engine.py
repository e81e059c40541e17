"""Speed of the fast engine relative to transformers on Florence-2 base: `python -m benchmarks.engine`.

Both sides use the base architecture with random weights in bfloat16, greedy search, the same frames and a fixed number
of tokens, and take turns in one run. The baseline is `generate` of transformers with its default attention and its own
processor, one prompt at a time, as most programs call it. Drafts are off except where a row names them.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import os
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

# As in the pipeline, before torch is imported: idle OpenMP threads sleep.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from transformers import CLIPImageProcessorPil, Florence2Processor
from transformers.modeling_outputs import BaseModelOutput

from benchmarks.report import write
from pipelines.florence2.architecture import Architecture
from pipelines.florence2.checkpoint import Checkpoint
from pipelines.florence2.checkpoint_files import CheckpointFiles
from pipelines.florence2.fast.buckets import DRAFT_TOKENS
from pipelines.florence2.fast.engine import FastEngine
from pipelines.florence2.fast.speculative import Draft, Rates
from pipelines.florence2.generation_settings import GenerationSettings
from pipelines.florence2.image_settings import ImageSettings
from pipelines.florence2.preprocess import Preprocessor
from pipelines.florence2.speed.random_checkpoint import IMAGE_TOKENS, SIDE, random_model
from pipelines.florence2.tasks import FLORENCE_TASKS, SPECS
from pipelines.florence2.tokenizer import Tokenizer
from pipelines.florence2.training.checkpoint_builder import IMAGE_MEAN, IMAGE_STD, POST_PROCESSOR
from pipelines.florence2.weights import Weights
from streamer.toyworld.world import World
from streamer.types import DueTask, Engine, Frame, Image, Job, Task

CAMERAS = 8
TOKENS = {"caption": 15, "object_detection": 80, "dense_region_caption": 40}
GOALS = {
    "caption, one camera": (1.3, 1.5),
    "object detection, one camera": (1.3, 1.6),
    "three tasks on one frame": (2.5, 3.5),
    "decoding per answer, many cameras": (6.0, 10.0),
    "decoding with drafts, 100 % right": (5.0, 8.0),
    "decoding with drafts, 80 % right": (2.0, 3.0),
    "decoding with drafts, 50 % right": (1.0, 1.2),
    "preprocessing a 1080p frame": (5.0, 15.0),
}
"""Required and desired ratio by row."""


class Base(NamedTuple):
    """Florence-2 base with random weights."""

    checkpoint: Checkpoint
    """For our engine."""
    network: Any
    """The model of transformers."""
    tokenizer: Any
    """The tokenizer of transformers."""


def base(dtype: torch.dtype = torch.bfloat16, clear_margins: bool = False) -> Base:
    """Return the model as both engines take it; `clear_margins` as in `set_clear_margins`."""
    model, tokenizer, generation = random_model()
    model = model.to(dtype)
    if clear_margins:
        set_clear_margins(model)
    raw = {"size": {"height": SIDE, "width": SIDE}, "image_mean": IMAGE_MEAN, "image_std": IMAGE_STD}
    files = CheckpointFiles(
        name="base",
        path=Path(),
        config=model.config.to_dict(),
        generation=generation.to_diff_dict(),
        images=ImageSettings.read("base", raw),
        banned_phrases=frozenset(),
        weights=(),
    )
    checkpoint = Checkpoint(
        name=files.name,
        files=files,
        architecture=Architecture.read(files.name, files.config),
        weights=Weights(files.name, model.state_dict(), dtype, torch.device("cpu")),
        tokenizer=Tokenizer(tokenizer.backend_tokenizer),
        first_location=tokenizer.convert_tokens_to_ids("<loc_0>"),
        images=files.images,
        generation=GenerationSettings.read(files.name, files.generation),
        banned_phrases=files.banned_phrases,
        max_positions=1024,
        runs_in=f"cpu, {str(dtype)[6:]}",
    )
    return Base(checkpoint, model, tokenizer)


def set_clear_margins(model: Any) -> None:
    """Give the model an output head of its own, so that each next token follows clearly from the last one.

    The next token's row of the head is the last token's embedding. With the random embeddings as head, the two best
    tokens are often so close that in bfloat16 passes of different width choose different ones.
    """
    embeddings = model.get_input_embeddings().weight
    order = torch.randperm(len(embeddings))  # one cycle, so that no part of an answer repeats
    head = torch.empty_like(embeddings)
    head[order.roll(-1)] = embeddings[order]
    model.lm_head.weight = torch.nn.Parameter(head, requires_grad=False)


def processor_of(tokenizer: Any) -> Any:
    """Return the processor of transformers with the published settings, for its own tokenizer."""
    images: Any = CLIPImageProcessorPil(
        do_resize=True,
        size={"height": SIDE, "width": SIDE},
        resample=3,
        do_center_crop=False,
        do_rescale=True,
        do_normalize=True,
        image_mean=list(IMAGE_MEAN),
        image_std=list(IMAGE_STD),
    )
    images.image_seq_length = IMAGE_TOKENS
    return Florence2Processor(images, tokenizer, post_processor_config=POST_PROCESSOR)


def run_transformers(model: Any, processor: Any, task: str, image: Image, tokens: int) -> None:
    """Run one task as programs around Florence-2 do."""
    inputs = processor(text=FLORENCE_TASKS[task].token, images=image[..., ::-1].copy(), return_tensors="pt")
    count = generate(
        model,
        tokens,
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        pixel_values=inputs["pixel_values"].to(model.dtype),
    )
    assert count == tokens


def generate(model: Any, tokens: int, **inputs: Any) -> int:
    """Return the number of tokens that `generate` of transformers made, at most `tokens`."""
    settings = copy.deepcopy(model.generation_config)
    settings.max_new_tokens = tokens
    with torch.inference_mode():
        output = model.generate(**inputs, generation_config=settings)
    return int(output.shape[1]) - 1


def run_ours(engine: Engine, tasks: Sequence[str], image: Image, tokens: Mapping[str, int]) -> None:
    """Run all tasks on one frame that is not in the image cache."""
    frame = Frame("camera", 0, 0, 0.0, 0.0, 0.0, image.copy())
    jobs = []
    for task in tasks:
        params = SPECS[task].parameters(max_tokens=tokens[task])
        jobs.append(Job(DueTask("camera", Task(task, task, params), 0.0), frame))
    engine.admit(jobs)
    done = 0
    while done < len(jobs):
        for result in engine.step():
            assert result.error == f"the answer did not end within {tokens[result.job.due.task.task]} tokens"
            done += 1


class Benchmark:
    """Both engines and the measured rows."""

    def __init__(self, rounds: int, cameras: int, tokens: dict[str, int]) -> None:
        self.rounds, self.cameras, self.tokens = rounds, cameras, tokens
        made = base(clear_margins=True)
        self.checkpoint, self.network = made.checkpoint, made.network
        self.processor = processor_of(made.tokenizer)
        self.engine = FastEngine(self.checkpoint, max(cameras, len(tokens)), drafts="off")
        self.images = [World(number).scene(1.0).paint(1920, 1080) for number in range(cameras)]
        self.rows: dict[str, dict[str, Any]] = {}

    # -- the two engines

    def run_transformers(self, task: str, image: Image) -> None:
        """Run one task as programs around Florence-2 do."""
        run_transformers(self.network, self.processor, task, image, self.tokens[task])

    def generate(self, tokens: int, **inputs: Any) -> int:
        return generate(self.network, tokens, **inputs)

    def run_ours(self, tasks: Sequence[str], image: Image) -> None:
        run_ours(self.engine, tasks, image, self.tokens)

    # -- measurements

    def compare(
        self,
        name: str,
        baseline: Callable[[], object],
        ours: Callable[[], object],
        answers: int = 1,
        reached: dict[str, float] | None = None,
    ) -> None:
        """Measure both in turns.

        `answers` is the number of answers that one run of `ours` gives; `reached` says what its draft achieved.
        """
        baseline()
        ours()
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(self.rounds):
            for side, action in enumerate((baseline, ours)):
                started = time.perf_counter()
                action()
                times[side].append((time.perf_counter() - started) / (answers if side else 1))
        before, after = (statistics.median(part) for part in times)
        row = {"transformers_ms": before * 1000, "ours_ms": after * 1000, "ratio": before / after}
        self.rows[name] = row | (reached or {}) | {"all_ms": [[round(1000 * one, 2) for one in part] for part in times]}
        required, goal = GOALS.get(name, (0.0, 0.0))
        cells = f"{row['transformers_ms']:11.1f}{row['ours_ms']:9.1f}{row['ratio']:8.2f}x"
        note = f"   {reached['accepted']:.0%} of checked draft tokens accepted" if reached else ""
        print(f"{name:48}{cells}   {required:g}x / {goal:g}x{note}", flush=True)

    def whole_answers(self) -> None:
        """Measure complete answers, from the frame to the text."""
        image = self.images[0]

        def one_by_one() -> None:
            for task in self.tokens:
                self.run_transformers(task, image)

        for name, task in (("caption, one camera", "caption"), ("object detection, one camera", "object_detection")):
            self.compare(name, partial(self.run_transformers, task, image), partial(self.run_ours, [task], image))
        self.compare("three tasks on one frame", one_by_one, lambda: self.run_ours(list(self.tokens), image))

    @torch.inference_mode()
    def decoding(self) -> None:
        """Measure the decoder alone, from encoder states that both sides share."""
        count = self.tokens["object_detection"]
        params = SPECS["object_detection"].parameters()
        states = []
        for image in self.images:
            job = Job(DueTask("", Task("", "object_detection", params), 0.0), Frame("", 0, 0, 0.0, 0.0, 0.0, image))
            image_tokens = self.engine.image_cache([job.frame])[0]
            states.append(self.engine.encoder([image_tokens], [self.engine.processor.encode(job)[0]]))
        self.engine.image_cache.clear()
        mask = torch.ones(states[0].shape[:2], dtype=torch.long)

        def baseline() -> None:
            outputs = BaseModelOutput(last_hidden_state=states[0])
            assert self.generate(count, encoder_outputs=outputs, attention_mask=mask) == count

        self.compare(
            "decoding per answer, many cameras", baseline, lambda: self.decode(states, count), answers=self.cameras
        )
        self.compare("decoding per answer, one camera", baseline, lambda: self.decode(states[:1], count))
        truth = self.decode(states[:1], count)
        for percent in (100, 80, 50):
            rng, share = random.Random(percent), percent / 100
            tokens = [token if rng.random() < share else rng.randrange(4, 50000) for token in truth]

            def draft(tokens: Sequence[int] = tokens, share: float = share) -> Draft:
                """Return the draft with the rates that its statistics reach after some answers."""
                return Draft(tokens, self.engine.logits_processor.locations, Rates(share, share))

            def drafted(draft: Callable[[], Draft] = draft) -> list[int]:
                return self.decode(states[:1], count, draft())

            checked = draft()
            answer = self.decode(states[:1], count, checked)
            # Exact in float32 (tests); in bfloat16 a pass over many tokens can decide a near-tie differently.
            same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(answer, truth, strict=True)))
            reached = {"accepted": checked.accepted / max(1, checked.checked), "same_until_token": same}
            self.compare(f"decoding with drafts, {percent} % right", baseline, drafted, reached=reached)
            name = f"relative to no drafts, {percent} % right"
            self.compare(name, lambda: self.decode(states[:1], count), drafted, reached=reached)

    def decode(self, states: Sequence[torch.Tensor], count: int, draft: Draft | None = None) -> list[int]:
        """Generate `count` tokens in every row; return those of the first row behind the forced start."""
        batch, rows = self.engine.greedy.batch, len(states)
        start = 2

        def propose(length: int) -> Sequence[int]:
            return draft.propose(min(count - length, DRAFT_TOKENS - 1)) if draft else ()

        pieces = [list(propose(start)) for _ in range(rows)]
        batch.add(torch.cat(list(states)), [states[0].shape[1]] * rows, [count] * rows, pieces)
        length = start
        while True:
            snapshot = batch.snapshot()
            row_states = snapshot.read()
            if draft:
                newest = row_states[0]
                draft.record(len(pieces[0]), newest.length - length - 1, newest.last, newest.guesses)
            length = row_states[0].length
            if row_states[0].done:
                break
            pieces = [list(propose(length)) for _ in range(rows)]
            batch.step(pieces)
        tokens = snapshot.generation(0).tokens
        while batch.active:
            batch.remove(batch.active - 1)
        assert len(tokens) == count + 1
        return tokens[start:]

    def preprocessing(self) -> None:
        image = self.images[0]
        preprocess = Preprocessor(self.checkpoint.images)

        def baseline() -> None:
            self.processor.image_processor(images=image[..., ::-1].copy(), return_tensors="pt")

        self.compare("preprocessing a 1080p frame", baseline, lambda: preprocess(image))

    def busy_neighbour(self) -> None:
        """Measure the share of our speed that remains next to a process that keeps one core busy."""
        image = self.images[0]

        def run() -> float:
            return self.timed(lambda: self.run_ours(["caption"], image))

        alone = statistics.median(run() for _ in range(self.rounds))
        other = multiprocessing.get_context("spawn").Process(target=burn_cpu, daemon=True)
        other.start()
        try:
            beside = statistics.median([run() for _ in range(1 + self.rounds)][1:])
        finally:
            other.kill()
            other.join()
        name, share = "share of the speed next to a busy process", alone / beside
        self.rows[name] = {"share": share}
        print(f"{name:68}{share:8.0%}    45%")

    @staticmethod
    def timed(action: Callable[[], object]) -> float:
        started = time.perf_counter()
        action()
        return time.perf_counter() - started


def burn_cpu() -> None:
    values = np.ones(1000)
    while True:
        values = values * 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round, without meaningful numbers")
    parser.add_argument("--rounds", type=int, default=7, help="rounds per row [7]")
    parser.add_argument("--threads", type=int, default=2, help="torch threads [2]")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/engine.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tokens = {task: count // 5 for task, count in TOKENS.items()} if args.quick else TOKENS
    bench = Benchmark(1 if args.quick else args.rounds, 2 if args.quick else CAMERAS, tokens)
    print(f"{'work':48}{'library ms':>11}{'ours ms':>9}{'ratio':>9}   required / goal")
    for part in (bench.preprocessing, bench.whole_answers, bench.decoding, bench.busy_neighbour):
        part()
    if args.write:
        write("engine", {"threads": args.threads, "rounds": bench.rounds, "cameras": bench.cameras, "work": bench.rows})


if __name__ == "__main__":
    main()
