"""Capture of cameras that disappear, return, hang, reject the login or send nothing."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Event
from typing import Any, Literal

import pytest

from streamer.bus.frame_client import FrameRequest
from streamer.capture.interfaces import Picture, Source
from streamer.capture.silence_timeout import SilenceTimeout
from streamer.capture.sources import Synthetic
from streamer.capture.sources._picture import AvPicture
from streamer.core.errors import ConfigError, ProcessBroken
from streamer.core.settings import Settings
from streamer.types import Image, Pace
from tests.support.agents import until
from tests.support.capturing import STREAM, CaptureProcess, CaptureThread, Consumer
from tests.support.clips import cut, number_of, write_clip, write_recording
from tests.support.rtsp import RtspServer

PASSWORD = "gar4den%2Fgate"


def short_timeout() -> SilenceTimeout:
    """Return small timeouts, which keep the tests short."""
    return SilenceTimeout(start=1.0, floor=0.5, cap=10.0)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", 25)


def test_killed_camera_is_reconnected(tmp_path: Path, clip: Path) -> None:
    server = RtspServer(clip)
    url = server.url.replace("://", f"://bob:{PASSWORD}@")
    with CaptureProcess(tmp_path, url) as capture, Consumer(tmp_path) as consumer:
        down = capture.statuses.wait("down")  # a camera may be down at the start
        assert down["reason"] == "connection refused: nothing listens there"
        assert 0 < down["retry_in_s"] <= 2
        with server:
            first = consumer.next()
            assert capture.statuses.wait("up")["epoch"] == first.epoch
            consumer.client.settle(first, "done")
            consumer.reply(consumer.client.ping(STREAM))  # capture has counted the frame
            server.kill()
            down = capture.statuses.wait("down", 2)
            assert down["reason"] == "the stream ended"
            assert down["frames"]["done"] == 1
            server.start()
            second = consumer.next(FrameRequest(after=first.id))
            assert second.epoch > first.epoch
            assert second.seq < first.seq + 250, "frame numbers restart with each connection"
            assert capture.statuses.wait("up", 2)["epoch"] == second.epoch
            consumer.client.settle(second, "stale")
            last = capture.stop()
        assert (last["frames"]["done"], last["frames"]["dropped"]) == (1, {"stale": 1})
        assert [status["state"] for status in capture.statuses.all] == ["down", "up", "down", "up", "stopped"]
        assert "gar4den" not in capture.errors.read_text() + str(capture.statuses.all)
        assert [report["kind"] for report in capture.reports()] == ["ready", "first_frame"]


@pytest.mark.parametrize("how", ["frozen", "no video"])
def test_silent_camera_is_reconnected(tmp_path: Path, clip: Path, how: str) -> None:
    with RtspServer(clip) as server, CaptureThread(tmp_path, server.url, short_timeout()) as capture:
        first = capture.statuses.wait("up")
        server.freeze() if how == "frozen" else server.pause()
        with Consumer(tmp_path, "view") as view:
            down = capture.statuses.wait("down")
            assert "silent for" in down["reason"]
            assert view.wait(seconds=0.1).last_frame_age is not None, "no answer while the camera hangs"
        server.thaw() if how == "frozen" else server.resume()
        assert capture.statuses.wait("up", 2, timeout=20)["epoch"] > first["epoch"]


def test_slow_camera_is_not_reconnected(tmp_path: Path, clip: Path) -> None:
    timeout = SilenceTimeout(start=4.0, floor=0.3, cap=20.0)
    with RtspServer(clip, fps=1) as server, CaptureThread(tmp_path, server.url, timeout) as capture:
        first = capture.statuses.wait("up")
        with Consumer(tmp_path, "view", buffers=1) as view:
            request = FrameRequest(at_seq=4)  # without `after`, a later connection would not match before its frame 4
            assert view.wait(request, 20).ready
            until(lambda: timeout.seconds() != 4, 60, "the timeout adapts")
            assert (newest := view.wait(request).newest) is not None
            assert newest.epoch == first["epoch"]
        assert [status["state"] for status in capture.statuses.receive()] == ["up"]


def test_wrong_password_is_reported_and_retried_rarely(tmp_path: Path, clip: Path) -> None:
    with RtspServer(clip, user="bob", password="other") as server:
        url = server.url.replace("://", f"://bob:{PASSWORD}@")
        with CaptureProcess(tmp_path, url) as capture:
            down = capture.statuses.wait("down")
            assert down["reason"] == "refused the user or password"
            assert 30 <= down["retry_in_s"] <= 60
            assert down["frames"]["captured"] == 0
            capture.stop()
            assert "gar4den" not in capture.errors.read_text()


def test_silent_port_is_reported_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"rtsp://bob:{PASSWORD}@127.0.0.1:{mute.getsockname()[1]}/cam"
        with CaptureThread(tmp_path, url, short_timeout()) as capture:
            down = capture.statuses.wait("down")
            assert down["reason"] == "no answer within 1 s"
            tries = [mute.accept()[0] for _ in range(2)]
            for connection in tries:
                connection.close()
            assert [status["state"] for status in capture.statuses.receive()] == ["down"], "one status per transition"


def test_server_that_is_no_camera_is_reported(tmp_path: Path) -> None:
    garbage = socket.create_server(("127.0.0.1", 0))
    url = f"rtsp://127.0.0.1:{garbage.getsockname()[1]}/cam"
    with garbage, CaptureThread(tmp_path, url, short_timeout()) as capture:
        for _ in range(2):
            connection, _ = garbage.accept()
            connection.sendall(os.urandom(1 << 14))
            connection.close()
        assert capture.statuses.wait("down")["reason"]


def test_reconnects_leak_no_descriptors_and_threads(tmp_path: Path, clip: Path) -> None:
    server = RtspServer(clip)
    with CaptureProcess(tmp_path, server.url) as capture:
        folder = Path(f"/proc/{capture.process.pid}")

        def count(kind: str) -> int:
            return len(list((folder / kind).iterdir()))

        for number in range(1, 5):
            with server:
                capture.statuses.wait("up", number, timeout=20)
            capture.statuses.wait("down", number)
            if number == 1:
                files, threads = count("fd"), count("task")
        # Threads of an attempt to connect end a little after the event.
        until(lambda: count("fd") <= files + 1 and count("task") <= threads, 10, "no more than after the first outage")
        capture.stop()


def test_restarted_capture_counts_from_zero(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 10)
    with CaptureProcess(tmp_path, str(clip)) as capture, Consumer(tmp_path) as consumer:
        before = consumer.next()
        consumer.client.settle(before, "done")
        capture.kill()
        capture.restart()
        frames = list(consumer.rest())
        assert len(frames) == 10
        assert {frame.epoch for frame in frames} != {before.epoch}
        last = capture.statuses.wait("ended")
        assert last["frames"] == {"captured": 10, "not_asked": 0, "done": 10, "dropped": {}, "in_flight": 0}


def test_unreadable_recording_is_down_until_it_is_readable(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_text("not a video")
    with CaptureProcess(tmp_path, str(path)) as capture:
        down = capture.statuses.wait("down", timeout=20)
        assert down["reason"].startswith(f"cannot read {path} as a video: ")
        path.write_bytes(write_clip(tmp_path / "new.mp4", 10).read_bytes())
        with Consumer(tmp_path) as consumer:
            assert len(list(consumer.rest())) == 10
        assert capture.statuses.wait("ended")["reason"] is None
        kinds = [report["kind"] for report in capture.reports()]
        assert (kinds[0], kinds[-2:]) == ("ready", ["first_frame", "ended"])
        assert set(kinds[1:-2]) == {"unreadable"}


def test_cut_off_recording_ends_once_and_says_where(tmp_path: Path) -> None:
    clip = cut(write_recording(tmp_path / "clip.mp4", movflags="+faststart"))
    source = {"kind": "file", "path": str(clip), "strict": True}
    with CaptureProcess(tmp_path, source) as capture, Consumer(tmp_path) as consumer:
        numbers = [number_of(frame.image) for frame in consumer.rest()]
        assert numbers[:20] == list(range(20))
        ended = capture.statuses.wait("ended")
        assert re.fullmatch(r"ends early: [23]\.\d s of 6\.0 s", ended["reason"])
        assert [status["state"] for status in capture.statuses.all] == ["up", "ended"]
        kinds = [report["kind"] for report in capture.reports()]
        assert kinds == ["ready", "first_frame", "incomplete", "ended"]


def test_recording_that_kills_its_reader_twice_is_not_read_again(tmp_path: Path) -> None:
    clip, lock = write_clip(tmp_path / "clip.mp4", 10), tmp_path / f"frames-{STREAM}.lock"

    def is_read(readers: int) -> bool:
        return lock.exists() and lock.read_text().endswith(f" {readers}")

    with CaptureProcess(tmp_path, str(clip)) as capture:
        for readers in (1, 2):
            until(partial(is_read, readers), 30, "it is being read")
            capture.kill()
            capture.restart()
        ended = capture.statuses.wait("ended", timeout=30)
        assert ended["reason"] == "2 processes died reading it: it is not read again"
        assert [report["kind"] for report in capture.reports()] == ["ready", "ended"]


def test_stream_without_consumer_ends(tmp_path: Path) -> None:
    with CaptureThread(tmp_path, "synthetic?fps=20&seconds=500ms") as capture:
        frames = capture.statuses.wait("ended")["frames"]
        assert frames["captured"] == frames["not_asked"] > 0


def test_capture_exits_once_consumer_knows_the_end(tmp_path: Path) -> None:
    with CaptureThread(tmp_path, "synthetic?fps=20&seconds=500ms") as capture, Consumer(tmp_path) as consumer:
        assert len(list(consumer.rest())) > 0
        capture.statuses.wait("ended")
        until(lambda: not capture.thread.is_alive(), 5, "its end")


def test_key_frames_only_for_low_demand_and_always_fresh(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 50, key_frame_every=25)  # one key frame per second

    def numbers(consumer: Consumer, interval: float, count: int) -> list[int]:
        """Fetch and settle `count` successive frames, check that they are fresh, and return their numbers."""
        found, after = [], None
        for _ in range(count):
            asked = time.monotonic()
            frame = consumer.next(FrameRequest(after=after, interval=interval))
            found.append(number_of(frame.image))
            after = frame.id
            consumer.client.settle(frame, "done")
            assert frame.captured_mono > asked - 0.5, "an old key frame"
        return found

    def is_too_late(consumer: Consumer) -> bool:
        """Return whether a slow consumer gets no frame: the key frame is too old now."""
        assert consumer.wait(FrameRequest(interval=2.0)).ready
        time.sleep(0.2)
        reply = consumer.fetch(FrameRequest(interval=2.0))
        if reply.frame is not None:  # on a busy computer the next key frame has come meanwhile
            consumer.client.settle(reply.frame, "done")
        return reply.frame is None

    with RtspServer(clip) as server, CaptureThread(tmp_path, server.url) as capture:
        capture.statuses.wait("up")
        with Consumer(tmp_path) as consumer, Consumer(tmp_path, "view") as view:
            found = [1]
            while any(number % 25 for number in found[-3:]):  # all frames until the key frame interval is known
                assert len(found) < 100, "non-key frames are still decoded"
                found += numbers(consumer, 2.0, 1)
            until(partial(is_too_late, consumer), 60, "no old key frame")
            numbers(consumer, 2.0, 4)  # full decoding from the next key frame on, despite the low demand
            busy = numbers(consumer, 2.0, 8)
            assert any(number % 25 for number in busy)
            numbers(view, 0.0, 12)
            shown = numbers(view, 0.0, 20)
            assert sum(number % 25 != 0 for number in shown) > 15
        capture.stop()
        assert [status["state"] for status in capture.statuses.all] == ["up", "stopped"]


def test_only_fetched_frames_are_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conversions: list[AvPicture] = []
    write_bgr = AvPicture.write_bgr

    def count(picture: AvPicture, out: Image) -> None:
        conversions.append(picture)
        write_bgr(picture, out)

    monkeypatch.setattr(AvPicture, "write_bgr", count)
    clip = write_clip(tmp_path / "clip.mp4", 50)
    with RtspServer(clip) as server, CaptureThread(tmp_path, server.url) as capture, Consumer(tmp_path) as consumer:
        first = consumer.next()
        assert consumer.wait(FrameRequest(after=first.id, at_seq=first.seq + 20)).ready
        consumer.client.settle(consumer.next(), "done")
        consumer.client.settle(first, "done")
        assert capture.stop()["frames"]["captured"] > 20
    assert len(conversions) == 2


def test_missing_hardware_decoder_falls_back_to_software(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 50)
    with RtspServer(clip) as server:
        source = {"kind": "rtsp", "url": server.url, "hwaccel": "vaapi"}  # not in any build of PyAV
        with CaptureThread(tmp_path, source) as capture, Consumer(tmp_path) as consumer:
            up = capture.statuses.wait("up")
            assert up["reason"] == "decodes in software: vaapi cannot be used: it is not in this build of FFmpeg"
            consumer.client.settle(consumer.next(), "done")


class FaultySource(Settings):
    """A source with a fault that no real one shows on demand: a hanging library call, a bug, a config error."""

    fault: Literal["hang", "bug", "bug late", "config"]
    pace: Pace = "live"

    def open(self, read_limit: float = 15.0) -> Source:
        if self.fault == "bug":
            raise ZeroDivisionError("a bug")
        if self.fault == "config":
            raise ConfigError("it is wrong")
        return BrokenFile() if self.fault == "bug late" else Hanging()


class BrokenFile:
    """Yields 3 frames, then raises."""

    note = None

    def set_interval(self, interval: float) -> bool:
        return False

    def __iter__(self) -> Iterator[Picture | None]:
        yield from islice(Synthetic(fps=50, size="64x48").open(), 3)
        raise ZeroDivisionError("a bug")

    def close(self) -> None:
        pass


class Hanging:
    """Yields 20 frames, then blocks until `released` is set."""

    released = Event()
    closed = 0
    note = None

    def set_interval(self, interval: float) -> bool:
        return False

    def __iter__(self) -> Iterator[Picture | None]:
        pictures = Synthetic(fps=500, size="64x48").open()
        yield from islice(pictures, 20)
        self.released.wait()
        yield from islice(pictures, 1)

    def close(self) -> None:
        Hanging.closed += 1


@pytest.fixture
def hanging() -> Iterator[type[Hanging]]:
    Hanging.released, Hanging.closed = Event(), 0
    yield Hanging
    Hanging.released.set()


def test_hanging_connection_is_abandoned(tmp_path: Path, hanging: type[Hanging]) -> None:
    timeout = SilenceTimeout(start=1.0, floor=1.0, cap=5.0)
    with CaptureThread(tmp_path, FaultySource(fault="hang"), timeout) as capture, Consumer(tmp_path, "view") as view:
        first = capture.statuses.wait("up")
        assert "silent for" in capture.statuses.wait("down")["reason"]
        assert (newest := view.wait(seconds=0.1).newest) is not None
        assert newest.epoch == first["epoch"]
        assert capture.statuses.wait("up", 2)["epoch"] > first["epoch"]
        counted = capture.statuses.wait("down", 2)["frames"]["captured"]
        hanging.released.set()  # frames of abandoned connections are not counted
        until(lambda: hanging.closed >= 2, 5, "abandoned connections are closed")
        assert counted == 40


def test_too_many_hanging_connections_end_the_process(
    tmp_path: Path, hanging: type[Hanging], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamer.processes.capture.MAX_HANGING", 1)
    with CaptureThread(tmp_path, FaultySource(fault="hang"), SilenceTimeout(start=0.1, floor=0.1, cap=1.0)) as capture:
        until(lambda: capture.statuses.receive() and not capture.thread.is_alive(), 15, "its end")
        assert isinstance(capture.error, ProcessBroken)


@pytest.mark.parametrize(("fault", "reason"), [("bug", r"internal error [0-9a-f]{6}: .*"), ("config", "it is wrong")])
def test_unexpected_error_of_a_source_is_retried(tmp_path: Path, fault: Any, reason: str) -> None:
    with CaptureThread(tmp_path, FaultySource(fault=fault)) as capture:
        assert re.fullmatch(reason, capture.statuses.wait("down")["reason"])
        capture.stop()
        assert capture.error is None


def test_recording_that_breaks_ends_and_is_not_read_again(tmp_path: Path) -> None:
    with (
        CaptureThread(tmp_path, FaultySource(fault="bug late", pace="file")) as capture,
        Consumer(tmp_path) as consumer,
    ):
        assert len(list(consumer.rest())) == 3
        assert re.fullmatch(r"internal error [0-9a-f]{6}: .*", capture.statuses.wait("ended")["reason"])
        assert [status["state"] for status in capture.statuses.all] == ["up", "ended"]
