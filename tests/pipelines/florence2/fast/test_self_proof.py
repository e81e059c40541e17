"""The proof of graphs at start, and its fall-backs, with runners that fail as a card can fail."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from pipelines.florence2.checkpoint_files import open_folder
from pipelines.florence2.fast import decode_batch, self_proof
from pipelines.florence2.fast.buckets import RoundedBuckets
from pipelines.florence2.fast.engine import FastEngine
from pipelines.florence2.fast.graphs import EagerRunner
from pipelines.florence2.fast.memory_budget import Room
from pipelines.florence2.fast.self_proof import difference, prove, shortfall
from pipelines.florence2.fast.unfinished_starts import UnfinishedStarts
from pipelines.florence2.pipeline import Florence2, Florence2Settings, load_parts
from streamer.cli.doctor import _model
from streamer.core.errors import ConfigError
from streamer.types import Engine, Job, Result
from tests.support.checkpoints import assert_same, make_image, make_job
from tests.support.graph_faults import (
    FailsToRecord,
    FailsToRun,
    FakeGraphs,
    Nothing,
    WrongTokens,
    cannot_record,
    failed,
    no_memory,
)

TASKS = ("caption", "object_detection", "ocr", "region_to_category")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which starts are counted."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "streamer" / "graphs"


@pytest.fixture(autouse=True)
def _short_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pictures and short answers: a start runs 44 trials."""
    short = [(task, {**keys, "max_tokens": 12}, (160, 120)) for task, keys, _ in self_proof.TRIALS]
    monkeypatch.setattr(self_proof, "TRIALS", short)


def open_with(checkpoint: Path, graphs: FakeGraphs) -> Any:
    """Return the engine inside the one that the pipeline opens."""
    settings = Florence2Settings(checkpoint=str(checkpoint), device="cpu", max_batch=4)
    return Florence2(graphs=lambda _: graphs).open(settings)._engine  # type: ignore[attr-defined]


def jobs() -> list[Job]:
    return [make_job(task, make_image(number)) for number, task in enumerate(TASKS)]


def answers(engine: Engine, wanted: Sequence[Job]) -> list[Result]:
    engine.admit(wanted)
    found: dict[int, Result] = {}
    while len(found) < len(wanted):
        found.update((id(result.job), result) for result in engine.step())
    return [found[id(job)] for job in wanted]


@pytest.fixture(scope="module")
def truth(checkpoint: Path) -> list[Result]:
    settings = Florence2Settings(checkpoint=str(checkpoint), device="cpu", max_batch=4)
    return answers(Florence2().open(settings), jobs())


def rows_of(name: str) -> int:
    found = re.search(r"step of (\d+) rows", name)
    return int(found[1]) if found else 0


def test_proven_graphs_answer_jobs(checkpoint: Path, truth: list[Result]) -> None:
    engine = open_with(checkpoint, graphs := FakeGraphs())
    assert engine.warnings == []
    assert re.search(r"; graphs, the same tokens as without in \d+ trials$", engine.description)
    before = graphs.replays
    assert_same(answers(engine, jobs()), truth)
    assert graphs.replays > before
    assert {rows_of(name) for name in graphs.names} >= {1, 2, 4}, "every size of a batch was tried"


def test_no_graphs_are_recorded_when_they_are_off(checkpoint: Path) -> None:
    settings = Florence2Settings(checkpoint=str(checkpoint), device="cpu", max_batch=2, graphs="off")
    graphs = FakeGraphs()
    engine = Florence2(graphs=lambda _: graphs).open(settings)
    assert engine.description.endswith("; without graphs")
    assert (engine.warnings, graphs.names) == ([], [])


