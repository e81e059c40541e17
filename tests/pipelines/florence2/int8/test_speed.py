"""Times of int8 beside the usual engine: what is compared, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipelines.florence2.int8 import quantize as quantizing
from pipelines.florence2.int8 import speed
from pipelines.florence2.int8.gate import FLOOR, Generated
from pipelines.florence2.int8.speed import TIMED, Speed, compare_parts, compare_speed
from pipelines.florence2.tasks import SPECS
from streamer.types import Answer, DueTask, Frame, Job, Result, Task

JOBS = [
    Job(
        DueTask("", Task("caption", "caption", SPECS["caption"].parameters()), 0.0),
        Frame("", 0, index, 0, 0, None, np.zeros((8, 8, 3), np.uint8)),
    )
    for index in range(20)
]


class Clock:
    """A clock that only engines move."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class FakeEngine:
    """Answers each job in as many seconds as the next entry of `times`."""

    def __init__(self, clock: Clock, times: Sequence[float]) -> None:
        self.image_cache: set[int] = set()
        self.jobs: list[Job] = []
        self._clock, self._times = clock, list(times)

    def free(self) -> int:
        return 1

    def admit(self, jobs: Sequence[Job]) -> None:
        self.jobs += jobs

    def step(self) -> list[Result]:
        self._clock.now += self._times[len(self.jobs) - 1]
        return [Result(self.jobs[-1], "ok", Answer(text="a dog"))]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(speed, "time", clock)
    return clock


def compare(clock: Clock, usual: Sequence[float], int8: Sequence[float]) -> Speed:
    first: Any = FakeEngine(clock, usual)
    second: Any = FakeEngine(clock, int8)
    found = compare_speed(first, second, JOBS)
    assert first.jobs == second.jobs
    return found


def test_first_answer_and_outliers_do_not_count(clock: Clock) -> None:
    found = compare(clock, [9.0, *[2.0] * 6, 50.0], [90.0, *[1.0] * 7])
    assert found == Speed(usual_s=2.0, int8_s=1.0, ratio=0.5)
    assert found.row() == {"passed": True, "reason": None, "usual_s": 2.0, "int8_s": 1.0, "ratio": 0.5}


def test_load_meets_both_engines(clock: Clock) -> None:
    """The computer becomes five times slower after some answers."""
    found = compare(clock, [2.0] * 4 + [10.0] * (TIMED - 3), [1.0] * 4 + [5.0] * (TIMED - 3))
    assert found.ratio == 0.5


def test_parts_are_timed_apart(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def engine(vision_s: float, encoder_s: float) -> Any:
        def run(seconds: float) -> list[None]:
            clock.now += seconds
            return [None]

        return SimpleNamespace(
            image_cache=SimpleNamespace(vision=lambda _: run(vision_s)), encoder=lambda *_: run(encoder_s)
        )

    monkeypatch.setattr(speed, "example", lambda _: (None, []))
    found = compare_parts(engine(4.0, 1.0), engine(2.0, 3.0))
    assert found == {"vision": Speed(4.0, 2.0, 0.5), "encoder": Speed(1.0, 3.0, 3.0)}
    assert [part for part, times in found.items() if times.refusal] == ["encoder"]


@pytest.mark.parametrize("ratio", [1.0, 1.5])
def test_task_that_is_not_faster_does_not_pass(ratio: float) -> None:
    row = Speed(usual_s=1.0, int8_s=ratio, ratio=ratio).row()
    assert not row["passed"]
    assert f"takes {ratio:.2f} times as long as without int8" in row["reason"]


@pytest.mark.parametrize(
    ("wrong_with_encoder", "wrong_without", "chosen"),
    [(0, 0, {"vision", "encoder"}), (30, 0, {"vision"}), (30, 30, {"vision", "encoder"})],
    ids=["both pass", "the vision tower passes", "none passes"],
)
def test_encoder_stays_exact_where_that_helps(
    monkeypatch: pytest.MonkeyPatch, wrong_with_encoder: int, wrong_without: int, chosen: set[str]
) -> None:
    def answers(models: Any, jobs: Sequence[Job], *_: object) -> list[Generated]:
        wrong = wrong_with_encoder if "encoder" in models else wrong_without
        return [Generated((), Answer(text="a cat" if index < wrong else "a dog")) for index in range(len(jobs))]

    class Models(dict[str, Path]):
        model = "tiny"

    monkeypatch.setattr(quantizing, "build_engine", lambda usual, models: Models(models))
    monkeypatch.setattr(quantizing, "answers", answers)
    usual: Any = None
    models = {name: Path(name) for name in ("vision", "encoder")}
    reference = [Generated((), Answer(text="a dog"))] * 200
    best = quantizing._best_candidate(usual, models, JOBS * 10, reference, FLOOR, print)
    assert set(best.models) == chosen
