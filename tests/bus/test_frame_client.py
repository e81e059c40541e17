"""Frames between real processes: which frame each consumer gets, and that none is lost, repeated or miscounted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import zmq

from streamer.bus.frame_buffers import BUFFER_BYTES, buffers_directory
from streamer.bus.frame_client import FrameRequest, NoBuffer, frames_endpoint
from streamer.bus.frame_protocol import MAX_MESSAGE_BYTES, Fetch, Ping, decode_message, decode_response, encode
from streamer.core.errors import WireError
from streamer.toyworld.world import World
from streamer.types import FrameId
from tests.support.agents import assert_identity, until
from tests.support.capturing import STREAM, CaptureProcess, CaptureThread, Consumer
from tests.support.clips import number_of, write_clip
from tests.support.small_disk import resize, small_disk

LIVE = "synthetic?fps=50&size=160x120&seed=3"
FILE = "synthetic?fps=10&size=160x120&pace=file&seconds=3s"


def test_frame_arrives_unchanged(tmp_path: Path) -> None:
    with CaptureProcess(tmp_path, LIVE) as capture, Consumer(tmp_path) as consumer:
        frame = consumer.next()
        assert frame.pts is not None
        np.testing.assert_array_equal(frame.image, World(3).scene(frame.pts).paint(160, 120))
        assert frame.image.shape == (120, 160, 3)
        assert not frame.image.flags.writeable
        assert frame.pts >= frame.seq / 50  # a blocked camera skips the frames it missed
        consumer.client.settle(frame, "done")
        with pytest.raises(ValueError, match="not held"):
            consumer.client.settle(frame, "done")
        last = capture.stop()
        assert last["frames"]["done"] == 1
        assert last["frames"]["in_flight"] == 0
        assert [report["kind"] for report in capture.reports()] == ["ready", "first_frame"]


def test_live_frames_are_newest_and_never_repeated(tmp_path: Path) -> None:
    with CaptureThread(tmp_path, LIVE) as capture, Consumer(tmp_path) as consumer:
        first = consumer.next()
        later = consumer.wait(FrameRequest(after=first.id, at_seq=first.seq + 10))
        assert later.ready
        second = consumer.next(FrameRequest(after=first.id))
        assert second.seq >= first.seq + 10, "not the newest"
        assert consumer.fetch(FrameRequest(after=second.id, at_pts=1e6)).frame is None
        for frame in (first, second):
            consumer.client.settle(frame, "done")
        seen = [first.seq, second.seq]
        for _ in range(20):  # without `after`: capture remembers what it lent
            frame = consumer.next()
            seen.append(frame.seq)
            consumer.client.settle(frame, "stale")
        assert seen == sorted(set(seen))
        frames = capture.stop()["frames"]
        assert (frames["done"], frames["dropped"]) == (2, {"stale": 20})
        assert frames["not_asked"] >= 9


def test_frames_of_a_view_are_not_counted(tmp_path: Path) -> None:
    with CaptureThread(tmp_path, LIVE) as capture, Consumer(tmp_path, "view") as view:
        for _ in range(3):
            view.client.settle(view.next(), "done")
        frames = capture.stop()["frames"]
        assert frames["captured"] == frames["not_asked"] > 0


def test_ping_returns_frame_accounting(tmp_path: Path) -> None:
    with CaptureThread(tmp_path, LIVE), Consumer(tmp_path) as consumer:
        consumer.client.settle(consumer.next(), "done")
        consumer.next()
        reply = consumer.reply(consumer.client.ping(STREAM))
        assert reply.counts is not None
        assert_identity(reply.counts.model_dump())
        assert (reply.counts.done, reply.counts.in_flight) == (1, 1)
        assert reply.last_frame_age is not None


def test_fetch_without_free_buffer_raises_no_buffer(tmp_path: Path) -> None:
    with CaptureThread(tmp_path, LIVE), Consumer(tmp_path, buffers=1) as consumer:
        frame = consumer.next()
        with pytest.raises(NoBuffer):
            consumer.client.fetch(STREAM, FrameRequest())
        consumer.client.settle(frame, "done")
        assert consumer.next(FrameRequest(after=frame.id)).id > frame.id


def test_wait_times_out_with_age_of_newest_frame(tmp_path: Path) -> None:
    with CaptureThread(tmp_path, "synthetic?fps=0.5"), Consumer(tmp_path) as consumer:
        first = consumer.next()
        reply = consumer.wait(FrameRequest(after=first.id), 0.3)
        assert not reply.ready
        assert not reply.ended
        assert reply.frame is None
        assert reply.newest == first.id
        assert reply.last_frame_age is not None
        assert reply.last_frame_age >= 0.3


def test_newer_wait_replaces_the_earlier_one(tmp_path: Path) -> None:
    with CaptureThread(tmp_path, LIVE), Consumer(tmp_path) as consumer:
        consumer.next()
        earlier = consumer.client.wait(STREAM, FrameRequest(at_pts=1e6), 60)
        assert consumer.wait(FrameRequest(at_pts=1e6), 0.1).ready is False
        assert consumer.reply(earlier).ready is False


def test_file_waits_for_consumer_and_loses_no_frame(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", pictures=30)
    with CaptureProcess(tmp_path, str(clip)) as capture, Consumer(tmp_path) as consumer:
        first = consumer.next()
        held = consumer.wait(FrameRequest(after=first.id))
        assert (held.ready, held.newest) == (True, FrameId(first.epoch, 1))
        for _ in range(5):  # a wait does not consume the frame, so decoding pauses
            assert consumer.wait(FrameRequest(after=first.id)).newest == held.newest
        assert number_of(first.image) == 0
        consumer.client.settle(first, "done")
        numbers = [number_of(frame.image) for frame in consumer.rest(FrameRequest(after=first.id))]
        assert numbers == list(range(1, 30))
        frames = capture.statuses.wait("ended")["frames"]
        assert frames == {"captured": 30, "not_asked": 0, "done": 30, "dropped": {}, "in_flight": 0}
        assert capture.process.wait(5) == 0


def test_file_skips_frames_that_match_no_request(tmp_path: Path) -> None:
    with CaptureThread(tmp_path, FILE) as capture, Consumer(tmp_path) as consumer:
        due, seen = 0.0, []
        after: FrameId | None = None
        while frame := consumer.next_or_end(FrameRequest(after=after, at_pts=due)):
            assert frame.pts is not None
            seen.append(frame.pts)
            after, due = frame.id, due + 0.7
            consumer.client.settle(frame, "done")
        assert seen == pytest.approx([0.0, 0.7, 1.4, 2.1, 2.8])
        frames = capture.statuses.wait("ended")["frames"]
        assert frames == {"captured": 30, "not_asked": 25, "done": 5, "dropped": {}, "in_flight": 0}


def test_file_lends_several_frames_at_once(tmp_path: Path) -> None:
    with CaptureThread(tmp_path, FILE) as capture, Consumer(tmp_path) as consumer:
        after, frames = None, []
        for _ in range(4):
            frames.append(consumer.next(FrameRequest(after=after)))
            after = frames[-1].id
        assert [frame.seq for frame in frames] == [0, 1, 2, 3]
        assert len({frame.image.ctypes.data for frame in frames}) == 4
        capture.request_stop()
        for frame in frames:
            consumer.client.settle(frame, "stopped")
        counts = capture.statuses.wait("stopped")["frames"]
        assert (counts["dropped"], counts["in_flight"]) == ({"stopped": 4}, 0)


@contextmanager
def hoarder(runtime: Path, count: int) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """Run a consumer process that holds `count` frames. Yield it and the frame numbers."""
    command = [sys.executable, "-m", "tests.support.hoarder", str(runtime), str(count)]
    top = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=top) as process:
        try:
            assert process.stdout is not None
            yield process, [int(process.stdout.readline()) for _ in range(count)]
        finally:
            process.kill()


def test_live_frames_of_killed_consumer_count_as_lost(tmp_path: Path) -> None:
    with CaptureProcess(tmp_path, LIVE) as capture:
        with hoarder(tmp_path, 3) as (process, numbers):
            process.kill()
            process.wait()
        left_behind = list(buffers_directory(tmp_path).iterdir())
        with Consumer(tmp_path) as consumer:
            frame = consumer.next()
            assert frame.seq > max(numbers)
            consumer.client.settle(frame, "done")
            now = set(buffers_directory(tmp_path).iterdir())
            assert left_behind
            assert not now.intersection(left_behind), "buffers of the killed process still exist"
            frames = capture.stop()["frames"]
        assert (frames["done"], frames["dropped"], frames["in_flight"]) == (1, {"worker_lost": 3}, 0)


def test_file_frames_of_killed_consumer_are_lent_again(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", pictures=20)
    with CaptureProcess(tmp_path, str(clip)) as capture:
        with hoarder(tmp_path, 3) as (first, numbers):
            assert numbers == [0, 1, 2]
            first.kill()
        with hoarder(tmp_path, 2) as (second, numbers):  # dies as well, before the third frame was lent again
            assert numbers == [0, 1]
            second.kill()
        with Consumer(tmp_path) as consumer:
            assert [number_of(frame.image) for frame in consumer.rest()] == list(range(20))
        frames = capture.statuses.wait("ended")["frames"]
        assert frames == {"captured": 20, "not_asked": 0, "done": 20, "dropped": {}, "in_flight": 0}


def test_unsettled_frame_counts_as_lost_at_stop(tmp_path: Path) -> None:
    with CaptureThread(tmp_path, LIVE) as capture, Consumer(tmp_path) as consumer:
        consumer.next()
        frames = capture.stop()["frames"]
        assert (frames["dropped"], frames["in_flight"]) == ({"worker_lost": 1}, 0)


def test_fetch_lost_with_capture_frees_its_buffer(tmp_path: Path) -> None:
    with CaptureProcess(tmp_path, LIVE) as capture, Consumer(tmp_path, buffers=2) as consumer:
        before = consumer.next()
        capture.send_signal(signal.SIGSTOP)
        lost = consumer.client.fetch(STREAM, FrameRequest())
        with pytest.raises(AssertionError, match="no reply"):
            consumer.reply(lost, 1.0)
        with pytest.raises(NoBuffer):  # capture may still write there
            consumer.client.fetch(STREAM, FrameRequest())
        capture.kill()
        capture.restart()
        reply = consumer.reply(lost)
        after = reply.frame or consumer.next()
        assert after.epoch > before.epoch
        consumer.client.settle(before, "done")  # of the dead capture process: the new one does not count it
        consumer.client.settle(after, "done")
        for _ in range(2):  # raises NoBuffer when one is missing
            consumer.client.fetch(STREAM, FrameRequest(at_pts=1e6))
        frames = capture.stop()["frames"]
        assert (frames["done"], frames["dropped"]) == (1, {})


def test_epochs_increase_after_clock_is_set_back(tmp_path: Path) -> None:
    future = 4_000_000_000_000
    (tmp_path / f"frames-{STREAM}.lock").write_text(str(future))
    with CaptureThread(tmp_path, LIVE), Consumer(tmp_path) as consumer:
        assert consumer.next().epoch == future + 1


def _raw(runtime: Path) -> zmq.Socket[bytes]:
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    socket.set(zmq.LINGER, 0)
    socket.connect(frames_endpoint(runtime, STREAM))
    return socket


VALID = {"v": 1, "id": 1, "owner": "infer-1-00000000", "role": "infer"}
WAIT = {**VALID, "op": "wait", "request": {}, "timeout": 1}
SETTLE = {**VALID, "op": "settle", "generation": "", "frame": [1, 2], "outcome": "done"}

INVALID = [
    {"v": 1},
    {**VALID},
    {**VALID, "op": "ping", "v": 2},
    {**VALID, "op": "ping", "id": -1},
    {**VALID, "op": "ping", "owner": "../../etc"},
    {**VALID, "op": "ping", "role": "other"},
    {**VALID, "op": "ping", "more": 1},
    {**WAIT, "timeout": float("nan")},
    {**WAIT, "request": {"at_seq": "1"}},
    {**SETTLE, "frame": [1]},
    {**SETTLE, "outcome": "lost"},
]
GARBAGE = [
    [b""],
    [b"\x00\xff\xfe"],
    [b"[" * 4000],
    [b"null"],
    *([json.dumps(message).encode()] for message in INVALID),
    [b"{}", b"{}"],
    [b"x" * (MAX_MESSAGE_BYTES + 1)],
    [b"x" * (64 << 20)],
]


@pytest.mark.parametrize("message", [{**VALID, "op": "ping"}, WAIT, SETTLE], ids=lambda message: str(message["op"]))
def test_valid_messages_are_decoded(message: dict[str, object]) -> None:
    assert decode_message(json.dumps(message).encode()).owner == VALID["owner"]


@pytest.mark.parametrize("message", INVALID, ids=str)
def test_invalid_messages_are_rejected(message: dict[str, object]) -> None:
    with pytest.raises(WireError):
        decode_message(json.dumps(message).encode())


def test_invalid_and_oversized_messages_are_dropped(tmp_path: Path) -> None:
    with CaptureProcess(tmp_path, LIVE) as capture, Consumer(tmp_path) as consumer:
        consumer.client.settle(consumer.next(), "done")
        for parts in GARBAGE:
            with _raw(tmp_path) as socket:
                socket.send_multipart(parts)
                socket.send(encode(Ping(id=7, owner="view-1-00000000", role="view")))
                if len(parts[0]) <= MAX_MESSAGE_BYTES:
                    assert socket.poll(5000), parts
                    assert decode_response(socket.recv_multipart()).id == 7
        frame = consumer.next()
        consumer.client.settle(frame, "done")
        frames = capture.stop()["frames"]
        assert (frames["done"], frames["dropped"]) == (2, {})
        log = capture.errors.read_text()
        assert 1 <= log.count("invalid frame request") < 6


OWNER = "view-7-0123abcd"


def _bad_buffers(runtime: Path) -> dict[str, str]:
    """Return buffer names that must not be written to, with the reason."""
    folder = buffers_directory(runtime)
    victim = runtime / "victim"
    victim.write_bytes(b"")
    os.truncate(victim, BUFFER_BYTES)
    (folder / f"{OWNER}-1.buf").symlink_to(victim)
    (folder / f"{OWNER}-2.buf").write_bytes(b"too small")
    os.link(victim, folder / f"{OWNER}-3.buf")
    os.mkfifo(folder / f"{OWNER}-4.buf")
    (folder / f"{OWNER}-5.buf").mkdir()
    (folder / "view-7-9999ffff-1.buf").write_bytes(b"")
    os.truncate(folder / "view-7-9999ffff-1.buf", BUFFER_BYTES)
    return {
        f"{OWNER}-1.buf": "symlink",
        f"{OWNER}-2.buf": "size",
        f"{OWNER}-3.buf": "hard link",
        f"{OWNER}-4.buf": "fifo",
        f"{OWNER}-5.buf": "directory",
        f"{OWNER}-6.buf": "missing",
        "view-7-9999ffff-1.buf": "buffer of another owner",
        f"../buffers/{OWNER}-1.buf": "path",
        f"{OWNER}-1.buf\n": "line end",
        "../victim": "path",
        "/etc/passwd": "absolute path",
    }


def test_only_buffers_of_the_sender_are_written(tmp_path: Path) -> None:
    with CaptureThread(tmp_path, LIVE) as capture, Consumer(tmp_path) as consumer, _raw(tmp_path) as socket:
        consumer.client.settle(consumer.next(), "done")
        for number, (name, why) in enumerate(_bad_buffers(tmp_path).items()):
            fetch = Fetch.model_construct(
                v=1, id=number, op="fetch", owner=OWNER, role="view", request=FrameRequest(), buffer=name
            )
            socket.send(encode(fetch))
            socket.send(encode(Ping(id=1000 + number, owner=OWNER, role="view")))
            pong = False
            while not pong:
                assert socket.poll(5000)
                response = decode_response(socket.recv_multipart())
                assert response.frame is None, f"frame in a {why}"
                pong = response.pong
        assert not any((tmp_path / "victim").read_bytes()[: 3 * 160 * 120])
        capture.stop()


@pytest.mark.parametrize("loss", ["cut", "deleted before use", "folder deleted"])
def test_lost_buffers_are_replaced(tmp_path: Path, loss: str) -> None:
    with CaptureThread(tmp_path, LIVE), Consumer(tmp_path, buffers=2) as consumer:
        if loss == "cut":
            consumer.client.settle(consumer.next(), "done")
        for path in buffers_directory(tmp_path).glob("*.buf"):
            if loss == "cut":
                os.truncate(path, 0)
            else:
                path.unlink()
        if loss == "folder deleted":
            buffers_directory(tmp_path).rmdir()
        frames = [consumer.next(), consumer.next()]
        assert all(frame.image.any() for frame in frames)
        assert len(list(buffers_directory(tmp_path).glob("*.buf"))) == 2


def test_full_runtime_folder_is_one_problem(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = "synthetic?fps=20&size=1920x1080"
    with (
        small_disk(tmp_path / "run", "4m") as runtime,
        CaptureThread(runtime, source) as capture,
        Consumer(runtime) as consumer,
    ):
        deadline = time.monotonic() + 3
        attempts = 0
        while time.monotonic() < deadline:  # as the inference process does
            attempts += 1
            assert consumer.fetch(FrameRequest()).frame is None
            consumer.wait(FrameRequest(), 1.0)
        assert attempts <= 10
        down = capture.statuses.wait("down")
        assert "6.2 MB needed for one of 1920x1080, 4.2 MB free" in down["reason"]
        assert len([line for line in caplog.messages if "no room" in line]) == 2  # of the frame, of the stream
        resize(runtime, "40m")
        assert until(lambda: consumer.fetch(FrameRequest()).frame, 10, "frames come again") is not None


def test_stopped_consumer_does_not_block_others(tmp_path: Path) -> None:
    with CaptureProcess(tmp_path, LIVE) as capture, hoarder(tmp_path, 1) as (process, _):
        process.send_signal(signal.SIGSTOP)
        with Consumer(tmp_path, "view") as view:
            first = view.next()
            view.client.settle(first, "done")
            assert view.wait(FrameRequest(after=first.id, at_seq=first.seq + 20)).ready
        process.send_signal(signal.SIGCONT)
        assert capture.stop()["frames"]["dropped"] == {"worker_lost": 1}


def test_second_capture_of_a_stream_fails(tmp_path: Path) -> None:
    with CaptureProcess(tmp_path, LIVE) as capture, Consumer(tmp_path) as consumer:
        epoch = consumer.next().epoch
        first = capture.process
        capture.restart()
        try:
            assert until(lambda: capture.process.poll(), 15, "the second capture ends") == 1
            assert capture.reports()[-1]["reason"].startswith("another process captures cam")
            assert consumer.next().epoch == epoch
        finally:
            first.kill()
            first.wait()
            first.stdin.close()


@pytest.mark.parametrize(
    ("frame_request", "frame", "pts", "expected"),
    [
        (FrameRequest(), FrameId(5, 0), 0.0, True),
        (FrameRequest(after=FrameId(5, 3)), FrameId(5, 3), 1.0, False),
        (FrameRequest(after=FrameId(5, 3)), FrameId(4, 9), 1.0, False),
        (FrameRequest(after=FrameId(5, 3)), FrameId(5, 4), None, True),
        (FrameRequest(after=FrameId(5, 3), at_pts=2.0), FrameId(5, 4), 1.99, False),
        (FrameRequest(after=FrameId(5, 3), at_pts=2.0), FrameId(5, 4), 2.0, True),
        (FrameRequest(after=FrameId(5, 3), at_pts=0.3), FrameId(5, 4), 0.1 + 0.2 - 1e-9, True),
        (FrameRequest(after=FrameId(5, 3), at_pts=2.0), FrameId(5, 4), None, True),
        (FrameRequest(after=FrameId(5, 3), at_seq=6), FrameId(5, 5), 9.0, False),
        (FrameRequest(after=FrameId(5, 3), at_seq=6, at_pts=9.0), FrameId(5, 5), 9.0, True),
        (FrameRequest(after=FrameId(5, 3), at_seq=6), FrameId(6, 0), 0.0, True),
        (FrameRequest(at_seq=6), FrameId(6, 0), 0.0, False),
    ],
)
def test_frame_request_matches(frame_request: FrameRequest, frame: FrameId, pts: float | None, expected: bool) -> None:
    assert frame_request.matches(frame, pts) is expected
