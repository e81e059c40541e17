"""Which picture is shown when, with clocks made up."""

from __future__ import annotations

import numpy as np
import pytest

from streamer.types import FrameId
from streamer.video.pacing import GAP_S, LOST_S, START_S, FramePacer, PacedFrame, QueuedFrame

IMAGE = np.zeros((4, 4, 3), np.uint8)


def shown(seq: int, at: float, epoch: int = 1) -> QueuedFrame:
    return QueuedFrame(FrameId(epoch, seq), 1e9 + at, at, at, IMAGE)


def play(line: FramePacer, start: float, end: float, step: float = 0.005) -> list[PacedFrame]:
    """Everything that is shown from `start` to `end`."""
    found = []
    for tick in range(round((end - start) / step)):
        due = line.take(start + tick * step)
        if due is not None:
            found.append(due)
    return found


def fed(seconds: float, fps: float = 25, delay: float = 0.0) -> tuple[FramePacer, list[PacedFrame]]:
    """A line that got a camera's pictures for so long."""
    line, found = FramePacer(0.0, delay), []
    for seq in range(round(seconds * fps)):
        line.put(shown(seq, seq / fps))
        found += play(line, seq / fps, (seq + 1) / fps)
    return line, found


def test_every_picture_is_shown_once_as_it_comes() -> None:
    _, found = fed(4)
    assert [due.shown.id.seq for due in found if due.shown] == list(range(100))
    assert not any(due.is_repeat or due.lost for due in found)
    assert [due.at for due in found] == pytest.approx([seq / 25 for seq in range(100)], abs=0.002)


@pytest.mark.parametrize("fps", [5, 25, 50])
def test_a_lost_camera_keeps_its_rate(fps: float) -> None:
    line, _ = fed(8, fps)
    found = play(line, 8.0, 28.0)
    assert len(found) == pytest.approx(20 * fps, abs=1 * fps)
    assert all(due.is_repeat for due in found)
    assert found[0].lost is None
    assert found[-1].lost == pytest.approx(20, abs=0.5)
    first_lost = next(due for due in found if due.lost is not None)
    assert first_lost.at == pytest.approx(8 + LOST_S, abs=0.5)
    times = [due.at for due in found]
    assert times == sorted(set(times))


def test_a_camera_that_is_back_is_shown_at_once() -> None:
    line, _ = fed(4)
    play(line, 4.0, 9.0)
    line.put(shown(0, 9.01, epoch=2))
    due = line.take(9.01)
    assert due is not None
    assert due.shown is not None
    assert (due.shown.id.epoch, due.is_repeat, due.lost) == (2, False, None)


def test_a_camera_that_never_came_is_lost_after_a_while() -> None:
    line = FramePacer(100.0)
    assert line.take(100.0 + START_S - 0.1) is None
    found = play(line, 100.0 + START_S, 105.0)
    assert found[0].shown is None
    assert found[-1].lost == pytest.approx(5, abs=0.1)


def test_a_short_gap_is_not_filled() -> None:
    line, _ = fed(4)
    assert play(line, 4.0, 4.0 + GAP_S - 0.06) == []


def test_a_delay_moves_every_picture_by_the_same() -> None:
    line, found = fed(4, delay=1.0)
    first = next(due for due in found if due.shown is not None)
    assert first.shown is not None
    assert first.shown.id.seq == 0
    assert first.at == pytest.approx(1.0, abs=0.01)
    rest = play(line, 4.0, 4.99)
    assert [due.shown.id.seq for due in rest if due.shown] == list(range(75, 100))
    assert not any(due.is_repeat for due in rest)
    assert line.empty


def test_a_view_that_is_too_slow_shows_the_newest() -> None:
    line = FramePacer(0.0)
    for seq in range(10):
        line.put(shown(seq, seq / 25))
    due = line.take(1.0)
    assert due is not None
    assert due.shown is not None
    assert due.shown.id.seq == 9
    assert line.empty


def test_what_nobody_looked_at_is_not_missing() -> None:
    line, _ = fed(4)
    line.resume(60.0)
    assert line.take(60.1) is None
