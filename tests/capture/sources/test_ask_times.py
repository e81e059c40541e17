"""Requests of a source to another host, against a simulated link, camera and model."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

import pytest

from streamer.bus.frame_protocol import Fetch, FrameRequest
from streamer.bus.remote_protocol import NEXT_S
from streamer.capture.decode_demand import DecodeDemand
from streamer.capture.sources._ask_times import REPLACE_S, AskTimes
from streamer.inference.schedule import Schedule
from streamer.types import FrameId
from tests.support.tasks import at, frame, scheduled

EVERY_S, START_S = 0.5, 100.0
FASTEST_S, SLOWEST_S = 0.03, 0.06
"""Shortest and longest time from a request to its frame."""
REQUEST_S = 0.01
"""The part of it for which the request is on its way."""
STEP_S = 0.001


def owner(role: str) -> str:
    return f"{role}-1-00000000"


def fetch(role: str, next_need: float | None) -> Fetch:
    return Fetch(
        id=1,
        owner=owner(role),
        role="infer",
        buffer="infer-1-00000000-1.buf",
        request=FrameRequest(interval=1.0),
        next_need=next_need,
    )


@dataclass
class Link:
    """A stream of another host whose frames a task needs every `EVERY_S`. The clock goes on in steps of `STEP_S`."""

    camera_s: float = 0.04
    """Seconds between two frames of the camera."""
    busy_s: float = 0.0
    """Longest time for which a task that is due waits for the model."""
    ages: list[float] = field(default_factory=list)
    """Seconds since capture, of each frame when its task begins."""
    frames: int = 0
    """Frames that have crossed the link."""

    def run(self, seconds: float) -> Link:
        chance, now = random.Random(1), START_S
        times, demand = AskTimes(), DecodeDemand()
        plan = Schedule("s", [scheduled("a", every=EVERY_S)], "live", at(now))
        newest: float | None = None  # capture of the frame that is here and was not used
        answer: tuple[float, float, float] | None = None  # times of request, arrival and capture
        begins_at, last = now, -math.inf
        while now < START_S + seconds:
            now += STEP_S
            if answer is not None and now >= answer[1]:
                times.on_frame(now, now - answer[0], FrameId(1, round(answer[2] / self.camera_s)), answer[2])
                newest, answer, self.frames = answer[2], None, self.frames + 1
            if now >= begins_at:
                request = FrameRequest(interval=EVERY_S)
                demand.add(owner("infer"), request, now)
                demand.on_fetch(fetch("infer", plan.next_need(at(now), {"a"})), False, now)
                if newest is not None:
                    self.ages.append(now - newest)
                    newest = None
                    plan.pop_due(frame(len(self.ages)), at(now))
                    begins_at = now + plan.wait(at(now)) + chance.uniform(0, self.busy_s)
                else:
                    demand.on_wait(owner("infer"), request, now)
            demand.expire(now)
            times.needed_at = demand.next_need(now)
            if answer is None and now >= times.next_ask:
                times.on_ask(now)
                there = now + REQUEST_S
                captured = max(there // self.camera_s * self.camera_s, last + self.camera_s)
                if times.max_age is not None and there - captured > times.max_age:
                    captured += self.camera_s
                wire = chance.uniform(FASTEST_S, SLOWEST_S) - REQUEST_S
                answer = (now, max(there, captured) + wire, captured)
                last = captured
            elif answer is None and now >= times.old_at:
                newest = None
        return self

    @property
    def per_answer(self) -> float:
        return self.frames / len(self.ages)


def test_one_frame_is_sent_for_each_answer() -> None:
    link = Link().run(30)
    assert len(link.ages) >= 30 / EVERY_S - 1
    assert link.per_answer < 1.05
    assert max(link.ages[3:]) < link.camera_s - NEXT_S + SLOWEST_S


def test_busy_model_needs_few_more_frames() -> None:
    link = Link(busy_s=0.08).run(30)
    assert link.per_answer < 1.2
    assert max(link.ages) < link.camera_s + SLOWEST_S + 0.08


def test_frame_that_waits_for_the_model_is_replaced() -> None:
    link = Link(busy_s=1.0).run(30)
    assert max(link.ages) < link.camera_s + REPLACE_S + 2 * SLOWEST_S
    assert link.per_answer < 1 + 1 / REPLACE_S


def test_each_frame_of_a_slow_camera_is_sent_once() -> None:
    link = Link(camera_s=1.0).run(30)
    assert len(link.ages) >= 28
    assert link.frames <= 31
    assert max(link.ages) < 1.0 + SLOWEST_S


def test_all_frames_are_asked_for_at_once() -> None:
    times = AskTimes()
    times.needed_at = -math.inf
    for now in (10.0, 10.04, 10.08):
        assert times.next_ask <= now
        times.on_ask(now)
        times.on_frame(now + 0.03, 0.03, FrameId(1, round(25 * now)), now)
        assert times.max_age is None


def test_first_frame_is_asked_for_without_a_need_and_meets_no_later_one() -> None:
    times = AskTimes()
    times.needed_at = 60.0
    assert times.next_ask == -math.inf
    times.on_ask(10.0)
    times.on_frame(10.05, 0.05, FrameId(1, 0), 10.0)
    assert times.next_ask == pytest.approx(60.0 - 0.05)
    times.needed_at = math.inf
    assert times.next_ask == math.inf


def test_single_long_transfers_do_not_count() -> None:
    times = AskTimes()
    for number, took in enumerate([0.04, 0.04, 3.0, 0.04, 0.05, 0.9, 0.04]):
        times.on_frame(10.0 + number, took, FrameId(1, number), 10.0 + number)
    times.needed_at = 20.0
    assert times.next_ask == pytest.approx(20.0 - 0.04)


@pytest.mark.parametrize(("rate", "age_ms"), [(25, 20), (60, 25 / 3), (10, 80), (1, 980)])
def test_frame_is_too_old_when_the_next_one_is_near(rate: int, age_ms: float) -> None:
    times = AskTimes()
    assert times.max_age is None
    for number in (0, 3, 17):
        times.on_frame(100.0 + number / rate, 0.05, FrameId(1, number), 100.0 + number / rate)
    assert times.max_age == pytest.approx(age_ms / 1000, abs=1e-6)
    times.on_frame(200.0, 0.05, FrameId(2, 0), 200.0)
    assert times.max_age == pytest.approx(age_ms / 1000, abs=1e-6), "the camera was connected again"


# The needs of all consumers


def test_first_need_of_all_consumers_counts() -> None:
    demand = DecodeDemand()
    assert demand.next_need(10.0) == math.inf
    for role, seconds in (("infer", 0.5), ("web", 0.2)):
        demand.add(owner(role), FrameRequest(interval=1.0), 10.0)
        demand.on_fetch(fetch(role, seconds), False, 10.0)
    assert demand.next_need(10.1) == pytest.approx(10.2)
    demand.on_wait(owner("infer"), FrameRequest(on_trigger=True), 10.11)
    assert demand.next_need(10.11) == pytest.approx(10.2), "a frame without motion is of no use"
    demand.on_wait(owner("infer"), FrameRequest(), 10.15)
    demand.on_wait(owner("infer"), FrameRequest(), 10.18)
    assert demand.next_need(10.18) == pytest.approx(10.15)
    demand.remove(owner("infer"))
    assert demand.next_need(10.18) == pytest.approx(10.2)


def test_need_of_a_dead_consumer_is_void_after_some_seconds() -> None:
    demand = DecodeDemand()
    demand.add(owner("web"), FrameRequest(interval=1.0), 10.0)
    demand.on_fetch(fetch("web", None), False, 10.0)
    demand.expire(15.9)
    assert demand.next_need(15.9) == pytest.approx(11.0)
    demand.expire(16.1)
    assert demand.next_need(16.1) == math.inf


def test_consumer_of_all_frames_needs_them_at_once() -> None:
    demand = DecodeDemand()
    demand.add(owner("view"), FrameRequest(), 10.0)
    demand.add(owner("infer"), FrameRequest(interval=1.0), 10.0)
    demand.on_fetch(fetch("infer", 0.0), False, 10.0)
    assert demand.next_need(10.0) == -math.inf
