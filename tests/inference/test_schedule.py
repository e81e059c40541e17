"""The schedule of one stream, by examples and against simple models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.bus.frame_protocol import MAX_WAIT_S, FrameRequest
from streamer.bus.stream_state import ScheduleState
from streamer.config.calendar import Cron, parse_windows
from streamer.config.model import Stream, from_mapping
from streamer.config.task import ScheduledTask
from streamer.inference.policy import Policy
from streamer.inference.schedule import MAX_SPREAD_S, Schedule, Turn, make_schedule
from streamer.inference.triggers import Now
from streamer.types import Frame, FrameId, Pace
from tests.support.tasks import at, frame, scheduled


def names(schedule: Schedule, on: Frame, now: float) -> list[str]:
    return [due.task.name for due in schedule.pop_due(on, at(now))]


def requested(plan: Schedule, now: float, names: set[str] | None = None) -> FrameRequest:
    """The request that a schedule makes now, as sent to capture."""
    plan.advance(at(now))
    request = plan.next_request(at(now), names)
    assert request is not None
    plan.mark_requested(request, at(now))
    return request


def schedule(*tasks: ScheduledTask, pace: Pace = "live", now: float = 100.0) -> Schedule:
    return Schedule("s", tasks, pace, at(now))


def test_live_interval_skips_missed_ticks() -> None:
    plan = schedule(scheduled("a", every=1.0))
    assert names(plan, frame(0), 100.0) == ["a"]
    assert plan.next_request(at(100.9)) is None
    assert plan.wait(at(100.9)) == pytest.approx(0.1)
    assert plan.next_request(at(103.5)) == FrameRequest(after=FrameId(1, 0), interval=1.0)
    assert names(plan, frame(90), 103.5) == ["a"]
    assert plan.wait(at(103.5)) == pytest.approx(0.5)


def test_live_interval_does_not_drift() -> None:
    plan = schedule(scheduled("a", every=0.25))
    for tick in range(1000):
        late = 100.0 + 0.25 * tick + 0.2
        assert plan.next_request(at(late)) is not None
        assert names(plan, frame(tick), late) == ["a"]


def test_frame_count_restarts_with_a_connection() -> None:
    plan = schedule(scheduled("a", every_n_frames=10))
    assert names(plan, frame(0), 0.0) == ["a"]
    assert plan.next_request(at(0.0)) == FrameRequest(after=FrameId(1, 0), at_seq=10)
    assert names(plan, frame(9), 0.0) == []
    assert names(plan, frame(13), 0.0) == ["a"]
    assert plan.next_request(at(0.0)) == FrameRequest(after=FrameId(1, 13), at_seq=20)
    assert names(plan, frame(0, epoch=2), 0.0) == ["a"]


def test_file_interval_runs_on_media_time() -> None:
    plan = schedule(scheduled("a", every=0.5), scheduled("b", every=2.0), pace="file")
    times = [round(index * 0.04, 6) for index in range(101)]
    ran = {"a": [], "b": []}  # type: dict[str, list[float]]
    for index, pts in enumerate(times):
        request = plan.next_request(at(0.0))
        assert request is not None
        if request.matches(FrameId(1, index), pts):
            for name in names(plan, frame(index, pts), 0.0):
                ran[name].append(pts)
    assert ran == {"a": [0.0, 0.52, 1.0, 1.52, 2.0, 2.52, 3.0, 3.52, 4.0], "b": [0.0, 2.0, 4.0]}


def test_frame_serves_all_due_tasks() -> None:
    plan = schedule(scheduled("a", every=1.0), scheduled("b", every=3.0), scheduled("c", every_n_frames=5))
    assert names(plan, frame(0), 100.0) == ["a", "b", "c"]
    assert names(plan, frame(4), 101.0) == ["a"]
    assert names(plan, frame(6), 103.0) == ["a", "b", "c"]


def test_live_stream_runs_only_chosen_tasks() -> None:
    plan = schedule(scheduled("a", every=1.0), scheduled("b", every=3.0), scheduled("c", every_n_frames=5))
    assert [due.task.name for due in plan.pop_due(frame(0), at(100.0), {"b"})] == ["b"]
    assert plan.next_request(at(100.0), {"c"}) == FrameRequest(after=FrameId(1, 0), at_seq=0)
    assert plan.next_request(at(100.0), {"a", "c"}) == FrameRequest(after=FrameId(1, 0))
    assert [due.task.name for due in plan.pop_due(frame(1), at(100.1))] == ["a", "c"]


def test_file_runs_all_due_tasks_on_a_frame() -> None:
    plan = schedule(scheduled("a", every=1.0), scheduled("b", every=3.0), pace="file")
    assert [due.task.name for due in plan.pop_due(frame(0, 0.0), at(100.0), {"b"})] == ["a", "b"]


def test_max_age_waits_for_next_frame_on_slow_camera() -> None:
    plan = schedule(
        scheduled("a", every=10.0, max_age=2.0), scheduled("b", every=10.0, max_age=3.0), scheduled("c", every=10.0)
    )
    assert plan.next_request(at(100.0)) == FrameRequest(interval=10.0), "task c takes a frame of any age"
    assert requested(plan, 100.0, {"a", "b"}) == FrameRequest(interval=10.0, max_age=3.0)
    plan.skip_stale(FrameId(1, 7))
    assert plan.next_request(at(101.0), {"a"}) == FrameRequest(interval=10.0, after=FrameId(1, 7))
    assert [due.task.name for due in plan.pop_due(frame(8), at(105.0), {"a"})] == ["a"]
    assert requested(plan, 105.0, {"b"}) == FrameRequest(interval=10.0, after=FrameId(1, 8), max_age=3.0)
    plan.skip_stale(FrameId(1, 8))
    assert plan.next_request(at(106.0), {"b"}) == FrameRequest(interval=10.0, after=FrameId(1, 8), max_age=3.0), (
        "frame 8 was used already"
    )


def test_stretched_interval_counts_from_its_last_tick() -> None:
    plan = schedule(scheduled("a", every=10.0, priority="low"), scheduled("b", every=10.0))
    assert names(plan, frame(0), 100.0) == ["a", "b"]
    plan.stretch({"low": 3.0})
    assert names(plan, frame(1), 112.0) == ["b"]
    assert names(plan, frame(2), 131.0) == ["a", "b"]
    plan.stretch({})
    assert names(plan, frame(3), 140.0) == ["a", "b"]


def test_frame_counts_are_stretched_files_are_not() -> None:
    live, file = schedule(scheduled("a", every_n_frames=10)), schedule(scheduled("a", every=1.0), pace="file")
    for plan in (live, file):
        plan.stretch({"normal": 2.0})
        plan.pop_due(frame(0, 0.0), at(0.0))
    assert live.next_request(at(0.0)) == FrameRequest(after=FrameId(1, 0), at_seq=20)
    assert file.next_request(at(0.0)) == FrameRequest(after=FrameId(1, 0), at_pts=1.0)


@pytest.mark.parametrize(
    ("wanted", "seq", "pts", "met"),
    [
        (FrameRequest(), 0, None, True),
        (FrameRequest(after=FrameId(1, 5)), 5, 1.0, False),
        (FrameRequest(after=FrameId(1, 5)), 6, 1.0, True),
        (FrameRequest(after=FrameId(1, 5), at_pts=2.0), 6, 1.96, False),
        (FrameRequest(after=FrameId(1, 5), at_pts=2.0), 7, 2.0, True),
        (FrameRequest(after=FrameId(1, 5), at_pts=2.0, at_seq=7), 7, 1.0, True),
        (FrameRequest(after=FrameId(1, 5), at_pts=2.0), 6, None, True),
        (FrameRequest(after=FrameId(0, 5), at_seq=100), 0, 0.0, True),
    ],
)
def test_frame_request_matches(wanted: FrameRequest, seq: int, pts: float | None, met: bool) -> None:
    assert wanted.matches(FrameId(1, seq), pts) is met


@given(
    every=st.floats(0.05, 10),
    moments=st.lists(st.floats(0.001, 30), min_size=1, max_size=60),
)
def test_live_interval_runs_once_per_tick(every: float, moments: list[float]) -> None:
    """The model: tick k is at k * every, and any number of ticks since the last run make one run."""
    plan = schedule(scheduled("a", every=every), now=0.0)
    clock, seen = 0.0, -1
    for seq, step in enumerate(moments):
        clock += step
        ticks = int((clock + 1e-6) / every)
        if abs(clock / every - round(clock / every)) * every < 2e-6:
            continue  # on a tick within rounding: both answers are right
        assert (plan.next_request(at(clock)) is not None) == (ticks > seen)
        assert names(plan, frame(seq), clock) == (["a"] if ticks > seen else [])
        seen = max(seen, ticks)


# -- wall clock: windows and cron lines

BERLIN = ZoneInfo("Europe/Berlin")
SPRING, AUTUMN = datetime(2026, 3, 29, tzinfo=BERLIN), datetime(2026, 10, 25, tzinfo=BERLIN)
"""Days on which the clock goes from 02:00 to 03:00 and from 03:00 to 02:00."""


class Simulation:
    """Runs a schedule with one task every `step` seconds, with a wall clock that the test can set."""

    def __init__(self, task: ScheduledTask, start: datetime, step: float = 30.0) -> None:
        self.mono, self.unix_time, self.step, self.zone = 1000.0, start.timestamp(), step, start.tzinfo
        self.plan = Schedule("s", [task], "live", self.now)
        self.runs: list[str] = []
        self.monos: list[float] = []
        self._seq = 0

    @property
    def now(self) -> Now:
        return Now(self.mono, self.unix_time)

    def go(self, hours: float) -> Simulation:
        for _ in range(round(hours * 3600 / self.step)):
            self.plan.advance(self.now)
            if self.plan.next_request(self.now) is not None:
                self._seq += 1
                if self.plan.pop_due(frame(self._seq), self.now):
                    self.runs.append(f"{datetime.fromtimestamp(self.unix_time, self.zone):%d %H:%M}")
                    self.monos.append(self.mono)
            self.mono += self.step
            self.unix_time += self.step
        return self

    def set_clock(self, hours: float) -> Simulation:
        self.unix_time += hours * 3600
        return self


def cron(line: str) -> ScheduledTask:
    return scheduled("a", at=Cron(line, BERLIN))


def night(every: float, text: str = "22:00-06:00") -> ScheduledTask:
    hours = parse_windows(text)
    return scheduled("a", every=every, between=type(hours)(hours.text, hours.spans, BERLIN))


DAY = datetime(2026, 6, 1, tzinfo=BERLIN)  # a Monday


def test_cron_runs_at_its_times() -> None:
    assert Simulation(cron("30 7,19 * * *"), DAY).go(48).runs == ["01 07:30", "01 19:30", "02 07:30", "02 19:30"]
    assert Simulation(cron("0 12 * * sat"), DAY).go(24 * 8).runs == ["06 12:00"]


def test_cron_at_daylight_saving_changes() -> None:
    before = timedelta(hours=12)
    assert Simulation(cron("30 2 * * *"), SPRING - before).go(48).runs == ["29 03:00", "30 02:30"]
    assert Simulation(cron("30 2 * * *"), AUTUMN - before).go(48).runs == ["25 02:30", "26 02:30"]
    assert len(Simulation(cron("15 * * * *"), SPRING).go(23).runs) == 23
    assert len(Simulation(cron("15 * * * *"), AUTUMN).go(25).runs) == 25


@pytest.mark.parametrize("hours", [1, -1])
@pytest.mark.parametrize("minute", range(0, 150, 10))
def test_cron_runs_once_when_clock_is_set_by_an_hour(hours: int, minute: int) -> None:
    """Exactly one run at 12:00, at whatever minute around it the clock is set."""
    simulation = Simulation(cron("0 12 * * *"), DAY.replace(hour=10)).go(minute / 60).set_clock(hours).go(6)
    due = [run for run in simulation.runs if run.startswith("01")]
    assert len(due) == 1


@given(
    starts=st.integers(0, 24 * 60 - 1),
    every=st.sampled_from([5, 20, 60, 180]),
    sets=st.lists(st.tuples(st.integers(1, 600), st.sampled_from([-1, 1])), max_size=4),
)
@settings(max_examples=40)
def test_cron_matches_a_list_of_all_its_times(starts: int, every: int, sets: list[tuple[int, int]]) -> None:
    """The model: each time runs once, when the clock shows it or has passed it; late ones run together."""
    line = f"*/{every} * * * *" if every < 60 else f"7 */{every // 60} * * *"
    start = DAY + timedelta(minutes=starts)
    simulation = Simulation(scheduled("a", at=Cron(line, BERLIN)), start, step=60.0)
    times, moment = [], start.timestamp()
    while moment < start.timestamp() + 50 * 3600:
        moment += 60
        local = datetime.fromtimestamp(moment, BERLIN)
        minute = local.hour * 60 + local.minute
        if minute % every == (0 if every < 60 else 7):
            times.append(moment)
    expected: list[float] = []
    for minutes, hour in [*sets, (300, 0)]:
        for _ in range(minutes):
            passed = [time for time in times if time <= simulation.unix_time]
            if passed:
                expected.append(simulation.mono)
                times = times[len(passed) :]
            simulation.go(1 / 60)
        simulation.set_clock(hour)
    assert simulation.monos == expected


def test_cron_ignores_runs_missed_by_a_wrong_clock() -> None:
    simulation = Simulation(cron("0 12 * * *"), datetime(1970, 1, 3, tzinfo=BERLIN)).go(1)
    simulation.unix_time = DAY.replace(hour=15).timestamp()
    assert simulation.go(24).runs == ["02 12:00"]
    simulation = Simulation(cron("0 12 * * *"), datetime(2036, 1, 3, tzinfo=BERLIN)).go(1)
    simulation.unix_time = DAY.replace(hour=9).timestamp()
    assert simulation.go(24).runs == ["01 12:00"]


def test_missed_cron_times_are_made_up_for_by_one_run() -> None:
    plan = Schedule("s", [cron("*/5 * * * *")], "live", Now(0.0, DAY.timestamp()))
    later = Now(3000.0, DAY.timestamp() + 3000)
    assert len(plan.pop_due(frame(0), later)) == 1
    assert plan.pop_due(frame(1), later) == []


def test_interval_restarts_when_its_window_opens() -> None:
    simulation = Simulation(night(2 * 3600), DAY.replace(hour=12)).go(48)
    nights = ["01 22:00", "02 00:00", "02 02:00", "02 04:00", "02 22:00", "03 00:00", "03 02:00", "03 04:00"]
    assert simulation.runs == nights


def test_windows_on_weekdays() -> None:
    task = night(3600, "mon-fri 07:00-10:00")
    assert len(Simulation(task, DAY).go(7 * 24).runs) == 5 * 3
    weekend = Simulation(night(6 * 3600, "fri 22:00-06:00"), DAY).go(7 * 24)
    assert weekend.runs == ["05 22:00", "06 04:00"]


def test_frame_count_runs_within_its_window_only() -> None:
    hours = night(1).between
    plan = Schedule("s", [scheduled("a", every_n_frames=10, between=hours)], "live", Now(0.0, DAY.timestamp()))
    noon, midnight = Now(1.0, DAY.replace(hour=12).timestamp()), Now(2.0, DAY.timestamp() + 24 * 3600)
    assert plan.next_request(noon) is None
    assert plan.pop_due(frame(0), noon) == []
    assert plan.next_request(midnight) is not None
    assert len(plan.pop_due(frame(1), midnight)) == 1


@pytest.mark.parametrize("hours", [1, -1])
@pytest.mark.parametrize("minute", [0, 50, 110, 130, 170, 290, 470, 490, 550])
def test_interval_in_a_window_when_the_clock_is_set(hours: int, minute: int) -> None:
    """Runs are at least the interval apart, and exactly the interval while the window is open."""
    simulation = Simulation(night(1800), DAY.replace(hour=21)).go(minute / 60).set_clock(hours).go(30)
    gaps = [later - earlier for earlier, later in zip(simulation.monos, simulation.monos[1:], strict=False)]
    assert min(gaps) >= 1800
    assert all(gap == 1800 or gap > 3600 * 0.5 for gap in gaps)
    open_hours = [run for run in simulation.runs if int(run[3:5]) in (22, 23, 0, 1, 2, 3, 4, 5)]
    assert open_hours == simulation.runs


def test_window_at_daylight_saving_changes() -> None:
    """The window follows the local clock: an hour less in spring, an hour more in autumn."""
    noon = timedelta(hours=12)
    assert len(Simulation(night(3600), SPRING - noon).go(24).runs) == 7
    assert len(Simulation(night(3600), AUTUMN - noon).go(24).runs) == 9


@given(
    every=st.integers(1, 900),
    start=st.integers(0, 8 * 24 * 60),
    window=st.sampled_from(["22:00-06:00", "mon-fri 08:00-18:00", "sun 02:30-03:30", "sat 20:00-24:00", "01:00-00:30"]),
)
@settings(max_examples=15)
def test_interval_in_a_window_matches_a_simple_model(every: int, start: int, window: str) -> None:
    """The model: a run in each minute that is open by the local clock and an interval after the last run."""
    begin = SPRING - timedelta(days=4) + timedelta(minutes=start)
    task = night(every * 60, window)
    assert task.between is not None
    simulation = Simulation(task, begin, step=60.0).go(5 * 24)
    first, last = window.split()[-1].split("-")
    days = {"mon-fri": range(5), "sun": [6], "sat": [5]}.get(window.split()[0], range(7))
    expected: list[float] = []
    for minute in range(5 * 24 * 60):
        local = datetime.fromtimestamp(begin.timestamp() + minute * 60, BERLIN)
        clock = f"{local:%H:%M}"
        today, yesterday = local.weekday() in days, (local.weekday() - 1) % 7 in days
        if first < last:
            is_open = today and first <= clock < last
        else:
            is_open = (today and clock >= first) or (yesterday and clock < last)
        if is_open and (not expected or minute * 60 + 1000 - expected[-1] >= every * 60):
            expected.append(minute * 60 + 1000)
    assert simulation.monos == expected


# -- motion and change


def triggered(seq: int, *names: str) -> Frame:
    return replace(frame(seq), triggered=frozenset(names), captured_at=float(seq))


def test_motion_task_reports_unchanged_once_a_minute() -> None:
    plan = Schedule("s", [scheduled("x", every=1.0, when="motion", refresh=300.0)], "live", at(100.0))
    first = plan.next_request(at(100.0))
    assert first is not None
    assert not first.on_trigger, "without an answer any frame is due"
    assert [due.unchanged_since for due in plan.pop_due(triggered(1), at(100.0))] == [None]
    assert plan.next_request(at(100.5)) is None
    quiet = plan.next_request(at(101.5))
    assert quiet is not None
    assert (quiet.on_trigger, quiet.motion_gates[0].when, quiet.motion_gates[0].since) == (True, "motion", (1, 1))
    assert plan.pop_due(triggered(2), at(101.5)) == []
    assert [due.unchanged_since for due in plan.pop_due(triggered(3, "x"), at(101.7))] == [None]
    ran = []
    for second in range(103, 500):
        request = plan.next_request(at(second))
        assert request is not None
        if not request.on_trigger:
            ran += [(second, due.unchanged_since) for due in plan.pop_due(triggered(second), at(second))]
    unchanged = [second for second, since in ran if since == 3.0]
    assert len(unchanged) == 4
    assert {after - before for before, after in pairwise(unchanged)} == {60}
    assert (402, None) in ran, "runs again after the refresh"


def test_motion_task_can_run_again_without_motion() -> None:
    plan = Schedule("s", [scheduled("x", every=1.0, when="motion"), scheduled("y", every=1.0)], "live", at(100.0))
    policy = Policy({"s": plan}, at(100.0))
    plan.pop_due(triggered(1), at(100.0))
    policy.run_again("s", "x", at(100.1))
    assert [due.task.name for due in plan.pop_due(triggered(2), at(100.5))] == []
    ran = plan.pop_due(triggered(3), at(101.0))
    assert [(due.task.name, due.unchanged_since) for due in ran] == [("x", None), ("y", None)]
    assert [due.task.name for due in plan.pop_due(triggered(4), at(102.0))] == ["y"]


def test_motion_task_runs_at_once_on_a_new_connection() -> None:
    plan = Schedule("s", [scheduled("x", every=1.0, when="change")], "live", at(100.0))
    plan.pop_due(triggered(5), at(100.0))
    assert [due.unchanged_since for due in plan.pop_due(frame(0, epoch=2), at(102.0))] == [None]


def test_quiet_motion_task_is_not_overdue_and_blocks_nothing() -> None:
    gated, plain = scheduled("x", every=1.0, when="motion"), scheduled("y", every=10.0)
    plan = Schedule("s", [gated, plain], "live", at(100.0))
    plan.pop_due(triggered(1), at(100.0))
    for second in range(102, 109):
        assert requested(plan, second).on_trigger
        assert plan.triggers[0].deadline(at(second)) > second
    assert not plan.triggers[0].is_demand(at(130.0))
    request = plan.next_request(at(110.0))
    assert request is not None
    assert not request.on_trigger
    assert [due.task.name for due in plan.pop_due(triggered(9), at(110.0))] == ["y"]
    assert plan.next_request(at(110.1), {"x"}) is not None


def handed_over(plan: Schedule, *tasks: ScheduledTask, pace: Pace = "live", now: float) -> Schedule:
    """Return the schedule of the next process, which has got the state as JSON."""
    following = schedule(*tasks, pace=pace, now=now)
    following.restore(ScheduleState.model_validate_json(plan.state([]).model_dump_json()))
    return following


def test_next_process_goes_on_with_every_trigger() -> None:
    tasks = (
        scheduled("interval", every=10.0),
        scheduled("frames", every_n_frames=30),
        scheduled("moves", every=5.0, when="motion"),
    )
    plan = schedule(*tasks)
    assert set(names(plan, frame(3), 100.0)) == {"interval", "frames", "moves"}
    requested(plan, 106.0)
    following = handed_over(plan, *tasks, now=107.0)
    for now in (107.0, 109.0, 111.0, 170.0):
        assert following.next_request(at(now)) == plan.next_request(at(now))
        assert following.wait(at(now)) == plan.wait(at(now))
        for old, new in zip(plan.triggers, following.triggers, strict=True):
            assert (new.is_ready(at(now)), new.deadline(at(now))) == (old.is_ready(at(now)), old.deadline(at(now)))
    assert names(following, frame(20), 108.0) == []
    assert names(following, frame(30), 109.0) == ["frames"]
    moved = replace(frame(4), triggered=frozenset({"moves"}))
    assert names(handed_over(plan, *tasks, now=107.0), moved, 107.0) == ["moves"]


def test_cron_run_during_the_move_is_made_up_for_once() -> None:
    cron = scheduled("cron", at=Cron("* * * * *"))
    start = 6000.0  # a whole minute
    plan = schedule(cron, now=start + 1.0)
    gone_by = start + 61.0
    assert schedule(cron, now=gone_by).next_request(at(gone_by)) is None, "lost without the state"
    following = handed_over(plan, cron, now=gone_by)
    assert names(following, frame(0), gone_by) == ["cron"]
    assert names(handed_over(following, cron, now=gone_by + 1), frame(1), gone_by + 1) == [], "not a second time"


def test_media_time_goes_on_in_the_next_process() -> None:
    task = scheduled("a", every=2.0)
    plan = schedule(task, pace="file")
    assert names(plan, frame(0, pts=0.0), 100.0) == ["a"]
    following = handed_over(plan, task, pace="file", now=101.0)
    assert requested(following, 101.0).at_pts == 2.0
    assert names(following, frame(30, pts=1.0), 101.0) == []


def test_overload_of_a_device_stays_with_it() -> None:
    task = scheduled("a", every=1.0)
    plan = schedule(task)
    names(plan, frame(0), 100.0)
    plan.stretch({"normal": 4.0})
    assert plan.wait(at(100.0)) == pytest.approx(4.0)
    assert handed_over(plan, task, now=100.5).wait(at(100.5)) == pytest.approx(0.5)


def test_state_of_another_trigger_is_ignored() -> None:
    plan = schedule(scheduled("a", every_n_frames=10))
    names(plan, frame(0), 100.0)
    assert names(handed_over(plan, scheduled("a", every=1.0), now=200.0), frame(1), 200.0) == ["a"]


# Streams of other hosts


def remote_streams(count: int, *tasks: dict[str, object]) -> Mapping[str, Stream]:
    config = {
        f"cam{number}": {"source": f"streamer://boxa/cam{number}", "tasks": list(tasks)} for number in range(count)
    }
    desk = {"source": "synthetic", "tasks": list(tasks)}
    return from_mapping({"agent": "test", "streams": {"desk": desk, **config}}).streams


def first_ticks(streams: Mapping[str, Stream], start: float) -> dict[str, list[float]]:
    """Return the seconds from `start` to the first tick of each task by stream."""
    plans = {name: make_schedule(streams, name, at(start)) for name in streams}
    return {name: [trigger.wait(at(start)) for trigger in plan.triggers] for name, plan in plans.items()}


@pytest.mark.parametrize(
    ("number", "every", "sizes"),
    [(3, 0.5, [1, 1, 1]), (8, 0.5, [2] * 4), (8, 2.0, [1] * 8), (25, 5.0, [4] + [3] * 7), (8, 0.15, [8])],
)
def test_ticks_of_remote_streams_are_spread(number: int, every: float, sizes: list[int]) -> None:
    """None waits for the pictures of all others on the link, and the model is not busy with single frames all the time.

    `sizes`: number of streams with the same tick, by time.
    """
    streams = remote_streams(number, {"task": "caption", "every": f"{every:g}s"})
    start, step = 1234.567, min(every, MAX_SPREAD_S)
    ticks = first_ticks(streams, start)
    assert ticks.pop("desk") == [0.0], "a stream of this host ticks at once"
    assert all(0 <= tick <= step for (tick,) in ticks.values())
    places = Counter(round((start + tick) % step, 6) % step for (tick,) in ticks.values())
    assert [places[place] for place in sorted(places)] == sizes
    assert sorted(places) == pytest.approx([turn * step / len(sizes) for turn in range(len(sizes))], abs=1e-5)


def test_ticks_of_remote_streams_stay_apart_whenever_they_start() -> None:
    """Another process takes the streams one by one."""
    streams = remote_streams(4, {"task": "caption", "every": "1s"})
    starts = {"cam0": 100.3, "cam1": 107.9, "cam2": 111.11, "cam3": 131.7}
    ticks = {name: start + first_ticks(streams, start)[name][0] for name, start in starts.items()}
    assert [ticks[name] % 1.0 for name in sorted(ticks)] == pytest.approx([0.0, 0.25, 0.5, 0.75], abs=1e-6)


def test_tasks_of_a_remote_stream_share_their_frames() -> None:
    streams = remote_streams(3, {"task": "caption", "every": "500ms"}, {"task": "object_detection", "every": "1m"})
    for name, ticks in first_ticks(streams, 77.7).items():
        assert ticks[0] == pytest.approx(ticks[1]), name
        assert ticks[1] <= 0.5, "no long wait for the first answer"
    plan = make_schedule(streams, "cam1", at(77.7))
    later = scheduled("b", every=2.0)
    plan.replace([trigger.task for trigger in plan.triggers] + [later], at(90.0))
    assert (90.0 + plan.triggers[-1].wait(at(90.0)) - 77.7 - plan.triggers[0].wait(at(77.7))) % 0.5 in (
        pytest.approx(0.0, abs=1e-6),
        pytest.approx(0.5, abs=1e-6),
    )


def test_window_of_a_remote_stream_opens_on_its_own_moment() -> None:
    task = replace(night(10.0), every=10.0)
    start, opens = Now(1000.0, DAY.replace(hour=21).timestamp()), 1000.0 + 3600
    found = []
    for number in range(2):
        plan = Schedule("s", [task], "live", start, Turn(number, 2))
        plan.advance(start)
        now = Now(opens + 0.7, start.unix_time + 3600.7)
        plan.advance(now)
        found.append(now.mono + plan.triggers[0].wait(now))
    assert found == pytest.approx([opens, opens + 0.5])


def test_next_need_is_the_tick_after_the_present_ones() -> None:
    plan = schedule(scheduled("a", every=0.5), scheduled("b", every=0.7), scheduled("c", every_n_frames=10))
    assert plan.next_need(at(100.02), {"a", "b"}) == pytest.approx(0.48)
    assert plan.next_need(at(100.02), {"a"}) == 0.0, "b is due as well"
    assert names(plan, frame(0), 100.02) == ["a", "b", "c"]
    assert plan.next_need(at(100.52), {"a"}) == pytest.approx(0.18), "the tick of b"
    assert plan.next_need(at(102.3), {"a", "b"}) == pytest.approx(0.2), "missed ticks are passed over"


def test_next_need_of_tasks_without_an_interval_is_far() -> None:
    plan = Schedule("s", [cron("*/5 * * * *"), night(60.0)], "live", Now(0.0, DAY.replace(hour=12).timestamp()))
    noon = Now(1.0, DAY.replace(hour=12).timestamp() + 1)
    plan.advance(noon)
    assert plan.next_need(noon, {"a"}) == MAX_WAIT_S
