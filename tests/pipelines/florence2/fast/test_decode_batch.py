"""The decode step on tensors without data, its number of operations, and sizes that are rounded up."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.launches import FIRST_LOCATION, GENERATION, MODELS, step_launches
from pipelines.florence2.architecture import Architecture
from pipelines.florence2.checkpoint import load
from pipelines.florence2.checkpoint_files import open_folder
from pipelines.florence2.fast.buckets import DRAFT_TOKENS, Bucket, ExactBuckets, RoundedBuckets
from pipelines.florence2.fast.decode_batch import PROMPT_ROOM, DecodeBatch
from pipelines.florence2.fast.decoder import Decoder
from pipelines.florence2.fast.engine import FastEngine
from pipelines.florence2.fast.graphs import Program, compile_whole
from pipelines.florence2.fast.logits import LogitsProcessor
from pipelines.florence2.fast.snapshot import Snapshot
from pipelines.florence2.reference_engine import ReferenceEngine
from pipelines.florence2.speed.launches import weights_of
from pipelines.florence2.tasks import SPECS
from streamer.types import Job, Result
from tests.support.checkpoints import assert_same, make_image, make_job
from tests.support.fake_cuda import DEVICE, fake_cuda

SMALL = Architecture.model_validate(
    {
        "vision_config": {},
        "text_config": {
            "vocab_size": FIRST_LOCATION + 1000,
            "d_model": 32,
            "decoder_layers": 1,
            "decoder_attention_heads": 4,
            "decoder_ffn_dim": 64,
            "encoder_layers": 1,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "max_position_embeddings": 100,
        },
    }
)
IMAGE_TOKENS = 10


class TrialRunner:
    """Runs each program when it is prepared, as the recording of a graph does."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def prepare(self, name: str, program: Program, /) -> Program:
        self.names.append(name)
        program()
        return program


def fake_batch(rows: int, runner: TrialRunner) -> DecodeBatch:
    decoder = Decoder(weights_of(SMALL, torch.bfloat16, DEVICE), SMALL.text)
    processor = LogitsProcessor(GENERATION, FIRST_LOCATION, DEVICE)
    return DecodeBatch(decoder, processor, rows, IMAGE_TOKENS, 100, "near", runner)


def add(batch: DecodeBatch, rows: int, positions: int, drafted: int = 0) -> None:
    states = torch.zeros(rows, positions, 32, dtype=torch.bfloat16, device=DEVICE)
    batch.add(states, [positions - n % 2 for n in range(rows)], [50] * rows, [[5] * drafted] * rows)


@torch.inference_mode()
def test_step_runs_on_a_card_for_all_sizes() -> None:
    """The tensors have no data, so a value that the host needs or operands on two devices raise an exception."""
    runner = TrialRunner()
    with fake_cuda():
        batch = fake_batch(2, runner)
        sizes = list(batch.buckets)
        for size in sizes:
            batch.prepare(size)
        assert runner.names == [str(size) for size in sizes]
        assert {size.rows for size in sizes} == {1, 2}
        assert {size.seen for size in sizes} == {64, 128, 256, 356}
        held = dict(vars(batch._buffers))
        add(batch, 1, IMAGE_TOKENS + 3)
        batch.step()
        add(batch, 1, IMAGE_TOKENS + PROMPT_ROOM, drafted=50)
        batch.step()
        batch.step([[5] * 9, []])
        batch.remove(0)
        batch.step()
        batch.clear()
        assert len(runner.names) == len(sizes), "every size was prepared"
        assert all(value is held[name] for name, value in vars(batch._buffers).items()), "nothing was allocated again"


@torch.inference_mode()
def test_longer_prompt_prepares_steps_again() -> None:
    runner = TrialRunner()
    with fake_cuda():
        batch = fake_batch(2, runner)
        add(batch, 1, IMAGE_TOKENS)
        batch.step()
        add(batch, 1, 100)
        batch.step()
        batch.remove(1)
        batch.step()
    assert runner.names == [str(Bucket(rows, 0, 64)) for rows in (1, 2, 1)]


@pytest.mark.parametrize(("drafted", "near", "launches"), [(0, False, 105), (15, False, 117), (15, True, 136)])
def test_step_launches_no_more_operations(drafted: int, near: bool, launches: int) -> None:
    """A GPU's step is bound by its launches. Before, these were 226, and 248 with drafts."""
    assert step_launches(MODELS["base"], DEVICE, 8, drafted, near).total() <= launches


