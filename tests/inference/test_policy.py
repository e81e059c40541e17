"""The order of tasks and the control of overload, on a simulated clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.config.task import ScheduledTask
from streamer.inference.overload import MARGIN, MIN_SHARE, Demand, shares
from streamer.inference.policy import FIRST_COST_S, Policy, most_urgent_first
from streamer.inference.schedule import Schedule
from streamer.inference.triggers import Now
from streamer.types import PRIORITIES, DueTask, Job, Origin, Priority, Task
from tests.support.tasks import PARAMS, at, frame, scheduled

START = 100.0


class Device:
    """A device that needs a fixed time for each job, and the streams it serves."""

    def __init__(self, streams: Mapping[str, Sequence[ScheduledTask]], costs: dict[str, float], batch: int = 4) -> None:
        self.schedules = {name: Schedule(name, tasks, "live", at(START)) for name, tasks in streams.items()}
        self.policy = Policy(self.schedules, at(START))
        self.costs, self.batch, self.mono = costs, batch, START
        self.ran: list[tuple[float, DueTask]] = []
        self.stretched: list[tuple[float, dict[Priority, float]]] = []
        self._seq = 0

    @property
    def now(self) -> Now:
        return at(self.mono)

    def step(self) -> None:
        dues = []
        for stream, names in self.policy.choose(self.batch, self.now).items():
            self._seq += 1
            found = self.schedules[stream].pop_due(frame(self._seq, stream=stream), self.now, names)
            assert {due.task.name for due in found} == names
            self.policy.release(stream, self.now)
            dues += found
        self.ran += [(self.mono, due) for due in dues]
        busy = sum(self.costs[due.task.task] for due in dues)
        self.mono += busy or min(0.25, max(self.policy.wait(self.now), 0.001))
        for due in dues:
            self.policy.record_job(due, self.costs[due.task.task])
        self.policy.overload.record_busy(busy)
        if self.policy.adapt(self.now):
            self.stretched.append((self.mono, dict(self.policy.overload.factors)))

    def run(self, seconds: float) -> Device:
        until = self.mono + seconds
        while self.mono < until:
            self.step()
        return self

    def counts(self, since: float = 0.0) -> Counter[str]:
        return Counter(f"{due.stream}.{due.task.name}" for when, due in self.ran if when >= since)


def names(policy: Policy, room: int, now: float = START) -> list[tuple[str, str]]:
    return [(stream, name) for stream, names in policy.choose(room, at(now)).items() for name in sorted(names)]


def policy(**streams: Sequence[ScheduledTask]) -> Policy:
    return Policy({name: Schedule(name, tasks, "live", at(START)) for name, tasks in streams.items()}, at(START))


def test_priority_is_strict_over_all_streams() -> None:
    high, normal, low = (scheduled(level, every=1.0, priority=level) for level in PRIORITIES)
    plan = policy(a=[low, normal], b=[low], c=[normal, high])
    assert names(plan, 1) == [("c", "high")]
    assert names(plan, 1) == [("a", "normal")]  # c awaits its frame
    plan.release("c", at(START))
    assert names(plan, 9) == [("c", "high"), ("c", "normal"), ("b", "low")]


def test_chosen_stream_is_not_chosen_until_released() -> None:
    plan = policy(a=[scheduled("x", every=1.0)])
    assert names(plan, 8) == [("a", "x")]
    assert names(plan, 8, START + 5) == []
    plan.release("a", at(START + 5))
    assert names(plan, 8, START + 5) == [("a", "x")]
    plan.remove("a")
    assert names(plan, 8, START + 9) == []


def test_earliest_deadline_of_a_stream_runs_first() -> None:
    plan = policy(a=[scheduled("slow", every=60.0), scheduled("fast", every=1.0), scheduled("middle", every=5.0)])
    order = []
    for _ in range(3):
        order += names(plan, 1)
        plan.schedules["a"].pop_due(frame(len(order)), at(START), {order[-1][1]})
        plan.release("a", at(START))
    assert [name for _, name in order] == ["fast", "middle", "slow"]


def test_choice_never_exceeds_room() -> None:
    plan = policy(**{f"s{number}": [scheduled("x", every=1.0), scheduled("y", every=1.0)] for number in range(10)})
    assert names(plan, 0) == []
    assert len(names(plan, 7)) == 7


def test_frame_count_tasks_are_always_chosen() -> None:
    plan = policy(a=[scheduled("x", every_n_frames=100)])
    for _ in range(3):
        assert names(plan, 1) == [("a", "x")]
        plan.release("a", at(START), {"x"})


def test_streams_share_device_time_not_job_count() -> None:
    """A stream whose jobs take four times as long runs a quarter as many."""
    device = Device(
        {"long": [scheduled("x", every=0.01, task="caption")], "short": [scheduled("x", every=0.01, task="ocr")]},
        {"caption": 0.2, "ocr": 0.05},
        batch=1,
    )
    device.policy.overload.window.start = float("inf")  # no overload control
    counts = device.run(200).counts()
    assert counts["short.x"] / counts["long.x"] == pytest.approx(4, rel=0.1)


def test_turn_lasts_while_stream_awaits_a_frame() -> None:
    """The inference process makes the next choice before the previous frame has arrived."""
    streams = {name: [scheduled("x", every=0.01, task=task)] for name, task in
               (("long", "caption"), ("short", "ocr"), ("other", "ocr"))}  # fmt: skip
    device = Device(streams, {"caption": 0.2, "ocr": 0.05}, batch=1)
    plan, counts, now = device.policy, Counter[str](), START
    for name, schedule in device.schedules.items():
        plan.record_job(DueTask(name, schedule.triggers[0].task, 0.0), device.costs[streams[name][0].task])
    pending: list[str] = []
    for seq in range(2000):
        now += 0.05
        pending += [stream for stream, _ in names(plan, 1, now)]
        if len(pending) == 2:
            stream = pending.pop(0)
            counts[stream] += len(device.schedules[stream].pop_due(frame(seq, stream=stream), at(now)))
            plan.release(stream, at(now))
    assert counts["short"] == pytest.approx(counts["other"], rel=0.05)
    assert counts["short"] / counts["long"] == pytest.approx(4, rel=0.1)


def test_waiting_jobs_are_ordered_by_priority_and_deadline() -> None:
    jobs = [
        Job(DueTask("s", Task(f"{priority}{deadline}", "ocr", PARAMS, priority), deadline), frame(0))
        for priority in ("low", "high", "normal")
        for deadline in (9.0, 3.0)
    ]
    ordered = [job.due.task.name for job in most_urgent_first(jobs)]
    assert ordered == ["high3.0", "high9.0", "normal3.0", "normal9.0", "low3.0", "low9.0"]


@given(
    tasks=st.lists(
        st.lists(
            st.tuples(st.sampled_from([0.5, 1.0, 3.0, 10.0]), st.sampled_from(PRIORITIES)), min_size=1, max_size=3
        ),
        min_size=1,
        max_size=6,
    ),
    room=st.integers(1, 5),
    steps=st.lists(st.floats(0.05, 4.0), min_size=1, max_size=30),
)
def test_choice_matches_a_simple_model(
    tasks: list[list[tuple[float, Priority]]], room: int, steps: list[float]
) -> None:
    """The model is a list of all tasks: no class gets anything while a higher class lacks something."""
    streams = {
        f"s{number}": [
            scheduled(f"t{place}", every=every, priority=level) for place, (every, level) in enumerate(given)
        ]
        for number, given in enumerate(tasks)
    }
    plan = policy(**streams)
    pending = dict.fromkeys(((name, task.name) for name, given in streams.items() for task in given), START)
    level = {(name, task.name): PRIORITIES.index(task.priority) for name, given in streams.items() for task in given}
    every = {(name, task.name): task.every or 0.0 for name, given in streams.items() for task in given}
    now = START
    for seq, step in enumerate(steps):
        due = {key for key, tick in pending.items() if tick <= now}
        chosen = set(names(plan, room, now))
        assert chosen <= due
        assert len(chosen) == min(room, len(due))
        left = due - chosen
        assert not left or not chosen or max(level[key] for key in chosen) <= min(level[key] for key in left)
        for key in left:  # of one stream and class, the earliest deadline runs first
            rivals = [other for other in chosen if other[0] == key[0] and level[other] == level[key]]
            assert all(pending[other] + every[other] <= pending[key] + every[key] + 1e-9 for other in rivals)
        for stream in {stream for stream, _ in chosen}:
            mine = {name for other, name in chosen if other == stream}
            assert {due.task.name for due in plan.schedules[stream].pop_due(frame(seq), at(now), mine)} == mine
            plan.release(stream, at(now))
        for key in chosen:
            while pending[key] <= now + 1e-6:
                pending[key] += every[key]
        now += step


# -- overload


def cameras(count: int) -> dict[str, Sequence[ScheduledTask]]:
    tasks = [
        scheduled("alarm", every=2.0, priority="high", task="ocr"),
        scheduled("scan", every=2.0),
        scheduled("summary", every=4.0, priority="low"),
    ]
    return {f"c{number}": tasks for number in range(count)}


COSTS = {"ocr": 0.02, "caption": 0.02}
"""Seconds. A camera needs 0.02 * (0.5 + 0.5 + 0.25) = 0.025 s of the device every second."""


def test_without_overload_nothing_is_stretched() -> None:
    device = Device(cameras(30), COSTS).run(120)
    assert device.stretched == []
    assert set(device.counts().values()) == {60, 30}


def test_overload_stretches_low_priority_most() -> None:
    device = Device(cameras(60), COSTS).run(300)  # 1.5 times the capacity; high priority alone: 0.6
    factors = device.stretched[-1][1]
    assert factors["high"] == 1.0
    assert 1.5 <= factors["normal"] < factors["low"]
    assert device.stretched[0][0] - START < 30
    assert len(device.stretched) <= 5, "the factors settle soon"
    ran = device.counts(START + 100)
    alarms = [count for key, count in ran.items() if key.endswith("alarm")]
    assert min(alarms) >= 99
    for name, every in (("scan", 2.0), ("summary", 4.0)):
        counts = [ran[f"c{number}.{name}"] for number in range(60)]
        assert min(counts) >= 200 / (every * factors["normal" if name == "scan" else "low"]) - 2
        assert max(counts) - min(counts) <= 2
    stretches = device.policy.stretches()
    assert stretches["c7"] == {key: round(factors[key], 2) for key in ("normal", "low")}


def test_intervals_return_to_configured_after_overload() -> None:
    device = Device(cameras(60), dict(COSTS)).run(100)
    assert device.policy.stretches()
    device.costs.update({"ocr": 0.005, "caption": 0.005})
    device.run(100)
    assert set(device.stretched[-1][1].values()) == {1.0}
    assert device.policy.stretches() == {}
    before = device.counts()
    after = device.run(40).counts()
    assert after["c1.alarm"] - before["c1.alarm"] in (20, 21)
    assert after["c1.summary"] - before["c1.summary"] in (10, 11)


def test_one_pause_of_the_device_stretches_nothing() -> None:
    device = Device(cameras(20), COSTS).run(22)
    device.mono += 4.9
    device.run(60)
    assert device.stretched == []


def test_slow_engine_gets_a_longer_window() -> None:
    """Jobs take 0.5 s, and the load is three times the capacity."""
    tasks = [scheduled("scan", every=2.0), scheduled("summary", every=2.0, priority="low")]
    device = Device({f"c{number}": tasks for number in range(6)}, {"caption": 0.5}, batch=2).run(400)
    factors = device.policy.overload.factors
    assert factors["normal"] == pytest.approx(1.5 / 0.9 / (1 - MIN_SHARE), rel=0.25)
    assert factors["low"] > factors["normal"]
    assert min(device.counts(START + 200).values()) >= 2


def test_cameras_without_frames_are_no_overload() -> None:
    device = Device(cameras(10), COSTS)
    for number in range(5):
        device.policy._wakeups[f"c{number}"] = float("inf")
    device.run(100)
    assert device.stretched == []


@given(
    capacity=st.floats(0.01, 10),
    costs=st.lists(st.just(0.0) | st.floats(1e-3, 10), min_size=3, max_size=3),
)
def test_shares_divide_capacity_by_priority(capacity: float, costs: list[float]) -> None:
    demands = {priority: Demand(cost=cost) for priority, cost in zip(PRIORITIES, costs, strict=True)}
    factors = shares(capacity, demands)
    given = [cost / factors[priority] for priority, cost in zip(PRIORITIES, costs, strict=True)]
    with_demand = [factors[priority] for priority, cost in zip(PRIORITIES, costs, strict=True) if cost > 0]
    total, share = sum(costs), capacity * MARGIN
    assert all(factor >= 1 for factor in with_demand)
    assert all(higher <= lower * (1 + 1e-6) for higher, lower in pairwise(with_demand))
    assert sum(given) == pytest.approx(min(total, share), rel=1e-6, abs=1e-9)
    if total <= share:
        assert with_demand == pytest.approx([1.0] * len(with_demand))
    elif total * MIN_SHARE <= share:
        assert max(with_demand) <= (1 + 1e-6) / MIN_SHARE


def test_task_that_never_ran_has_default_cost() -> None:
    assert policy(a=[scheduled("x", every=1.0)]).cost(scheduled("x", every=1.0)) == FIRST_COST_S


# -- follow-ups


class DeviceWithFollowUps(Device):
    """A device on which each job of the stream `a` has `asked` follow-ups, of which the policy's share runs."""

    asked = 24
    cost = 0.1

    def step(self) -> None:
        before = len(self.ran)
        super().step()
        for _, due in [job for job in self.ran[before:] if job[1].stream == "a"]:
            follow_up = DueTask("a", Task("what", "region_to_category", PARAMS), due.deadline, origin="follow_up")
            for _ in range(int(self.asked * self.policy.overload.follow_up_share)):
                self.mono += self.cost
                self.policy.record_job(follow_up, self.cost)
                self.policy.overload.record_busy(self.cost)
                self.ran.append((self.mono, follow_up))


