"""The schedule against a slow, obvious model, and the promises one can say in a sentence."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.bus.frame_protocol import FrameRequest
from streamer.config.calendar import Cron, parse_windows
from streamer.config.task import ScheduledTask
from streamer.inference.schedule import Now, Schedule
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


def test_live_intervals_run_on_the_clock_and_skip_missed_ticks() -> None:
    plan = schedule(scheduled("a", every=1.0))
    assert names(plan, frame(0), 100.0) == ["a"]
    assert plan.next_request(at(100.9)) is None
    assert plan.wait(at(100.9)) == pytest.approx(0.1)
    assert plan.next_request(at(103.5)) == FrameRequest(after=FrameId(1, 0), interval=1.0)
    assert names(plan, frame(90), 103.5) == ["a"]
    assert plan.wait(at(103.5)) == pytest.approx(0.5)


def test_live_intervals_do_not_drift() -> None:
    plan = schedule(scheduled("a", every=0.25))
    for tick in range(1000):
        late = 100.0 + 0.25 * tick + 0.2
        assert plan.next_request(at(late)) is not None
        assert names(plan, frame(tick), late) == ["a"]


def test_frame_counts_ask_for_a_frame_number_and_start_again_with_a_connection() -> None:
    plan = schedule(scheduled("a", every_n_frames=10))
    assert names(plan, frame(0), 0.0) == ["a"]
    assert plan.next_request(at(0.0)) == FrameRequest(after=FrameId(1, 0), at_seq=10)
    assert names(plan, frame(9), 0.0) == []
    assert names(plan, frame(13), 0.0) == ["a"]
    assert plan.next_request(at(0.0)) == FrameRequest(after=FrameId(1, 13), at_seq=20)
    assert names(plan, frame(0, epoch=2), 0.0) == ["a"]


def test_file_intervals_run_on_media_time_whatever_the_clock_says() -> None:
    plan = schedule(scheduled("a", every=0.5), scheduled("b", every=2.0), pace="file")
    times = [round(index * 0.04, 6) for index in range(101)]
    ran = {"a": [], "b": []}  # type: dict[str, list[float]]
    for index, pts in enumerate(times):
        want = plan.next_request(at(0.0))
        assert want is not None
        if want.matches(FrameId(1, index), pts):
            for name in names(plan, frame(index, pts), 0.0):
                ran[name].append(pts)
    assert ran == {"a": [0.0, 0.52, 1.0, 1.52, 2.0, 2.52, 3.0, 3.52, 4.0], "b": [0.0, 2.0, 4.0]}


def test_a_tick_takes_all_tasks_that_are_due() -> None:
    plan = schedule(scheduled("a", every=1.0), scheduled("b", every=3.0), scheduled("c", every_n_frames=5))
    assert names(plan, frame(0), 100.0) == ["a", "b", "c"]
    assert names(plan, frame(4), 101.0) == ["a"]
    assert names(plan, frame(6), 103.0) == ["a", "b", "c"]


def test_only_chosen_tasks_of_a_live_stream_are_taken_and_asked_for() -> None:
    plan = schedule(scheduled("a", every=1.0), scheduled("b", every=3.0), scheduled("c", every_n_frames=5))
    assert [due.task.name for due in plan.pop_due(frame(0), at(100.0), {"b"})] == ["b"]
    assert plan.next_request(at(100.0), {"c"}) == FrameRequest(after=FrameId(1, 0), at_seq=0)
    assert plan.next_request(at(100.0), {"a", "c"}) == FrameRequest(after=FrameId(1, 0))
    assert [due.task.name for due in plan.pop_due(frame(1), at(100.1))] == ["a", "c"]


def test_a_file_takes_all_for_it_has_no_later_frame() -> None:
    plan = schedule(scheduled("a", every=1.0), scheduled("b", every=3.0), pace="file")
    assert [due.task.name for due in plan.pop_due(frame(0, 0.0), at(100.0), {"b"})] == ["a", "b"]


def test_of_a_slow_camera_the_next_frame_is_waited_for_once_where_the_newest_is_too_old() -> None:
    plan = schedule(
        scheduled("a", every=10.0, max_age=2.0), scheduled("b", every=10.0, max_age=3.0), scheduled("c", every=10.0)
    )
    assert plan.next_request(at(100.0)) == FrameRequest(interval=10.0), "one of them takes any frame"
    assert requested(plan, 100.0, {"a", "b"}) == FrameRequest(interval=10.0, max_age=3.0)
    plan.skip_stale(FrameId(1, 7))
    assert plan.next_request(at(101.0), {"a"}) == FrameRequest(interval=10.0, after=FrameId(1, 7))
    assert [due.task.name for due in plan.pop_due(frame(8), at(105.0), {"a"})] == ["a"]
    assert requested(plan, 105.0, {"b"}) == FrameRequest(interval=10.0, after=FrameId(1, 8), max_age=3.0)
    plan.skip_stale(FrameId(1, 8))
    assert plan.next_request(at(106.0), {"b"}) == FrameRequest(interval=10.0, after=FrameId(1, 8), max_age=3.0), (
        "it was seen already"
    )


def test_a_stretched_interval_counts_from_its_last_tick_both_ways() -> None:
    plan = schedule(scheduled("a", every=10.0, priority="low"), scheduled("b", every=10.0))
    assert names(plan, frame(0), 100.0) == ["a", "b"]
    plan.stretch({"low": 3.0})
    assert names(plan, frame(1), 112.0) == ["b"]
    assert names(plan, frame(2), 131.0) == ["a", "b"]
    plan.stretch({})
    assert names(plan, frame(3), 140.0) == ["a", "b"]


def test_a_stretched_frame_count_and_a_file_that_is_never_stretched() -> None:
    live, file = schedule(scheduled("a", every_n_frames=10)), schedule(scheduled("a", every=1.0), pace="file")
    for plan in (live, file):
        plan.stretch({"normal": 2.0})
        plan.pop_due(frame(0, 0.0), at(0.0))
    assert live.next_request(at(0.0)) == FrameRequest(after=FrameId(1, 0), at_seq=20)
    assert file.next_request(at(0.0)) == FrameRequest(after=FrameId(1, 0), at_pts=1.0)


@pytest.mark.parametrize(
    ("want", "seq", "pts", "met"),
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
def test_want(want: FrameRequest, seq: int, pts: float | None, met: bool) -> None:
    assert want.matches(FrameId(1, seq), pts) is met


@given(
    every=st.floats(0.05, 10),
    moments=st.lists(st.floats(0.001, 30), min_size=1, max_size=60),
)
def test_live_runs_once_per_tick_of_the_grid(every: float, moments: list[float]) -> None:
    """The obvious model: tick k is at k * every; one run for any number of ticks since the last look."""
    plan = schedule(scheduled("a", every=every), now=0.0)
    clock, seen = 0.0, -1
    for seq, step in enumerate(moments):
        clock += step
        ticks = int((clock + 1e-6) / every)
        if abs(clock / every - round(clock / every)) * every < 2e-6:
            continue  # on a tick to within rounding: either answer is right
        assert (plan.next_request(at(clock)) is not None) == (ticks > seen)
        assert names(plan, frame(seq), clock) == (["a"] if ticks > seen else [])
        seen = max(seen, ticks)


# The wall clock: windows and cron lines

BERLIN = ZoneInfo("Europe/Berlin")
SPRING, AUTUMN = datetime(2026, 3, 29, tzinfo=BERLIN), datetime(2026, 10, 25, tzinfo=BERLIN)
"""The days on which the clock is set: 02:00 to 03:00, and 03:00 to 02:00."""


class Walk:
    """Looks at a plan with one task every `step` seconds, with a wall clock that is set by hand."""

    def __init__(self, task: ScheduledTask, start: datetime, step: float = 30.0) -> None:
        self.mono, self.wall, self.step, self.zone = 1000.0, start.timestamp(), step, start.tzinfo
        self.plan = Schedule("s", [task], "live", self.now)
        self.runs: list[str] = []
        self.monos: list[float] = []
        self._seq = 0

    @property
    def now(self) -> Now:
        return Now(self.mono, self.wall)

    def go(self, hours: float) -> Walk:
        for _ in range(round(hours * 3600 / self.step)):
            self.plan.advance(self.now)
            if self.plan.next_request(self.now) is not None:
                self._seq += 1
                if self.plan.pop_due(frame(self._seq), self.now):
                    self.runs.append(f"{datetime.fromtimestamp(self.wall, self.zone):%d %H:%M}")
                    self.monos.append(self.mono)
            self.mono += self.step
            self.wall += self.step
        return self

    def set_clock(self, hours: float) -> Walk:
        self.wall += hours * 3600
        return self


def cron(line: str) -> ScheduledTask:
    return scheduled("a", at=Cron(line, BERLIN))


def night(every: float, text: str = "22:00-06:00") -> ScheduledTask:
    hours = parse_windows(text)
    return scheduled("a", every=every, between=type(hours)(hours.text, hours.spans, BERLIN))


DAY = datetime(2026, 6, 1, tzinfo=BERLIN)  # a Monday


def test_cron_runs_at_its_times() -> None:
    assert Walk(cron("30 7,19 * * *"), DAY).go(48).runs == ["01 07:30", "01 19:30", "02 07:30", "02 19:30"]
    assert Walk(cron("0 12 * * sat"), DAY).go(24 * 8).runs == ["06 12:00"]


def test_cron_when_the_clock_changes_with_the_season() -> None:
    before = timedelta(hours=12)
    assert Walk(cron("30 2 * * *"), SPRING - before).go(48).runs == ["29 03:00", "30 02:30"]
    assert Walk(cron("30 2 * * *"), AUTUMN - before).go(48).runs == ["25 02:30", "26 02:30"]
    assert len(Walk(cron("15 * * * *"), SPRING).go(23).runs) == 23
    assert len(Walk(cron("15 * * * *"), AUTUMN).go(25).runs) == 25


@pytest.mark.parametrize("hours", [1, -1])
@pytest.mark.parametrize("minute", range(0, 150, 10))
def test_cron_runs_once_when_the_clock_is_set_by_an_hour(hours: int, minute: int) -> None:
    """Whenever it is set around the run of 12:00: neither a second run nor none."""
    walk = Walk(cron("0 12 * * *"), DAY.replace(hour=10)).go(minute / 60).set_clock(hours).go(6)
    due = [run for run in walk.runs if run.startswith("01")]
    assert len(due) == 1


@given(
    starts=st.integers(0, 24 * 60 - 1),
    every=st.sampled_from([5, 20, 60, 180]),
    sets=st.lists(st.tuples(st.integers(1, 600), st.sampled_from([-1, 1])), max_size=4),
)
@settings(deadline=None, max_examples=40)
def test_cron_against_a_list_of_all_its_times(starts: int, every: int, sets: list[tuple[int, int]]) -> None:
    """The obvious model: each time is ticked off once, when the clock shows it or has passed it; late ones together."""
    line = f"*/{every} * * * *" if every < 60 else f"7 */{every // 60} * * *"
    start = DAY + timedelta(minutes=starts)
    walk = Walk(scheduled("a", at=Cron(line, BERLIN)), start, step=60.0)
    times, moment = [], start.timestamp()
    while moment < start.timestamp() + 48 * 3600:
        moment += 60
        local = datetime.fromtimestamp(moment, BERLIN)
        minute = local.hour * 60 + local.minute
        if minute % every == (0 if every < 60 else 7):
            times.append(moment)
    expected: list[float] = []
    for minutes, hour in [*sets, (300, 0)]:
        for _ in range(minutes):
            passed = [time for time in times if time <= walk.wall]
            if passed:
                expected.append(walk.mono)
                times = times[len(passed) :]
            walk.go(1 / 60)
        walk.set_clock(hour)
    assert walk.monos == expected


def test_a_clock_that_was_far_wrong_is_no_reason_to_run_nor_to_wait() -> None:
    walk = Walk(cron("0 12 * * *"), datetime(1970, 1, 3, tzinfo=BERLIN)).go(1)
    walk.wall = DAY.replace(hour=15).timestamp()
    assert walk.go(24).runs == ["02 12:00"]
    walk = Walk(cron("0 12 * * *"), datetime(2036, 1, 3, tzinfo=BERLIN)).go(1)
    walk.wall = DAY.replace(hour=9).timestamp()
    assert walk.go(24).runs == ["01 12:00"]


def test_missed_cron_times_are_made_up_for_by_one() -> None:
    plan = Schedule("s", [cron("*/5 * * * *")], "live", Now(0.0, DAY.timestamp()))
    later = Now(3000.0, DAY.timestamp() + 3000)
    assert len(plan.pop_due(frame(0), later)) == 1
    assert plan.pop_due(frame(1), later) == []


def test_an_interval_waits_for_its_window_and_starts_again_with_it() -> None:
    walk = Walk(night(2 * 3600), DAY.replace(hour=12)).go(48)
    nights = ["01 22:00", "02 00:00", "02 02:00", "02 04:00", "02 22:00", "03 00:00", "03 02:00", "03 04:00"]
    assert walk.runs == nights


def test_weekday_windows() -> None:
    task = night(3600, "mon-fri 07:00-10:00")
    assert len(Walk(task, DAY).go(7 * 24).runs) == 5 * 3
    weekend = Walk(night(6 * 3600, "fri 22:00-06:00"), DAY).go(7 * 24)
    assert weekend.runs == ["05 22:00", "06 04:00"]


def test_frame_counts_within_a_window() -> None:
    hours = night(1).between
    plan = Schedule("s", [scheduled("a", every_n_frames=10, between=hours)], "live", Now(0.0, DAY.timestamp()))
    noon, midnight = Now(1.0, DAY.replace(hour=12).timestamp()), Now(2.0, DAY.timestamp() + 24 * 3600)
    assert plan.next_request(noon) is None
    assert plan.pop_due(frame(0), noon) == []
    assert plan.next_request(midnight) is not None
    assert len(plan.pop_due(frame(1), midnight)) == 1


@pytest.mark.parametrize("hours", [1, -1])
@pytest.mark.parametrize("minute", [0, 50, 110, 130, 170, 290, 470, 490, 550])
def test_an_interval_in_a_window_when_the_clock_is_set(hours: int, minute: int) -> None:
    """Never sooner than its interval, and never later as long as the window is open."""
    walk = Walk(night(1800), DAY.replace(hour=21)).go(minute / 60).set_clock(hours).go(30)
    gaps = [later - earlier for earlier, later in zip(walk.monos, walk.monos[1:], strict=False)]
    assert min(gaps) >= 1800
    assert all(gap == 1800 or gap > 3600 * 0.5 for gap in gaps)
    open_hours = [run for run in walk.runs if int(run[3:5]) in (22, 23, 0, 1, 2, 3, 4, 5)]
    assert open_hours == walk.runs


def test_a_window_when_the_clock_changes_with_the_season() -> None:
    """It is open while the local clock shows its hours: an hour less in spring, an hour more in autumn."""
    noon = timedelta(hours=12)
    assert len(Walk(night(3600), SPRING - noon).go(24).runs) == 7
    assert len(Walk(night(3600), AUTUMN - noon).go(24).runs) == 9


@given(
    every=st.integers(1, 900),
    start=st.integers(0, 8 * 24 * 60),
    window=st.sampled_from(["22:00-06:00", "mon-fri 08:00-18:00", "sun 02:30-03:30", "sat 20:00-24:00", "01:00-00:30"]),
)
@settings(deadline=None, max_examples=15)
def test_interval_and_window_against_an_obvious_model(every: int, start: int, window: str) -> None:
    """Minute by minute, over the days on which the clock changes: open by the local clock, and long enough ago."""
    begin = SPRING - timedelta(days=4) + timedelta(minutes=start)
    task = night(every * 60, window)
    assert task.between is not None
    walk = Walk(task, begin, step=60.0).go(5 * 24)
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
    assert walk.monos == expected


# -- when something happens


def happened(seq: int, *names: str) -> Frame:
    return replace(frame(seq), triggered=frozenset(names), captured_at=float(seq))


def test_a_tick_waits_until_something_happens_and_says_once_a_minute_that_nothing_did() -> None:
    plan = Schedule("s", [scheduled("x", every=1.0, when="motion", refresh=300.0)], "live", at(100.0))
    first = plan.next_request(at(100.0))
    assert first is not None
    assert not first.on_trigger, "there is no answer yet: any frame will do"
    assert [due.unchanged_since for due in plan.pop_due(happened(1), at(100.0))] == [None]
    assert plan.next_request(at(100.5)) is None
    quiet = plan.next_request(at(101.5))
    assert quiet is not None
    assert (quiet.on_trigger, quiet.motion_gates[0].when, quiet.motion_gates[0].since) == (True, "motion", (1, 1))
    assert plan.pop_due(happened(2), at(101.5)) == []
    assert [due.unchanged_since for due in plan.pop_due(happened(3, "x"), at(101.7))] == [None]
    ran = []
    for second in range(103, 500):
        want = plan.next_request(at(second))
        assert want is not None
        if not want.on_trigger:
            ran += [(second, due.unchanged_since) for due in plan.pop_due(happened(second), at(second))]
    told = [second for second, since in ran if since == 3.0]
    assert len(told) == 4
    assert {after - before for before, after in pairwise(told)} == {60}
    assert (402, None) in ran, "asked again after the refresh"


def test_a_new_connection_is_asked_about_at_once() -> None:
    plan = Schedule("s", [scheduled("x", every=1.0, when="change")], "live", at(100.0))
    plan.pop_due(happened(5), at(100.0))
    assert [due.unchanged_since for due in plan.pop_due(frame(0, epoch=2), at(102.0))] == [None]


def test_who_waits_for_something_to_happen_is_neither_overdue_nor_in_the_way_of_others() -> None:
    gated, plain = scheduled("x", every=1.0, when="motion"), scheduled("y", every=10.0)
    plan = Schedule("s", [gated, plain], "live", at(100.0))
    plan.pop_due(happened(1), at(100.0))
    for second in range(102, 109):
        assert requested(plan, second).on_trigger
        assert plan.triggers[0].deadline(at(second)) > second
    assert not plan.triggers[0].is_demand(at(130.0))
    want = plan.next_request(at(110.0))
    assert want is not None
    assert not want.on_trigger
    assert [due.task.name for due in plan.pop_due(happened(9), at(110.0))] == ["y"]
    assert plan.next_request(at(110.1), {"x"}) is not None
