"""Frames that cannot be converted are counted and passed over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamer.bus.frame_client import FrameRequest
from streamer.bus.frame_protocol import MotionGate
from streamer.capture.interfaces import Picture, Source
from streamer.capture.motion_gate import WHOLE
from streamer.capture.sources import Synthetic
from streamer.core.errors import FrameError
from streamer.core.settings import Settings
from streamer.types import Image, Luma, Pace
from tests.support.capturing import STREAM, CaptureThread, Consumer

PICTURES = 12


class BadPicture:
    width, height = 64, 48

    def __init__(self, pts: float | None) -> None:
        self.pts = pts

    def write_bgr(self, out: Image) -> None:
        raise FrameError("cannot be converted: no memory")

    def luma(self) -> Luma:
        raise FrameError("cannot be converted: no memory")


class HalfBad(Settings):
    """A source whose odd pictures cannot be converted."""

    pace: Pace

    def open(self, read_limit: float = 15.0) -> Source:
        return _HalfBad(self.pace)


class _HalfBad:
    note = None

    def __init__(self, pace: Pace) -> None:
        self._pace = pace

    def __iter__(self) -> Iterator[Picture | None]:
        toy: Any = Synthetic(fps=20, size="64x48", pace=self._pace, seconds=PICTURES / 20).open()
        for number, picture in enumerate(toy):
            yield BadPicture(picture.pts) if number % 2 else picture

    def set_interval(self, interval: float) -> bool:
        return False

    def close(self) -> None:
        """Nothing to close."""


@pytest.mark.parametrize("pace", ["live", "file"])
def test_undecodable_frames_are_counted_and_passed_over(tmp_path: Path, pace: Pace) -> None:
    with CaptureThread(tmp_path, HalfBad(pace=pace)) as capture, Consumer(tmp_path) as consumer:
        after, seen = None, []
        gate = MotionGate(task="caption", when="motion", area=WHOLE, since=None)
        while frame := consumer.next_or_end(FrameRequest(after=after, motion_gates=(gate,))):
            seen.append(frame.seq)
            after = frame.id
            consumer.client.settle(frame, "done")
        counts = capture.statuses.wait("ended")["frames"]
        assert capture.error is None
    assert seen
    assert all(number % 2 == 0 for number in seen)
    assert counts["done"] == len(seen)
    assert set(counts["dropped"]) <= {"undecodable"}
    if pace == "file":
        assert seen == list(range(0, PICTURES, 2))
        assert counts["dropped"] == {"undecodable": PICTURES // 2}


def test_released_stream_passes_between_live_consumers(tmp_path: Path) -> None:
    source = Synthetic(fps=20, size="64x48")
    with CaptureThread(tmp_path, source), Consumer(tmp_path) as first:
        frame = first.next()
        first.client.settle(frame, "done")
        assert first.client.disconnect(STREAM)
        with Consumer(tmp_path) as second:
            later = second.next(FrameRequest(after=frame.id))
            second.client.settle(later, "done")
            assert second.client.disconnect(STREAM)
            first.client.connect(STREAM)
            again = first.next(FrameRequest(after=later.id))
            first.client.settle(again, "done")
            reply = first.reply(first.client.ping(STREAM))
    assert reply.counts is not None
    assert (reply.counts.done, reply.counts.dropped, reply.counts.in_flight) == (3, {}, 0)
