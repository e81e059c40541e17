"""The state of cameras that the web process derives from pings to capture."""

from __future__ import annotations

import pytest

from streamer.web.monitor.capture_poller import CaptureState


@pytest.mark.parametrize(("interval", "limit"), [(None, 3), (0.04, 3), (10.0, 30), (60.0, 60)])
def test_stalled_limit_follows_frame_interval(interval: float | None, limit: float) -> None:
    for age, is_stalled in ((limit - 0.5, False), (limit + 0.5, True)):
        state = CaptureState(replied=100.0, frame_age_at_reply=age, interval=interval)
        assert state.is_stalled(100.1) is is_stalled
