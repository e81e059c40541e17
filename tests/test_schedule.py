"""The schedule against a slow, obvious model, and the promises one can say in a sentence."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.bus.messages import Want
from streamer.schedule import Schedule
from streamer.types import Frame, FrameId, Pace

IMAGE = np.zeros((2, 2, 3), np.uint8)


@dataclass(frozen=True)
class Task:
    name: str
    every: float | None = None
    every_n_frames: int | None = None
    task: str = "caption"
    params: object = field(default=None)


def frame(seq: int, pts: float | None = None, epoch: int = 1) -> Frame:
    return Frame("s", epoch, seq, 0.0, 0.0, pts, IMAGE)


def names(schedule: Schedule, at: Frame, now: float) -> list[str]:
    return [due.name for due in schedule.take(at, now)]


def schedule(*tasks: Task, pace: Pace = "live", now: float = 100.0) -> Schedule:
    return Schedule("s", tasks, pace, now)


def test_live_intervals_run_on_the_clock_and_skip_missed_ticks() -> None:
    plan = schedule(Task("a", every=1.0))
    assert names(plan, frame(0), 100.0) == ["a"]
    assert plan.want(100.9) is None
    assert plan.next_due() == 101.0
    assert plan.want(103.5) == Want(after=FrameId(1, 0))
    assert names(plan, frame(90), 103.5) == ["a"]
    assert plan.next_due() == 104.0


def test_live_intervals_do_not_drift() -> None:
    plan = schedule(Task("a", every=0.25))
    for tick in range(1000):
        late = 100.0 + 0.25 * tick + 0.2
        assert plan.want(late) is not None
        assert names(plan, frame(tick), late) == ["a"]


def test_frame_counts_ask_for_a_frame_number_and_start_again_with_a_connection() -> None:
    plan = schedule(Task("a", every_n_frames=10))
    assert names(plan, frame(0), 0.0) == ["a"]
    assert plan.want(0.0) == Want(after=FrameId(1, 0), at_seq=10)
    assert names(plan, frame(9), 0.0) == []
    assert names(plan, frame(13), 0.0) == ["a"]
    assert plan.want(0.0) == Want(after=FrameId(1, 13), at_seq=20)
    assert names(plan, frame(0, epoch=2), 0.0) == ["a"]


def test_file_intervals_run_on_media_time_whatever_the_clock_says() -> None:
    plan = schedule(Task("a", every=0.5), Task("b", every=2.0), pace="file")
    times = [round(index * 0.04, 6) for index in range(101)]
    ran = {"a": [], "b": []}  # type: dict[str, list[float]]
    for index, pts in enumerate(times):
        want = plan.want(0.0)
        assert want is not None
        if want.matches(FrameId(1, index), pts):
            for name in names(plan, frame(index, pts), 0.0):
                ran[name].append(pts)
    assert ran == {"a": [0.0, 0.52, 1.0, 1.52, 2.0, 2.52, 3.0, 3.52, 4.0], "b": [0.0, 2.0, 4.0]}


def test_a_tick_takes_all_tasks_that_are_due() -> None:
    plan = schedule(Task("a", every=1.0), Task("b", every=3.0), Task("c", every_n_frames=5))
    assert names(plan, frame(0), 100.0) == ["a", "b", "c"]
    assert names(plan, frame(4), 101.0) == ["a"]
    assert names(plan, frame(6), 103.0) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("want", "seq", "pts", "met"),
    [
        (Want(), 0, None, True),
        (Want(after=FrameId(1, 5)), 5, 1.0, False),
        (Want(after=FrameId(1, 5)), 6, 1.0, True),
        (Want(after=FrameId(1, 5), at_pts=2.0), 6, 1.96, False),
        (Want(after=FrameId(1, 5), at_pts=2.0), 7, 2.0, True),
        (Want(after=FrameId(1, 5), at_pts=2.0, at_seq=7), 7, 1.0, True),
        (Want(after=FrameId(1, 5), at_pts=2.0), 6, None, True),
        (Want(after=FrameId(0, 5), at_seq=100), 0, 0.0, True),
    ],
)
def test_want(want: Want, seq: int, pts: float | None, met: bool) -> None:
    assert want.matches(FrameId(1, seq), pts) is met


@given(
    every=st.floats(0.05, 10),
    moments=st.lists(st.floats(0.001, 30), min_size=1, max_size=60),
)
def test_live_runs_once_per_tick_of_the_grid(every: float, moments: list[float]) -> None:
    """The obvious model: tick k is at k * every; one run for any number of ticks since the last look."""
    plan = schedule(Task("a", every=every), now=0.0)
    clock, seen = 0.0, -1
    for seq, step in enumerate(moments):
        clock += step
        ticks = int((clock + 1e-6) / every)
        if abs(clock / every - round(clock / every)) * every < 2e-6:
            continue  # on a tick to within rounding: either answer is right
        assert (plan.want(clock) is not None) == (ticks > seen)
        assert names(plan, frame(seq), clock) == (["a"] if ticks > seen else [])
        seen = max(seen, ticks)
