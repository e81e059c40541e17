"""The state of cameras that the web process derives from pings to capture."""

from __future__ import annotations

import numpy as np
import pytest

from streamer.web.monitor.capture_poller import CaptureState, encode_jpeg


@pytest.mark.parametrize(("interval", "limit"), [(None, 3), (0.04, 3), (10.0, 30), (60.0, 60)])
def test_stalled_limit_follows_frame_interval(interval: float | None, limit: float) -> None:
    for age, is_stalled in ((limit - 0.5, False), (limit + 0.5, True)):
        state = CaptureState(replied=100.0, frame_age_at_reply=age, interval=interval)
        assert state.is_stalled(100.1) is is_stalled


@pytest.mark.parametrize("shape", [(1, 70_000, 3), (70_000, 1, 3)])
def test_frame_too_large_for_a_jpeg_gives_no_snapshot(shape: tuple[int, int, int]) -> None:
    assert encode_jpeg(np.zeros(shape, np.uint8), None) is None
    scaled = encode_jpeg(np.zeros(shape, np.uint8), 64)
    assert (scaled is None) == (shape[0] > shape[1])


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 5000, 3), (60_000, 100, 3)])
def test_frame_of_any_other_size_gives_a_snapshot(shape: tuple[int, int, int]) -> None:
    for width in (None, 16):
        jpeg = encode_jpeg(np.zeros(shape, np.uint8), width)
        assert jpeg is not None
        assert jpeg.startswith(b"\xff\xd8")
