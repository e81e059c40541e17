"""Programs run as graphs while that works, and as they are after each kind of failure."""

from __future__ import annotations

import pytest
import torch

from pipelines.florence2.fast.graph_guard import GuardedRunner, ReplayError
from tests.support.graph_faults import (
    FailsToRecord,
    FailsToRun,
    FakeGraphs,
    cannot_record,
    failed,
    no_memory,
)


class Counter:
    def __init__(self) -> None:
        self.runs = 0

    def __call__(self) -> None:
        self.runs += 1


def guarded(graphs: FakeGraphs) -> tuple[GuardedRunner, list[str]]:
    told: list[str] = []
    return GuardedRunner(graphs, told.append), told


def test_working_graphs_replay_and_report_nothing() -> None:
    runner, told = guarded(graphs := FakeGraphs())
    program = Counter()
    runner.prepare("step", program)()
    assert (program.runs, graphs.replays, told, runner.recorded) == (1, 1, [], {"step"})


def test_failed_recording_ends_all_further_recordings() -> None:
    runner, told = guarded(graphs := FailsToRecord(cannot_record, lambda name: name == "second"))
    programs = {name: Counter() for name in ("first", "second", "third")}
    for run in [runner.prepare(name, program) for name, program in programs.items()]:
        run()
    assert (runner.recorded, graphs.names) == ({"first"}, ["first"])
    assert [program.runs for program in programs.values()] == [1, 1, 1]
    (message,) = told
    assert message.startswith("the step for 4 rows cannot be recorded as a CUDA graph on cuda:0")
    assert "CaptureError" not in message


def test_short_memory_ends_only_large_recordings() -> None:
    runner, told = guarded(graphs := FailsToRecord(no_memory, lambda name: name == "large"))
    large, small = Counter(), Counter()
    for run in (runner.prepare("large", large), runner.prepare("small", small)):
        run()
    assert (large.runs, small.runs, graphs.replays) == (1, 1, 1)
    assert told == ["memory is short: large runs without a graph, which is slower"]


def test_failed_replay_is_repeated_without_graph() -> None:
    runner, told = guarded(FailsToRun(failed, lambda number, _: number == 2))
    run = runner.prepare("step", program := Counter())
    run()
    with pytest.raises(ReplayError):
        run()
    run()
    assert (program.runs, runner.recorded) == (2, set())
    (message,) = told
    assert message.startswith("the graph of step failed, ")
    assert "invalid argument" not in message


@pytest.mark.parametrize("error", [no_memory, lambda: torch.AcceleratorError("CUDA error: unspecified launch failure")])
def test_short_memory_and_lost_device_reach_the_engine(error: object) -> None:
    runner, told = guarded(FailsToRun(error, lambda *_: True))  # type: ignore[arg-type]
    with pytest.raises(Exception, match="CUDA"):
        runner.prepare("step", Counter())()
    assert (told, runner.recorded) == ([], {"step"})
