"""Extrapolation and interpolation of boxes between answers."""

from __future__ import annotations

import pytest

from streamer.types import Box
from streamer.video.box_motion import FRESH_INTERVALS, GONE_INTERVALS, MAX_EXTRAPOLATION, BoxMotion


def box(x: float, track: int | None = 1, label: str = "car") -> Box:
    return Box(x, 0.4, x + 0.2, 0.6, label, None, track)


def lefts(boxes: list[Box]) -> list[float]:
    return sorted(round(box.x0, 6) for box in boxes)


def test_box_moves_on_at_its_velocity() -> None:
    motion = BoxMotion()
    motion.add(10.0, [box(0.1)])
    motion.add(11.0, [box(0.2)])
    (moved,) = motion.at(11.5)
    assert [moved.x0, moved.x1, moved.y0] == pytest.approx([0.25, 0.45, 0.4])
    assert moved.track == 1


def test_velocity_starts_with_the_second_detection() -> None:
    motion = BoxMotion()
    motion.add(0.0, [box(0.1, None), box(0.7, None), box(0.1, None, "cat")])
    motion.add(1.0, [box(0.2, 1)])
    assert lefts(motion.at(1.5)) == [0.25]


def test_acceleration_is_extrapolated() -> None:
    """A step's mean velocity is that at its middle, so an accelerating box is faster by now."""
    motion = BoxMotion()
    for second, x in enumerate((0.0, 0.1, 0.3)):
        motion.add(second, [box(x)])
    assert motion.at(2.1)[0].x0 > 0.3 + 0.1 * 0.2


def test_unconfirmed_box_stops() -> None:
    motion = BoxMotion(1.0)
    motion.add(0.0, [box(0.0)])
    motion.add(1.0, [box(0.1)])
    assert (
        lefts(motion.at(1.0 + MAX_EXTRAPOLATION)) == lefts(motion.at(90.0)) == [round(0.1 + 0.1 * MAX_EXTRAPOLATION, 6)]
    )


def test_overlay_fades_with_age() -> None:
    motion = BoxMotion(2.0)
    assert motion.strength(0.0) == 0
    motion.add(0.0, [box(0.0)])
    assert motion.strength(2.0 * FRESH_INTERVALS) == 1
    assert motion.strength(FRESH_INTERVALS + GONE_INTERVALS) == pytest.approx(0.5)
    assert motion.strength(2.0 * GONE_INTERVALS) == 0


def test_answer_interval_is_measured() -> None:
    motion = BoxMotion(1.0)
    for number in range(40):
        motion.add(0.2 * number, [])
    assert motion.interval == pytest.approx(0.2, rel=0.01)


def test_empty_answer_removes_boxes() -> None:
    motion = BoxMotion()
    motion.add(0.0, [box(0.1)])
    motion.add(1.0, [])
    assert motion.at(1.1) == []


def test_boxes_are_interpolated_between_two_answers() -> None:
    motion = BoxMotion()
    motion.add(0.0, [box(0.1, None), box(0.5, 7, "cat")])
    motion.add(1.0, [box(0.2, 1), box(0.8, None, "dog")])
    assert lefts(motion.at(0.0)) == [0.1, 0.5]
    assert lefts(motion.at(0.25)) == [0.125, 0.5]
    assert lefts(motion.at(0.75)) == [0.175, 0.8]
    assert lefts(motion.at(1.0)) == [0.2, 0.8]


def test_older_answer_is_ignored() -> None:
    motion = BoxMotion()
    assert motion.at(1.0) == []
    motion.add(2.0, [box(0.1)])
    motion.add(1.0, [box(0.9)])
    assert motion.at(1.5) == []
    assert lefts(motion.at(2.0)) == [0.1]
