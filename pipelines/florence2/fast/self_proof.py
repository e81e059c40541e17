"""The proof at start that a graphics card gives right answers, and the fall-backs until it does.

Trial pictures run through the engine as it is and then through graphs, on the same card. The engine falls back from
graphs to plain programs, and from there to smaller batches. Each step is reported by `FastEngine.degrade`.

Tokens may differ only where two tokens are equally good but for rounding: on an H100, the same programs give another
token in one of some ten thousand, with and without graphs.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count

import torch
from torch import Tensor
from torch.nn import functional

from pipelines.florence2.fast.buckets import powers
from pipelines.florence2.fast.engine import FastEngine
from pipelines.florence2.fast.graph_guard import GuardedRunner, ReplayError
from pipelines.florence2.fast.graphs import EagerRunner, Runner, device_tensor
from pipelines.florence2.fast.logits import NEAR_RATIO
from pipelines.florence2.fast.memory_budget import Room, is_shortage
from pipelines.florence2.fast.parts import TextEncoder, Vision
from pipelines.florence2.fast.scheduler import EngineJob
from pipelines.florence2.fast.static_parts import StaticEncoder, StaticVision
from pipelines.florence2.fast.unfinished_starts import UnfinishedStarts
from pipelines.florence2.tasks import SPECS
from streamer.core.errors import ConfigError
from streamer.toyworld.world import World
from streamer.types import DueTask, Frame, Image, Job, Task

log = logging.getLogger(__name__)

TRIALS = (
    ("caption", {"max_tokens": 16}, (640, 480)),
    ("object_detection", {"max_tokens": 80}, (1280, 720)),
    ("region_to_category", {"max_tokens": 12, "region": (0.2, 0.1, 0.7, 0.9)}, (352, 288)),
)
"""Tasks of the trial with their keys and the width and height of their pictures. 80 tokens need a longer cache than the
first one."""
TOLERANCE = {torch.float32: 0.02, torch.bfloat16: 0.08, torch.float16: 0.02}
"""Largest relative difference (Euclidean norms) from float32 on the CPU, by number type. A card rounds products of
float32 to 10 bits where that is allowed. bfloat16 differs by about 2 %; the limit leaves room for real weights, which
amplify it. Wrong results differ by about 100 %."""
TIE = TOLERANCE
"""Largest distance of a token's score from the best one's, in standard deviations of all scores, at which rounding may
decide between the two. The best of 50,000 random scores is 4 deviations above their mean."""

ROUNDS = ("without drafts", "with drafts")
"""The first round stores the answers that are the drafts of the second."""
REPORTED = 20
"""Graphs between two lines of the log."""

Answers = list[list[int]]


def prove(
    engine: FastEngine,
    graphs: Callable[[], Runner] | None,
    load_parts: Callable[[], tuple[Vision, TextEncoder]] | None,
    starts: UnfinishedStarts,
    alive: Callable[[], None],
) -> None:
    """Make the engine run with the runner that `graphs` returns, as far as its answers stay right and memory lasts.

    Without `graphs`, only check the card and its memory. `load_parts` returns vision tower and encoder on the CPU in
    float32, the reference of the card; None: not compared. `alive` is called now and then. Raises ConfigError when the
    card computes wrong results, or when memory is too short for one answer.
    """
    expected = _run(engine, alive)
    if load_parts is not None and (reason := difference(engine, *load_parts())):
        device = engine.decoder.device
        raise ConfigError(f"{device} computes wrong results: {reason}. Update its driver, or use `device: cpu`")
    alive()
    refusal = starts.refusal if graphs is not None else None
    if refusal:
        engine.degrade(refusal)
    if refusal or graphs is None:
        engine.description += "; without graphs"
        return
    with starts.counted():
        _use_graphs(engine, GuardedRunner(graphs(), engine.degrade), expected, alive)


def _use_graphs(engine: FastEngine, runner: GuardedRunner, expected: Answers, alive: Callable[[], None]) -> None:
    """Make the engine run with `runner` if its answers are the expected ones."""
    found: Answers = []
    while len(found) != len(expected):  # fewer trials when memory was short with graphs only
        if found:
            engine.allocate(engine.room, EagerRunner())
            expected = _run(engine, alive)
        engine.allocate(engine.room, runner)
        _prepare(engine, alive)
        found = _run(engine, alive)
    trials = [job for jobs in _batches(engine.room) for _ in ROUNDS for job in jobs]
    others = [(job, tokens) for job, tokens, wanted in zip(trials, found, expected, strict=True) if tokens != wanted]
    tie = TIE[engine.decoder.dtype]
    if wrong := sum(shortfall(engine, job, tokens) > tie for job, tokens in others):
        engine.degrade(f"graphs gave other tokens in {wrong} of {len(found)} trials: no graphs, which is slower")
        runner.recorded.clear()
    if runner.recorded:
        engine.description += f"; graphs, the same tokens as without in {len(found) - len(others)} trials"
        if others:
            engine.description += f", equally good ones in {len(others)}"
    else:
        engine.allocate(engine.room, EagerRunner())
        engine.description += "; without graphs"


@torch.inference_mode()
def _prepare(engine: FastEngine, alive: Callable[[], None]) -> None:
    """Prepare the programs of all sizes before the first answer needs them."""
    batch, vision, encoder = engine.greedy.batch, engine.image_cache.vision, engine.encoder
    programs: dict[str, Callable[[], object]] = {str(size): partial(batch.prepare, size) for size in batch.buckets}
    if isinstance(encoder, StaticEncoder):
        programs |= {encoder.name(*size): partial(encoder.prepare, *size) for size in encoder.sizes}
    if isinstance(vision, StaticVision):
        programs |= {vision.name(size): partial(_prepare_vision, engine, vision, size) for size in vision.sizes}
    for number, (name, prepare) in enumerate(programs.items(), 1):
        if number % REPORTED == 1 or number == len(programs):
            log.info("graphs: preparing %d of %d, %s", number, len(programs), name)
        alive()
        with engine.stream.in_order():
            prepare()


def _prepare_vision(engine: FastEngine, vision: StaticVision, frames: int) -> None:
    with engine.image_cache.stream.active():  # where it will run
        vision.prepare(frames)


def _run(engine: FastEngine, alive: Callable[[], None]) -> Answers:
    """Return the tokens of the trials, from one job at a time up to a full engine, first without drafts, then with.

    Halves the engine's room while memory is short. A smaller engine runs fewer trials.
    """
    while True:
        answers: Answers = []
        try:
            for jobs in _batches(engine.room):
                engine.greedy.drafts.clear()
                for _ in ROUNDS:
                    alive()
                    answers += generate(engine, jobs)
        except ReplayError:
            engine.allocate(engine.room, engine.runner)
        except (RuntimeError, MemoryError) as error:
            if not is_shortage(error):
                raise
            engine.allocate(engine.smaller(engine.room), engine.runner)
        else:
            engine.greedy.drafts.clear()
            engine.image_cache.clear()
            return answers


def _batches(room: Room) -> list[list[Job]]:
    """Return the jobs of each trial: 1, 2, 4 and so on, up to as many as the engine takes, each with all tasks."""
    pictures = [World(seed).scene(1.0).paint(*size) for seed, (_, _, size) in enumerate(TRIALS)]
    sizes = [size for size in powers(1, room.rows) for _ in range(-(-len(TRIALS) // size))]
    numbers = count()
    return [[_job(next(numbers), pictures) for _ in range(size)] for size in sizes]


def _job(number: int, pictures: Sequence[Image]) -> Job:
    index = number % len(TRIALS)
    task, keys, _ = TRIALS[index]
    frame = Frame(f"trial{number}", 0, 0, 0.0, 0.0, 0.0, pictures[index])
    return Job(DueTask(f"trial{number}", Task(task, task, SPECS[task].parameters.model_validate(keys)), 0.0), frame)


@torch.inference_mode()
def generate(engine: FastEngine, jobs: Sequence[Job]) -> Answers:
    """Return the tokens of each job. An engine answers jobs with errors where this raises exceptions."""
    engine.greedy.clear()
    engine.image_cache.clear()
    answers: dict[EngineJob, list[int]] = {}
    running = [EngineJob(job) for job in jobs]
    for job in running:
        job.prompt, job.max_tokens = engine.processor.encode(job.job)
    with engine.stream.in_order():
        images: list[Tensor] = []
        for first in range(0, len(jobs), engine.room.frames):
            images += engine.image_cache([job.frame for job in jobs[first : first + engine.room.frames]])
        states = engine.encoder(images, [job.prompt for job in running])
        engine.greedy.add(running, states, [len(images[0]) + len(job.prompt) for job in running])
        engine.greedy.update_drafts()
        # Each step makes a token at least, and an end is noticed one step later; a graph may make none.
        for _ in range(max(job.max_tokens for job in running) + 2 + len(engine.logits_processor.start)):
            engine.greedy.step()
            for job, generation, draft in engine.greedy.pop_finished():
                answers[job] = generation.tokens
                engine.greedy.store(job, generation, draft)
            if not engine.greedy.jobs:
                break
    return [answers.get(job, []) for job in running]


@torch.inference_mode()
def shortfall(engine: FastEngine, job: Job, tokens: Sequence[int]) -> float:
    """Return by how much a token of an answer is worse than the best one at its place, at most.

    The unit is the standard deviation of the scores at a place. All places run in one pass, without a runner. An answer
    without an end is infinitely worse. With near drafts, a location may be as much worse as they allow.
    """
    prompt, max_tokens = engine.processor.encode(job)
    decoder, processor = engine.decoder, engine.logits_processor
    vision, encoder = engine.card_parts or (engine.image_cache.vision, engine.encoder)
    start, device = len(processor.start), decoder.device
    if len(tokens) <= start or not (len(tokens) > max_tokens or tokens[-1] in processor.ends.tolist()):
        return math.inf
    with engine.stream.in_order():
        pixels = engine.image_cache.preprocess(job.frame.image)[None].to(device, decoder.dtype)
        states = encoder([vision(pixels)[0]], [prompt])
        cross, own = decoder.cache(1, states.shape[1]), decoder.cache(1, len(tokens))
        decoder.fill_cross_cache(states, cross)
        ids = device_tensor([tokens], torch.long, device)
        positions = torch.arange(len(tokens) - 1, device=device)[None]
        visible = decoder.visible(positions, len(tokens) - 1)
        bias = torch.zeros(1, 1, 1, states.shape[1], dtype=decoder.dtype, device=device)
        logits = decoder(ids[:, :-1], positions, visible, own, cross, bias, skip=start - 1)
        deviation = logits.std(-1)
        history = functional.pad(ids[:, :-1], (processor.lead, 0))
        scores = processor.adapt(logits, history, positions[:, start - 1 :], visible[:, start - 1 :])
        chosen = scores.gather(-1, ids[:, start:, None])[..., 0]
        allowed = -math.log(NEAR_RATIO) if engine.drafts == "near" else 0.0
        return float(((scores.amax(-1) - chosen - allowed) / deviation).max())


@torch.inference_mode()
def difference(engine: FastEngine, vision: Vision, encoder: TextEncoder) -> str | None:
    """Return how the engine's image tokens and encoder states differ from those of the CPU, None if hardly."""
    ((job,), *_) = _batches(Room(1, 1))
    prompt, _ = engine.processor.encode(job)
    pixels = engine.image_cache.preprocess(job.frame.image)[None]
    dtype, device = engine.decoder.dtype, engine.decoder.device
    found = engine.image_cache.vision(pixels.to(device, dtype))
    # The CPU's encoder gets the card's image tokens, so that each part is judged alone.
    states = encoder([found[0].float().cpu()], [prompt])
    # On a card, the encoder's output has padding behind the prompt.
    encoded = engine.encoder([found[0]], [prompt])[:, : states.shape[1]]
    pairs = [("vision tower", found, vision(pixels.float().cpu())), ("text encoder", encoded, states)]
    for part, one, other in pairs:
        error = float((one.float().cpu() - other).norm() / other.norm())
        if not error <= TOLERANCE[dtype]:  # also when it is NaN
            return f"its {part} differs from the CPU by {error:.2%} on a test picture, at most {TOLERANCE[dtype]:.0%}"
    return None
