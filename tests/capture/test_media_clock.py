"""Media time of one connection."""

from __future__ import annotations

from math import inf, nan

import pytest

from streamer.capture.media_clock import MediaClock


@pytest.mark.parametrize(
    ("arrivals", "expected"),
    [
        ([(10.0, 100.0), (10.5, 100.5)], [0.0, 0.5]),
        ([(None, 100.0), (3.0, 100.1), (3.5, 100.6)], [0.0, 0.1, 0.6]),
        ([(1.0, 100.0), (None, 100.1), (1.2, 100.2)], [0.0, None, 0.2]),
        ([(1.0, 100.0), (1.5, 100.5), (0.0, 100.7), (0.5, 101.2)], [0.0, 0.5, 0.7, 1.2]),
        ([(1.0, 100.0), (0.0, 500.0)], [0.0, 1.0]),
        ([(nan, 100.0), (nan, 100.1), (3.0, 100.2), (3.5, 100.7)], [0.0, None, 0.2, 0.7]),
        ([(1.0, 100.0), (inf, 100.1), (-inf, 100.2), (2e11, 100.3), (1.5, 100.5)], [0.0, None, None, None, 0.5]),
    ],
    ids=[
        "offset",
        "first frame without pts",
        "later frame without pts",
        "loop",
        "loop after long pause",
        "not a number",
        "beyond the largest timestamp",
    ],
)
def test_media_time_starts_at_zero_and_never_goes_back(
    arrivals: list[tuple[float | None, float]], expected: list[float | None]
) -> None:
    clock = MediaClock()
    assert [clock.stamp(pts, mono) for pts, mono in arrivals] == [
        None if time is None else pytest.approx(time) for time in expected
    ]