def test_rounded_sizes_contain_what_is_in_use() -> None:
    rounded = RoundedBuckets(24, 1280, drafts=True)
    sizes = set(rounded)
    for rows in range(1, 25):
        for tokens in (0, 1, 4, DRAFT_TOKENS // rows - 1):
            for length in (2, 63, 64, 65, 700, 1100):
                size = rounded.fit(rows, rounded.drafted(tokens), length)
                exact = ExactBuckets().fit(rows, tokens, length)
                assert all(one >= other for one, other in zip(size, exact, strict=True))
                assert size in sizes
    assert rounded.fit(17, 0, 1280) == (24, 0, 1280)


def rounded_engine(path: Path, rows: int) -> FastEngine:
    """Return an engine on the CPU that decodes as on a card: rounded sizes, and ends that are noticed late."""
    engine = FastEngine(load(open_folder(str(path)), "cpu", "float32"), rows)
    batch = engine.greedy.batch
    batch.buckets = RoundedBuckets(rows, engine.decoder.positions, drafts=True)
    batch._buffers.reserve(rows, engine.decoder.positions + 1)
    batch._runner = TrialRunner()
    batch.starts_in_steps = True
    engine.greedy._tokens_per_step = 4
    return engine


class CompilingRunner:
    """Compiles programs to the operations that they have."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def prepare(self, name: str, program: Program, /) -> Program:
        self.names.append(name)
        return compile_whole(program, backend="eager")


def run(engine: FastEngine | ReferenceEngine, jobs: list[Job]) -> list[Result]:
    """Admit at most two jobs per step, so that rows start and end at any time."""
    waiting = list(jobs)
    results: dict[int, Result] = {}
    while len(results) < len(jobs):
        count = min(2, engine.free())
        engine.admit(waiting[:count])
        waiting = waiting[count:]
        results |= {id(result.job): result for result in engine.step()}
    return [results[id(job)] for job in jobs]


def test_padding_and_late_reading_change_no_answer(checkpoint: Path, engine: ReferenceEngine) -> None:
    """Without drafts, then with right ones, and with answers that their maximum length ends."""
    jobs = [make_job(task, make_image(seed)) for seed, task in enumerate(SPECS)]
    short = [make_job(task, make_image(seed), max_tokens=5 + seed) for seed, task in enumerate(SPECS)]
    fast = rounded_engine(checkpoint, 6)
    expected = run(engine, jobs)
    assert_same(run(fast, jobs), expected)
    assert_same(run(fast, jobs), expected)
    assert_same(run(fast, short), run(engine, short))
    fast.greedy.drafts.clear()
    assert_same(run(fast, short), run(engine, short))


def test_rows_of_longer_answers_are_padding_of_shorter_ones(checkpoint: Path, engine: ReferenceEngine) -> None:
    """A short step reads few positions, also of the rows beside it that were in use before."""
    fast = rounded_engine(checkpoint, 8)
    run(fast, [make_job("object_detection", make_image(seed), max_tokens=90) for seed in range(8)])
    assert int(fast.greedy.batch._buffers.progress[0].max()) == 0
    jobs = [make_job("caption", make_image(seed), max_tokens=12) for seed in range(5)]
    assert_same(run(fast, jobs), run(engine, jobs))


def test_compiled_step_gives_same_answer(checkpoint: Path, engine: ReferenceEngine) -> None:
    """The whole step is one function for torch.compile. Code for its kernels is only made for a card."""
    fast, jobs = rounded_engine(checkpoint, 1), [make_job("caption", max_tokens=30)]
    fast.greedy.batch._runner = runner = CompilingRunner()
    assert_same(run(fast, jobs), run(engine, jobs))
    assert runner.names == [str(Bucket(1, 0, 64))]


def test_snapshot_is_of_its_moment(checkpoint: Path) -> None:
    """A snapshot that is read later knows nothing of steps, ends and moved rows behind it."""
    fast = FastEngine(load(open_folder(str(checkpoint)), "cpu", "float32"), 4)
    batch = fast.greedy.batch
    width = fast.decoder.heads * fast.decoder.width
    states = torch.randn(3, 12, width, generator=torch.Generator().manual_seed(1))

    def lengths(snapshot: Snapshot) -> list[int]:
        return [state.length for state in snapshot.read()]

    with torch.inference_mode():
        batch.add(states, [12] * 3, [4, 30, 30], [()] * 3)
        first = batch.snapshot()
        batch.step()
        second = batch.snapshot()
        for _ in range(3):
            batch.step()
        batch.remove(0)
        assert lengths(first) == [3, 3, 3]
        assert lengths(second) == [4, 4, 4]
        assert [row.length for row in batch._rows] == [7, 7]
        assert [len(second.generation(row).tokens) for row in range(3)] == [4, 4, 4]
        last = batch.snapshot()
        assert lengths(last) == [7, 7]
        assert last.generation(1).tokens[:4] == second.generation(1).tokens
