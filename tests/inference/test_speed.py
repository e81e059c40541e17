"""The speed of a device, with a clock of its own."""

from __future__ import annotations

from streamer.inference.speed import FASTEST, MIN_ANSWERS, REPORT_S, SpeedMeter


def test_speed_is_the_ratio_of_known_and_measured_costs() -> None:
    meter = SpeedMeter({"caption": 0.1}, now=0.0)
    for _ in range(MIN_ANSWERS):
        meter.record({"caption": 2}, 0.05)
        meter.record({"ocr": 1}, 9.0)  # no costs are known
        meter.record({"caption": 1, "ocr": 2}, 9.0)  # a task of several stages
    assert meter.take(REPORT_S - 1) is None
    speed = meter.take(REPORT_S)
    assert speed is not None
    assert abs(speed - 4.0) < 1e-9
    assert meter.take(2 * REPORT_S) is None, "too few answers since"


def test_a_speed_stays_within_bounds() -> None:
    meter = SpeedMeter({"caption": 1e9}, now=0.0)
    for _ in range(MIN_ANSWERS):
        meter.record({"caption": 1}, 1e-9)
    assert meter.take(REPORT_S) == FASTEST
    assert SpeedMeter({}, now=0.0).take(99.0) is None
