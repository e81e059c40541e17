"""A source with absurd sizes and timestamps is refused or read, and never ends capture."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamer.bus.frame_client import FrameClient, FrameRequest, Reply
from streamer.bus.frame_protocol import MotionGate
from streamer.capture.connection import Connection
from streamer.capture.frame_server import FrameServer
from streamer.capture.frame_slot import LatestFrameSlot
from streamer.capture.interfaces import Picture, Source
from streamer.capture.motion_gate import WHOLE, MotionDetector
from streamer.capture.silence_timeout import SilenceTimeout
from streamer.capture.sources._recording import to_seconds
from streamer.config.model import from_mapping
from streamer.core.errors import SourceEnded, SourceLost
from streamer.core.picture_limits import MAX_SIDE
from streamer.types import Image, Luma, Pace
from tests.support.agents import until
from tests.support.capturing import STREAM, config_of

HOSTILE: tuple[Any, ...] = (
    None, math.nan, math.inf, -math.inf, 0, -1, -(2**63), 2**63, 10**400, 1e308, -1e308, 5e-324, -0.0, 1e11, 0.04,
    Fraction(1, 3),
)  # fmt: skip
SIZES: tuple[Any, ...] = (None, math.nan, math.inf, 0, -1, 2**31, 10**400, MAX_SIDE + 1, 64.0, 1, 2, 17, 5000)


@dataclass
class HostilePicture:
    width: Any
    height: Any
    pts: Any

    def write_bgr(self, out: Image) -> None:
        out[:] = 7

    def luma(self) -> Luma:
        return np.full((max(1, self.height // 10), min(self.width, 160)), 7, np.uint8)


class HostileSource:
    """Yields the pictures. Before each next one, `on_picture` is called, in the connection's thread."""

    modules: ClassVar[tuple[str, ...]] = ()
    note = None

    def __init__(self, pictures: list[HostilePicture], pace: Pace, on_picture: Any) -> None:
        self.pictures, self.pace, self.on_picture = pictures, pace, on_picture

    def open(self, read_limit: float = 15.0) -> Source:
        return self

    def __iter__(self) -> Iterator[Picture | None]:
        for picture in self.pictures:
            yield picture
            self.on_picture(picture)

    def set_interval(self, interval: float) -> bool:
        return False

    def close(self) -> None:
        """Nothing to close."""


class Harness:
    """A capture's slot and server, and a consumer that fetches each frame."""

    def __init__(self, folder: Path) -> None:
        self.slot = LatestFrameSlot(lambda: None)
        self.server = FrameServer(folder, STREAM, self.slot)
        self.client = FrameClient(folder, "infer", 2)
        self.client.connect(STREAM)
        self._stream = from_mapping(config_of("synthetic")).streams[STREAM]
        self._epochs = count(1)
        self._times: list[float | None] = []

    def run(self, pictures: list[HostilePicture], pace: Pace) -> tuple[BaseException | None, list[float | None]]:
        """Read the pictures through one connection; return how it ended and the media time of each frame."""
        epoch = next(self._epochs)
        self._times = []
        self.slot.set_epoch(epoch)
        connection = Connection(
            HostileSource(pictures, pace, self._fetch),
            self.slot, epoch, SilenceTimeout(), lambda: None,
            MotionDetector(self._stream.motion, self._stream.zones),
        )  # fmt: skip
        connection.run()
        return connection.outcome, self._times

    def _fetch(self, picture: HostilePicture) -> None:
        gate = MotionGate(task="caption", when="motion", area=WHOLE, since=None)
        request = self.client.fetch(STREAM, FrameRequest(motion_gates=(gate,)))

        def replies() -> list[Reply]:
            self.server.handle()
            return [reply for reply in self.client.receive() if reply.request == request]

        frame = until(replies, 5, "a response that decodes")[0].frame
        assert frame is not None
        assert frame.image.shape == (picture.height, picture.width, 3)
        self._times.append(frame.pts)
        self.client.settle(frame, "done")

    def close(self) -> None:
        self.client.close()
        self.server.close()


@contextmanager
def harness_in(folder: Path) -> Iterator[Harness]:
    harness = Harness(folder)
    try:
        yield harness
    finally:
        harness.close()


def hostile_pictures() -> st.SearchStrategy[list[HostilePicture]]:
    pts = st.sampled_from(HOSTILE) | st.floats() | st.integers()
    small, any_size = st.sampled_from((1, 2, 17, 640)), st.sampled_from(SIZES)
    valid_size = st.builds(HostilePicture, small, small, pts)
    return st.lists(valid_size, max_size=8) | st.lists(valid_size | st.builds(HostilePicture, any_size, any_size, pts))


@pytest.mark.parametrize("pace", ["live", "file"])
def test_hostile_numbers_never_end_capture(tmp_path: Path, pace: Literal["live", "file"]) -> None:
    with harness_in(tmp_path) as harness:

        @settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(hostile_pictures())
        def check(pictures: list[HostilePicture]) -> None:
            outcome, times = harness.run(pictures, pace)
            assert isinstance(outcome, SourceEnded | SourceLost), repr(outcome)
            if isinstance(outcome, SourceLost):
                assert "pixels refused: the limits are 1 to 65500 pixels a side" in str(outcome)
            else:
                assert len(times) == len(pictures)
            known = [time for time in times if time is not None]
            assert all(math.isfinite(time) for time in known)
            assert known == sorted(known)
            assert times[:1] in ([], [0.0])

        check()


@pytest.mark.parametrize(
    ("width", "height"), [(0, 10), (10, -1), (None, 10), (10, math.nan), (65_501, 2), (8000, 8000)]
)
def test_frame_with_impossible_size_loses_the_connection(tmp_path: Path, width: Any, height: Any) -> None:
    with harness_in(tmp_path) as harness:
        outcome, times = harness.run([HostilePicture(16, 16, 0.0), HostilePicture(width, height, 0.1)], "live")
    assert times == [0.0]
    assert isinstance(outcome, SourceLost)
    assert f"frame of {width}x{height} pixels refused" in str(outcome)


@pytest.mark.parametrize(
    ("time_base", "seconds"),
    [(Fraction(1, 90_000), 2.0), (None, None), (Fraction(0), None), (Fraction(-1, 25), None)],
)
def test_timestamp_needs_a_positive_time_base(time_base: Fraction | None, seconds: float | None) -> None:
    assert to_seconds(180_000, time_base) == seconds
