"""Cameras with very low or high frame rates, late key frames or clock jumps: captured without a reconnect."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from itertools import islice, pairwise
from pathlib import Path

import pytest

from streamer.bus.frame_client import FrameRequest
from streamer.capture.sources import Rtsp, _av
from streamer.core.errors import SourceLost
from streamer.types import Frame
from streamer.web.monitor.capture_poller import MIN_STALLED_S, CapturePoller, CaptureState
from tests.support.agents import until
from tests.support.capturing import STREAM, CaptureProcess, CaptureThread, Consumer
from tests.support.clips import write_clip
from tests.support.rtsp import RtspServer
from tests.support.ts_camera import mpeg_ts, ts_camera

HOUR = 3600


def fetch_until(capture: CaptureThread, consumer: Consumer, enough: Callable[[Frame], bool]) -> list[Frame]:
    """Fetch frames until one is `enough`. Check that the camera is not reconnected meanwhile."""
    frames: list[Frame] = []
    while not frames or not enough(frames[-1]):
        frames.append(consumer.next(FrameRequest(after=frames[-1].id if frames else None)))
        consumer.client.settle(frames[-1], "done")
        assert [status["state"] for status in capture.statuses.receive()] in ([], ["up"])
    return frames


def test_camera_clock_jumps_keep_media_time_steady(tmp_path: Path) -> None:
    parts = [part for begin in (2 * HOUR, 3 * HOUR, HOUR) for part in mpeg_ts(50, 25, begin)]
    with (
        ts_camera(parts, 25) as url,
        CaptureThread(tmp_path, {"kind": "http", "url": url, "decode": "all"}) as capture,
        Consumer(tmp_path) as consumer,
    ):
        frames = fetch_until(capture, consumer, lambda frame: frame.seq >= 135)
        assert len({frame.epoch for frame in frames}) == 1
        for earlier, later in pairwise(frames):
            assert earlier.pts is not None
            assert later.pts is not None
            passed = later.captured_mono - earlier.captured_mono
            assert 0 <= later.pts - earlier.pts <= passed + 1.1, (earlier.seq, earlier.pts, later.pts)


def test_key_frames_of_camera_with_b_frames_have_media_time(tmp_path: Path) -> None:
    """The decoder holds these key frames back until it is flushed, and PyAV gives flushed frames no time base."""
    with (
        ts_camera(mpeg_ts(pictures=400, fps=20, key_frame_every=10, b_frames=2), 20) as url,
        CaptureProcess(tmp_path, {"kind": "http", "url": url}) as capture,
        Consumer(tmp_path) as consumer,
    ):
        times: list[float] = []
        after, key_frames = None, 0
        while key_frames < 6:  # in a row: only key frames are decoded now
            frame = consumer.next(FrameRequest(after=after, interval=3.0))
            consumer.client.settle(frame, "done")
            assert frame.pts is not None
            assert math.isfinite(frame.pts)
            assert not times or frame.pts > times[-1]
            is_key_frame = (
                after is not None and frame.seq == after.seq + 1 and frame.pts == pytest.approx(times[-1] + 0.5)
            )
            key_frames = key_frames + 1 if is_key_frame else 0
            times.append(frame.pts)
            after = frame.id
            assert len(times) < 200, "non-key frames are still decoded"
            assert [status["state"] for status in capture.statuses.receive()] == ["up"]
        capture.stop()
        assert "Traceback" not in capture.errors.read_text()


def test_camera_with_120_fps_keeps_its_rate(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 120)
    with (
        RtspServer(clip, fps=120) as server,
        CaptureThread(tmp_path, server.url) as capture,
        Consumer(tmp_path) as consumer,
    ):
        frames = fetch_until(capture, consumer, lambda frame: frame.seq >= 300)
        took = frames[-1].captured_mono - frames[0].captured_mono
        assert (frames[-1].seq - frames[0].seq) / took > 60, "frames are slower than the camera"
        assert capture.stop()["frames"]["dropped"] == {}


def test_camera_with_a_frame_every_3_s_is_not_stalled(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 25, key_frame_every=1)
    with (
        RtspServer(clip, fps=0.3) as server,
        CaptureThread(tmp_path, server.url) as capture,
        CapturePoller(tmp_path, [STREAM]) as cameras,
        Consumer(tmp_path) as consumer,
    ):
        fetch_until(capture, consumer, lambda frame: frame.seq >= 1)
        until(lambda: cameras.states[STREAM].interval, 5, "frame interval")
        (state,) = until(lambda: _old(cameras, MIN_STALLED_S), 5, "a newest frame older than `STALLED_S`")
        assert not state.is_stalled(time.monotonic())
        assert state.fps == pytest.approx(0.3, abs=0.15)
        assert not consumer.fetch(FrameRequest(max_age=0.5)).frame, "frame older than `max_age`"
        asked = time.monotonic()
        fresh = consumer.next(FrameRequest(max_age=0.5))
        assert fresh.captured_mono > asked - 0.5
        assert fresh.seq >= 2
        consumer.client.settle(fresh, "done")
        assert [status["state"] for status in capture.statuses.receive()] == ["up"]


def _old(cameras: CapturePoller, seconds: float) -> list[CaptureState]:
    state, now = cameras.states[STREAM], time.monotonic()
    return [state] if (state.frame_age(now) or 0) > seconds else []


def test_connection_waits_for_late_first_key_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Like a camera with a frame every 10 s and a key frame every 300 s, sped up."""
    monkeypatch.setattr(_av, "FIRST_FRAME_S", 1.0)
    clip = write_clip(tmp_path / "clip.mp4", 40, key_frame_every=40)
    with RtspServer(clip, fps=8) as server:
        settings = Rtsp.model_validate({"url": server.url})
        first, late = settings.open(), None
        try:
            next(picture for picture in first if picture is not None)
            late = settings.open(4.0)
            joined = time.monotonic()
            assert any(picture is not None for picture in islice(late, 60))
            assert time.monotonic() - joined > 2, "key frame arrived at once, so this proves nothing"
        finally:
            first.close()
            if late is not None:
                late.close()


def test_source_without_decodable_frame_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_av, "FIRST_FRAME_S", 0.2)
    monkeypatch.setattr(_av, "FIRST_FRAME_PACKETS", 10)
    clip = write_clip(tmp_path / "clip.mp4", 200, key_frame_every=200)
    with RtspServer(clip, fps=20) as server:
        settings = Rtsp.model_validate({"url": server.url})
        first, late = settings.open(), None
        try:
            next(picture for picture in first if picture is not None)
            late = settings.open(0.2)
            with pytest.raises(SourceLost, match="sends data, but no frame"):
                list(late)
        finally:
            first.close()
            if late is not None:
                late.close()
