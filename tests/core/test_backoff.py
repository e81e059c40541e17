"""When to try again, and how long a silence may be."""

from __future__ import annotations

import random

import pytest

from streamer.capture.connection import MediaClock
from streamer.capture.silence_timeout import SilenceTimeout
from streamer.core.backoff import ReconnectBackoff


def test_waits_are_short_in_the_first_minute_and_grow_later() -> None:
    backoff, now = ReconnectBackoff(random.Random(1)), 1000.0
    early: list[float] = []
    while now < 1060:
        early.append(backoff.next_delay(now))
        now += early[-1]
    assert all(0.2 < wait <= 2 for wait in early)
    assert early[0] <= 0.5
    assert len({round(wait, 3) for wait in early[3:]}) > 10, "no jitter"
    late = [backoff.next_delay(now + 100 * number) for number in range(12)]
    assert max(late) <= 30
    assert all(wait >= 15 for wait in late[6:])
    backoff.reset()
    assert backoff.next_delay(now + 5000) <= 0.5


def test_a_camera_that_shows_something_now_and_then_is_never_waited_for_long() -> None:
    backoff = ReconnectBackoff(random.Random(1))
    for minute in range(10):
        backoff.on_response(60.0 * minute)
        assert backoff.next_delay(60.0 * minute) <= 2


def test_a_refused_password_is_not_tried_often() -> None:
    backoff = ReconnectBackoff(random.Random(1))
    assert all(30 <= backoff.next_delay(float(now), refused=True) <= 60 for now in range(100))


def test_a_silence_may_last_three_times_the_longest_gap() -> None:
    rhythm = SilenceTimeout()
    assert rhythm.seconds() == 15
    for _ in range(400):
        rhythm.observe_gap(0.04)
    assert rhythm.seconds() == 5
    rhythm.observe_gap(4)
    assert rhythm.seconds() == 12
    for _ in range(500):
        rhythm.observe_gap(0.04)
    assert rhythm.seconds() == 5, "it is never forgotten"
    rhythm.observe_gap(50)
    assert rhythm.seconds() == 60


def test_a_camera_with_ten_seconds_between_pictures_is_alive() -> None:
    rhythm = SilenceTimeout()
    for _ in range(10):
        assert rhythm.seconds() > 10
        rhythm.observe_gap(10)
    assert rhythm.seconds() == 30


def test_a_camera_that_was_slower_than_thought_is_given_more_time() -> None:
    rhythm = SilenceTimeout()
    rhythm.observe_timeout(15)
    assert rhythm.seconds() == 15
    rhythm.connected()
    assert rhythm.seconds() == 45


@pytest.mark.parametrize(
    ("arrivals", "expected"),
    [
        ([(10.0, 100.0), (10.5, 100.5)], [0.0, 0.5]),
        ([(None, 100.0), (3.0, 100.1), (3.5, 100.6)], [0.0, 0.1, 0.6]),
        ([(1.0, 100.0), (None, 100.1), (1.2, 100.2)], [0.0, None, 0.2]),
        ([(1.0, 100.0), (1.5, 100.5), (0.0, 100.7), (0.5, 101.2)], [0.0, 0.5, 0.7, 1.2]),
        ([(1.0, 100.0), (0.0, 500.0)], [0.0, 1.0]),
    ],
    ids=["from zero", "no time at first", "no time later", "a loop", "a loop after a long hold"],
)
def test_media_time(arrivals: list[tuple[float | None, float]], expected: list[float | None]) -> None:
    clock = MediaClock()
    assert [clock.stamp(pts, mono) for pts, mono in arrivals] == [
        None if time is None else pytest.approx(time) for time in expected
    ]