BUSY: dict[str, Sequence[ScheduledTask]] = {name: [scheduled("caption", every=1.0)] for name in "abcdef"}
"""Six streams whose tasks need 0.6 of a device with 0.1 s per job. The follow-ups of `a` need another 2.4."""


def test_streams_share_the_device_with_follow_ups() -> None:
    device = DeviceWithFollowUps({name: [scheduled("caption", every=0.01)] for name in "ab"}, {"caption": 0.1}, batch=1)
    device.policy.overload.window.start = float("inf")  # no overload control
    device.run(120.0)
    used: Counter[str] = Counter()
    for _, due in device.ran:
        used[due.stream] += 1
    assert used["a"] == pytest.approx(used["b"], rel=0.1)


def test_overload_reduces_follow_ups_before_intervals() -> None:
    device = DeviceWithFollowUps(BUSY, {"caption": 0.1}, batch=1)
    device.run(120.0)
    assert device.policy.overload.follow_up_share < 0.5
    assert all(set(factors.values()) == {1.0} for _, factors in device.stretched)


def test_follow_ups_return_after_overload() -> None:
    device = DeviceWithFollowUps(BUSY, {"caption": 0.1}, batch=1)
    device.run(60.0)
    assert device.policy.overload.follow_up_share < 1.0
    device.cost = 0.001
    device.run(200.0)
    assert device.policy.overload.follow_up_share == 1.0


def test_follow_up_runs_after_scheduled_tasks_of_its_priority() -> None:
    picture = frame(0)

    def job(name: str, priority: Priority, *, is_follow_up: bool) -> Job:
        origin: Origin = "follow_up" if is_follow_up else "schedule"
        return Job(DueTask("s", Task(name, "caption", PARAMS, priority), 1.0, origin=origin), picture)

    jobs = [
        job("a", "normal", is_follow_up=True),
        job("b", "low", is_follow_up=False),
        job("c", "normal", is_follow_up=False),
        job("d", "high", is_follow_up=True),
    ]
    assert [one.due.task.name for one in most_urgent_first(jobs)] == ["d", "c", "a", "b"]