FAULTS: dict[str, tuple[Callable[[], FakeGraphs], str]] = {
    "capture fails": (lambda: FailsToRecord(cannot_record), "cannot be recorded as a CUDA graph"),
    "wrong tokens": (WrongTokens, r"graphs gave other tokens in \d+ of \d+ trials: no graphs"),
    "no tokens": (Nothing, r"graphs gave other tokens in \d+ of \d+ trials: no graphs"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_graphs_that_do_not_work_are_not_used(checkpoint: Path, truth: list[Result], fault: str) -> None:
    make, message = FAULTS[fault]
    engine = open_with(checkpoint, graphs := make())
    (warning,) = engine.warnings
    assert re.search(message, warning)
    assert engine.description.endswith("; without graphs")
    assert isinstance(engine.runner, EagerRunner)
    before = graphs.replays
    assert_same(answers(engine, jobs()), truth)
    assert (graphs.replays, engine.room.rows) == (before, 4)


def test_equally_good_tokens_count_as_right(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong tokens stand for those that rounding chose: all count as good here."""
    monkeypatch.setattr(self_proof, "shortfall", lambda *_: 0.0)
    engine = open_with(checkpoint, WrongTokens())
    assert engine.warnings == []
    assert re.search(
        r"; graphs, the same tokens as without in \d+ trials, equally good ones in \d+$", engine.description
    )


def test_shortfall_of_right_and_wrong_tokens(checkpoint: Path) -> None:
    engine = open_with(checkpoint, FakeGraphs())
    for batch in self_proof._batches(Room(1, 1)):
        (tokens,) = self_proof.generate(engine, batch)
        assert shortfall(engine, batch[0], tokens) < 1e-3, "greedy search chose the best tokens"
        for place in (3, len(tokens) - 2):
            wrong = [*tokens[:place], tokens[place] ^ 1, *tokens[place + 1 :]]
            assert shortfall(engine, batch[0], wrong) > self_proof.TIE[torch.float32]
        assert shortfall(engine, batch[0], tokens[:4]) == float("inf"), "an answer without an end"
        assert shortfall(engine, batch[0], []) == float("inf")


def test_short_memory_at_recording_runs_large_batches_without_graphs(checkpoint: Path, truth: list[Result]) -> None:
    engine = open_with(checkpoint, graphs := FailsToRecord(no_memory, lambda name: rows_of(name) > 2))
    assert all(re.fullmatch(r"memory is short: step of [34] rows .* which is slower", each) for each in engine.warnings)
    assert engine.warnings
    assert max(map(rows_of, graphs.names)) == 2
    assert engine.room.rows == 4
    assert_same(answers(engine, jobs()), truth)


def test_short_memory_for_every_graph_runs_without(checkpoint: Path, truth: list[Result]) -> None:
    engine = open_with(checkpoint, FailsToRecord(no_memory))
    assert engine.description.endswith("; without graphs")
    assert_same(answers(engine, jobs()), truth)


def test_short_memory_in_large_replays_halves_the_batch(checkpoint: Path, truth: list[Result]) -> None:
    engine = open_with(checkpoint, FailsToRun(no_memory, lambda _, name: rows_of(name) > 2))
    assert engine.warnings == ["memory on cpu is short: room for 2 answers, not for 4 answers"]
    assert engine.room == Room(2, 1)
    assert engine.free() == 2
    assert "; graphs, the same tokens" in engine.description
    for job, expected in zip(jobs(), truth, strict=True):
        assert_same(answers(engine, [job]), [expected])


def test_short_memory_for_one_row_is_a_config_error(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="does not fit into the memory of cpu"):
        open_with(checkpoint, FailsToRun(no_memory, lambda *_: True))


def test_failed_replay_at_start_is_repeated_without_its_graph(checkpoint: Path, truth: list[Result]) -> None:
    engine = open_with(checkpoint, FailsToRun(failed, lambda number, _: number == 3))
    (warning,) = engine.warnings
    assert re.match(r"the graph of step of \d rows .* failed, internal error .*: it runs without, slower", warning)
    assert "; graphs, the same tokens" in engine.description
    assert_same(answers(engine, jobs()), truth)


@pytest.mark.parametrize("fault", ["graph fails", "memory is short"])
def test_fault_while_running_loses_no_answer(checkpoint: Path, truth: list[Result], fault: str) -> None:
    broken: list[int] = []
    error = failed if fault == "graph fails" else no_memory
    engine = open_with(checkpoint, FailsToRun(error, lambda number, name: number in broken and rows_of(name) > 1))
    assert engine.warnings == []
    broken.extend(range(100_000))
    assert_same(answers(engine, jobs()), truth)
    if fault == "graph fails":
        assert all("it runs without, slower" in warning for warning in engine.warnings)
        assert engine.warnings
    else:
        assert engine.scheduler.limit == 1


def test_long_start_reports_that_it_goes_on(checkpoint: Path) -> None:
    calls: list[None] = []
    settings = Florence2Settings(checkpoint=str(checkpoint), device="cpu", max_batch=4)
    Florence2(graphs=lambda _: FakeGraphs()).open(settings, lambda: calls.append(None))
    assert len(calls) >= 12, "once per trial"


def test_card_is_compared_with_the_cpu(checkpoint: Path, tmp_path: Path) -> None:
    engine = open_with(checkpoint, FakeGraphs())
    vision, encoder = load_parts(open_folder(str(checkpoint)))
    assert difference(engine, vision, encoder) is None

    def wrong(pixels: torch.Tensor) -> torch.Tensor:
        return vision(pixels) * 1.1

    def not_numbers(images: Any, prompts: Any) -> torch.Tensor:
        return encoder(images, prompts) * torch.nan

    assert "its vision tower differs from the CPU by" in str(difference(engine, cast(Any, wrong), encoder))
    assert "its text encoder differs" in str(difference(engine, vision, cast(Any, not_numbers)))
    with pytest.raises(ConfigError, match="cpu computes wrong results: its vision tower differs"):
        prove(engine, FakeGraphs, lambda: cast(Any, (wrong, encoder)), UnfinishedStarts(tmp_path), lambda: None)


def test_engine_without_card_has_no_trials(checkpoint: Path) -> None:
    engine = Florence2().open(Florence2Settings(checkpoint=str(checkpoint), device="cpu"))
    assert "graphs" not in engine.description
    assert isinstance(engine._engine, FastEngine)  # type: ignore[attr-defined]


def test_doctor_reports_that_graphs_are_not_used(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamer.config.model.find_pipeline", lambda: Florence2(graphs=lambda _: WrongTokens()))
    model = Florence2Settings(checkpoint=str(checkpoint), device="cpu", max_batch=1)
    found = [str(finding) for finding in _model(cast(Any, SimpleNamespace(model=model)), tmp_path)]
    assert re.match(r"ok    model: small loads and answers, .*; without graphs$", found[0])
    assert re.match(r"warn  model: graphs gave other tokens in \d+ of \d+ trials: no graphs", found[1])


def test_start_that_crashes_while_recording_is_not_repeated_for_ever(checkpoint: Path, cache: Path) -> None:
    def crash() -> Exception:
        return torch.AcceleratorError("CUDA error: unspecified launch failure")

    for count in ("1\n", "2\n"):
        with pytest.raises(torch.AcceleratorError):
            open_with(checkpoint, FailsToRun(crash, lambda *_: True))
        (file,) = cache.iterdir()
        assert file.read_text() == count
    engine = open_with(checkpoint, graphs := FakeGraphs())
    (warning,) = engine.warnings
    assert warning.startswith("2 starts ended while graphs were recorded or tried: no graphs")
    assert engine.description.endswith("; without graphs")
    assert graphs.names == []
    file.unlink()  # as the warning says
    assert open_with(checkpoint, FakeGraphs()).warnings == []
    assert list(cache.iterdir()) == []


def test_all_rounded_sizes_are_recorded_at_the_start(
    checkpoint: Path, truth: list[Result], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(decode_batch, "ExactBuckets", lambda: RoundedBuckets(4, 128, drafts=True))
    engine = open_with(checkpoint, graphs := FakeGraphs())
    sizes = [str(size) for size in RoundedBuckets(4, 128, drafts=True)]
    assert graphs.names == sizes
    assert f"graphs: preparing 1 of {len(sizes)}, {sizes[0]}" in caplog.text
    assert f"graphs: preparing {len(sizes)} of {len(sizes)}, {sizes[-1]}" in caplog.text
    assert_same(answers(engine, jobs()), truth)
    assert graphs.names == sizes, "no graph is recorded while the engine runs"


def test_warm_up_with_short_memory_halves_the_room(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allocate = FastEngine.allocate

    def short_above_one_row(engine: FastEngine, room: Room, runner: Any) -> None:
        fails = FailsToRun(no_memory, lambda *_: room.rows > 1)
        allocate(engine, room, fails)

    monkeypatch.setattr(FastEngine, "allocate", short_above_one_row)
    settings = Florence2Settings(checkpoint=str(checkpoint), device="cpu", max_batch=4)
    engine = cast(Any, Florence2().open(settings))._engine
    assert engine.room == Room(1, 1)
    assert engine.warnings == [
        "memory on cpu is short: room for 2 answers, not for 4 answers",
        "memory on cpu is short: room for 1 answer, not for 2 answers",
    ]
