"""Delays before the next attempt."""

from __future__ import annotations

import random

from streamer.core.backoff import ReconnectBackoff, ReportRate, Settling


def test_reconnect_delay_is_short_for_a_minute_then_grows() -> None:
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


def test_reconnect_delay_stays_short_while_camera_responds() -> None:
    backoff = ReconnectBackoff(random.Random(1))
    for minute in range(10):
        backoff.on_response(60.0 * minute)
        assert backoff.next_delay(60.0 * minute) <= 2


def test_refused_login_is_retried_after_30_to_60_s() -> None:
    backoff = ReconnectBackoff(random.Random(1))
    assert all(30 <= backoff.next_delay(float(now), refused=True) <= 60 for now in range(100))


def test_camera_that_answers_and_fails_for_hours_is_asked_less_often() -> None:
    backoff, now = ReconnectBackoff(random.Random(1)), 0.0
    delays: list[float] = []
    for _ in range(200):
        backoff.on_response(now)
        delays.append(backoff.next_delay(now))
        now += delays[-1] + 1
    assert max(delays[:50]) <= 2
    assert min(delays[-50:]) >= 15


def test_flapping_is_reported_at_a_falling_rate() -> None:
    """It works for three seconds of every four, for an hour."""
    settling, is_up, reports = Settling(), True, list[float]()
    for second in range(3600):
        if second % 4 == 0:
            settling.on_failure(float(second), is_reported=is_up)
            reports += [second] * is_up
            is_up = False
        elif not is_up and settling.is_over(float(second)):
            reports.append(second)
            is_up = True
    assert len([second for second in reports if second < 16]) >= 6, "the first ones are reported at once"
    assert len(reports) <= 12
    assert settling.is_over(3660.0)


def test_state_that_keeps_changing_is_reported_at_a_falling_rate() -> None:
    rate, reported = ReportRate(), list[float]()
    for second in range(0, 7200, 5):  # as often as overload control may change the intervals
        rate.on_change()
        if rate.take(float(second)):
            reported.append(second)
    assert reported[:3] == [0, 5, 10]
    assert len(reported) <= 35
    assert not rate.take(7201.0)
    assert rate.take(7600.0), "the last change is reported in any case"
    assert not rate.take(7700.0)
