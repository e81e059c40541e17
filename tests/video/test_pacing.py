"""FramePacer with a made-up clock."""

from __future__ import annotations

import numpy as np
import pytest

from streamer.types import Frame
from streamer.video.pacing import (
    FIRST_REPEAT_S,
    MAX_INTERVAL_S,
    MAX_LOST_S,
    MAX_SYNC_S,
    MIN_GAP_S,
    MIN_LOST_S,
    SYNC_MARGIN_S,
    FramePacer,
    PacedFrame,
)

IMAGE = np.zeros((4, 4, 3), np.uint8)


def frame(seq: int, at: float, epoch: int = 1) -> Frame:
    return Frame("gate", epoch, seq, 1e9 + at, at, at, IMAGE)


def play(pacer: FramePacer, start: float, end: float, step: float = 0.005) -> list[PacedFrame]:
    """Return the outputs from second `start` to `end`."""
    found = []
    for tick in range(round((end - start) / step)):
        paced = pacer.take(start + tick * step)
        if paced is not None:
            found.append(paced)
    return found


def fed(seconds: float, fps: float = 25, delay: float = 0.0) -> tuple[FramePacer, list[PacedFrame]]:
    """Return a pacer that was fed by a camera for `seconds`, and its outputs."""
    pacer, found = FramePacer(0.0, delay), []
    for seq in range(round(seconds * fps)):
        pacer.put(frame(seq, seq / fps))
        found += play(pacer, seq / fps, (seq + 1) / fps)
    return pacer, found


def test_each_frame_is_shown_once_on_arrival() -> None:
    _, found = fed(4)
    assert [paced.frame.id.seq for paced in found if paced.frame] == list(range(100))
    assert not any(paced.is_repeat or paced.lost_s for paced in found)
    assert [paced.at for paced in found] == pytest.approx([seq / 25 for seq in range(100)], abs=0.002)


@pytest.mark.parametrize("fps", [5, 25, 50])
def test_lost_camera_keeps_its_rate(fps: float) -> None:
    pacer, _ = fed(8, fps)
    found = play(pacer, 8.0, 28.0)
    assert len(found) == pytest.approx(20 * fps, abs=1 * fps)
    assert all(paced.is_repeat for paced in found)
    assert found[0].lost_s is None
    assert found[-1].lost_s == pytest.approx(20, abs=0.5)
    first_lost = next(paced for paced in found if paced.lost_s is not None)
    assert first_lost.at == pytest.approx(8 + MIN_LOST_S, abs=0.5)
    times = [paced.at for paced in found]
    assert times == sorted(set(times))


@pytest.mark.parametrize("late_s", [0.25, 3.0])
def test_late_frame_before_an_outage_keeps_the_rate(late_s: float) -> None:
    pacer, _ = fed(8)
    pacer.put(frame(200, 8 + late_s))
    assert pacer.interval == pytest.approx(0.04, rel=0.01)
    found = play(pacer, 8 + late_s, 18 + late_s)
    assert len(found) == pytest.approx(250, abs=10)


def test_stall_after_the_first_frame_keeps_the_rate() -> None:
    pacer = FramePacer(0.0)
    pacer.put(frame(0, -1.0))
    for seq in range(1, 30):
        pacer.put(frame(seq, seq / 25))
    assert pacer.interval == pytest.approx(0.04, rel=0.01)


def test_burst_at_the_start_keeps_the_rate() -> None:
    pacer = FramePacer(0.0)
    for seq in range(60):
        pacer.put(frame(seq, max(0, seq - 24) / 25))
        assert pacer.interval == pytest.approx(0.04, rel=0.01)


def test_bursts_of_frames_keep_the_rate() -> None:
    pacer = FramePacer(0.0)
    for seq in range(250):
        pacer.put(frame(seq, seq // 5 / 5))
    assert pacer.interval == pytest.approx(0.04, rel=0.01)


@pytest.mark.parametrize("fps", [2, 10, 50])
def test_changed_camera_rate_is_followed_within_10_s(fps: int) -> None:
    pacer, _ = fed(20)
    for number in range(10 * fps):
        pacer.put(frame(500 + number, 20 + number / fps))
    assert pacer.interval == pytest.approx(1 / fps, rel=0.01)


def test_returning_camera_is_shown_at_once() -> None:
    pacer, _ = fed(4)
    play(pacer, 4.0, 9.0)
    pacer.put(frame(0, 9.01, epoch=2))
    paced = pacer.take(9.01)
    assert paced is not None
    assert paced.frame is not None
    assert (paced.frame.id.epoch, paced.is_repeat, paced.lost_s) == (2, False, None)


def test_absent_camera_counts_as_lost() -> None:
    pacer = FramePacer(100.0)
    assert pacer.take(100.0 + FIRST_REPEAT_S - 0.1) is None
    found = play(pacer, 100.0 + FIRST_REPEAT_S, 105.0)
    assert found[0].frame is None
    assert found[-1].lost_s == pytest.approx(5, abs=0.1)


def test_short_gap_is_not_filled() -> None:
    pacer, _ = fed(4)
    assert play(pacer, 4.0, 4.0 + MIN_GAP_S - 0.06) == []


def test_delay_shifts_every_frame_equally() -> None:
    pacer, found = fed(4, delay=1.0)
    first = next(paced for paced in found if paced.frame is not None)
    assert first.frame is not None
    assert first.frame.id.seq == 0
    assert first.at == pytest.approx(1.0, abs=0.01)
    rest = play(pacer, 4.0, 4.99)
    assert [paced.frame.id.seq for paced in rest if paced.frame] == list(range(75, 100))
    assert not any(paced.is_repeat for paced in rest)
    assert pacer.is_empty


def test_delay_follows_the_slowest_answer_up_to_a_limit() -> None:
    pacer = FramePacer(0.0, 1.0)
    pacer.observe_latency(0.2)
    assert pacer.delay == 1.0
    pacer.observe_latency(1.4)
    assert pacer.delay == 1.4 + SYNC_MARGIN_S
    pacer.observe_latency(60.0)
    assert pacer.delay == MAX_SYNC_S


def test_slow_view_shows_only_the_newest_frame() -> None:
    pacer = FramePacer(0.0)
    for seq in range(10):
        pacer.put(frame(seq, seq / 25))
    paced = pacer.take(1.0)
    assert paced is not None
    assert paced.frame is not None
    assert paced.frame.id.seq == 9
    assert pacer.is_empty


def test_resume_repeats_no_frame_of_the_idle_time() -> None:
    pacer, _ = fed(4)
    pacer.resume(60.0)
    assert pacer.take(60.1) is None


@pytest.mark.parametrize("fps", [0.1, 0.5])
def test_slow_camera_is_not_shown_as_lost_between_frames(fps: float) -> None:
    pacer, found = fed(5 / fps, fps)
    _, second, *_ = (index for index, due in enumerate(found) if not due.is_repeat)
    assert not any(due.lost_s for due in found[second:]), "its interval is known after two frames"
    assert pacer.interval == MAX_INTERVAL_S, "the last frame is repeated every second"
    after = play(pacer, 5 / fps, 5 / fps + 70, step=0.25)
    lost = next(due for due in after if due.lost_s is not None)
    assert lost.lost_s == pytest.approx(min(MAX_LOST_S, max(MIN_LOST_S, 5 / fps)), abs=MAX_INTERVAL_S + 0.3)
