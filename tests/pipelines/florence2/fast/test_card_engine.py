"""The engine as on a card, with CPU tensors: parts of fixed sizes, and running answers before new ones in a step."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.florence2.checkpoint import load
from pipelines.florence2.checkpoint_files import open_folder
from pipelines.florence2.fast.davit import DaViT
from pipelines.florence2.fast.device_stream import DeviceStream
from pipelines.florence2.fast.encoder import Encoder
from pipelines.florence2.fast.engine import FastEngine
from pipelines.florence2.fast.graph_guard import GuardedRunner
from pipelines.florence2.fast.graphs import EagerRunner, Runner
from pipelines.florence2.fast.memory_budget import Room
from pipelines.florence2.fast.self_proof import difference, prove
from pipelines.florence2.fast.unfinished_starts import UnfinishedStarts
from pipelines.florence2.pipeline import load_parts
from pipelines.florence2.reference_engine import ReferenceEngine
from pipelines.florence2.tasks import SPECS
from streamer.types import Job, Result
from tests.pipelines.florence2.fast.test_device_stream import Recorder
from tests.support.checkpoints import assert_same, make_image, make_job
from tests.support.fake_cuda import DEVICE
from tests.support.graph_faults import FailsToRun, FakeGraphs, failed


class RecordedDeviceStream(DeviceStream):
    """A stream whose results are in the memory of the CPU."""

    def join(self, results: Iterable[torch.Tensor] = ()) -> None:
        super().join()


def open_fast(checkpoint: Path, rows: int) -> FastEngine:
    return FastEngine(load(open_folder(str(checkpoint)), "cpu", "float32"), rows)


def as_on_a_card(engine: FastEngine, frames: int, runner: Runner) -> None:
    recorder = Recorder()
    vision, encoder = engine.image_cache.vision, engine.encoder
    assert isinstance(vision, DaViT)
    assert isinstance(encoder, Encoder)
    engine.card_parts = vision, encoder
    engine.stream = RecordedDeviceStream(DEVICE, cuda=recorder)
    engine.image_cache.stream = RecordedDeviceStream(DEVICE, cuda=recorder)
    engine.allocate(Room(engine.room.rows, frames), runner)
    engine.greedy.batch.starts_in_steps = True


def run(engine: FastEngine, jobs: list[Job], at_once: int) -> list[Result]:
    waiting = list(jobs)
    results: dict[int, Result] = {}
    while len(results) < len(jobs):
        count = min(at_once, engine.free(), len(waiting))
        engine.admit(waiting[:count])
        waiting = waiting[count:]
        results |= {id(result.job): result for result in engine.step()}
    return [results[id(job)] for job in jobs]


@pytest.mark.parametrize("quality", ["fast", "official"])
def test_answers_equal_reference_engine(checkpoint: Path, engine: ReferenceEngine, quality: Any) -> None:
    fast = open_fast(checkpoint, 7)
    runner = FakeGraphs()
    as_on_a_card(fast, 4, runner)
    jobs = [make_job(task, make_image(seed), quality=quality) for seed, task in enumerate(list(SPECS) * 2)]
    engine.admit(jobs[:30])
    expected = {id(result.job): result for result in engine.step()}
    assert_same(run(fast, jobs, at_once=3), [expected[id(job)] for job in jobs])
    assert "vision of 4 frames" in runner.names, "for 3 frames"
    assert any(name.startswith("encoder of 4 rows") for name in runner.names)


@pytest.mark.parametrize("part", ["vision", "encoder"])
def test_failed_graph_of_a_part_loses_no_job(checkpoint: Path, engine: ReferenceEngine, part: str) -> None:
    fast = open_fast(checkpoint, 4)
    graphs = FailsToRun(failed, lambda _, name: name.startswith(part))
    as_on_a_card(fast, 2, GuardedRunner(graphs, fast.degrade))
    jobs = [make_job("caption", make_image(seed), max_tokens=12) for seed in range(4)]
    engine.admit(jobs)
    expected = {id(result.job): result for result in engine.step()}
    assert_same(run(fast, jobs, at_once=2), [expected[id(job)] for job in jobs])
    assert any(f"the graph of {part}" in warning for warning in fast.warnings)


def test_card_with_padding_behind_prompts_equals_the_cpu(checkpoint: Path) -> None:
    fast = open_fast(checkpoint, 2)
    as_on_a_card(fast, 2, FakeGraphs())
    assert difference(fast, *load_parts(open_folder(str(checkpoint)))) is None


def test_all_sizes_are_prepared_at_the_start(checkpoint: Path, tmp_path: Path) -> None:
    fast, graphs = open_fast(checkpoint, 2), FakeGraphs()
    as_on_a_card(fast, 2, EagerRunner())
    prove(fast, lambda: graphs, None, UnfinishedStarts(tmp_path), lambda: None)
    prepared = {name for name in graphs.names if not name.startswith("step")}
    assert prepared == {
        *(f"vision of {frames} frames" for frames in (1, 2)),
        *(f"encoder of {rows} rows with {positions} positions" for rows in (1, 2) for positions in (32, 64, 96, 128)),
    }
    assert len(graphs.names) == len(set(graphs.names)), "each prepared once"
