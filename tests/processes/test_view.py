"""A real view process beside a real capture process and a substitute for inference that is always right."""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from streamer.cli.demo_score import match
from streamer.processes.assignment import Assignment
from streamer.processes.view import View
from streamer.processes.worker import Worker
from streamer.toyworld.world import World
from streamer.types import Box, FrameId, Image
from streamer.video.outputs.base import ViewId
from streamer.video.pacing import PacedFrame
from streamer.video.renderer import CARD_SIZE
from tests.support.agents import until
from tests.support.capturing import STREAM
from tests.support.clips import write_clip
from tests.support.http_camera import HttpCamera, Request, Send, head
from tests.support.rtsp import RtspReceiver, RtspServer
from tests.support.viewing import (
    SEED,
    JpegReader,
    PerfectInference,
    Role,
    StatusCollector,
    ffprobe,
    files,
    frame_times,
    view_config,
)

MJPEG = {"kind": "mjpeg"}


def picture(data: bytes) -> Image:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return np.asarray(image, np.uint8)


def colourfulness(image: Image) -> float:
    """Return the mean difference of the colour channels: near 0 for a grey image."""
    return float(np.ptp(image[20:].astype(int), axis=2).mean())


def assert_plays(reader: JpegReader) -> None:
    """At the rate of the camera, which a busy computer does not reach; `benchmarks/view` measures it."""
    until(lambda: 5 < reader.rate(1) < 27, 60, "the output plays")


def wait_for_picture(reader: JpegReader, is_right: Callable[[Image], bool]) -> Image:
    def right() -> list[Image]:
        return [image] if is_right(image := picture(reader.next())) else []

    return until(right, 60, "the picture")[0]


def test_output_goes_on_without_answers_or_camera(tmp_path: Path) -> None:
    """With answers, then without them, then without a camera, and again with both."""
    config = view_config(MJPEG)
    with (
        StatusCollector(tmp_path),
        Role(tmp_path, config, "capture") as capture,
        PerfectInference(tmp_path) as truth,
        Role(tmp_path, config, "view") as view,
        JpegReader(tmp_path) as reader,
    ):
        reader.next()
        until(lambda: len(truth.results) >= 2, 20, "two results")
        assert_plays(reader)
        live = wait_for_picture(reader, lambda image: not has_yellow(image))
        assert live.shape == (240, 320, 3)
        assert colourfulness(live) > 2

        truth.silent.set()
        stale = wait_for_picture(reader, has_yellow)
        assert stale[:16, 170:].max() > live[:16, 170:].max() - 60
        assert_plays(reader)

        capture.end(signal.SIGKILL)
        wait_for_picture(reader, lambda image: colourfulness(image) < 1)
        assert_plays(reader)

        capture.restart()
        truth.silent.clear()
        wait_for_picture(reader, lambda image: colourfulness(image) > 2)
        assert_plays(reader)
        assert view.end() == 0
        assert view.log() == ""
        kinds = {report["kind"] for report in view.reports()}
        assert kinds == {"ready"}


def has_yellow(image: Image) -> bool:
    """Return whether the age of the answers is shown: yellow text beside the time."""
    corner = image[:16].astype(int)
    return bool(((corner[..., 2] > 150) & (corner[..., 1] > 120) & (corner[..., 0] < 110)).sum() > 20)


def test_view_is_idle_without_viewers(tmp_path: Path) -> None:
    config = view_config(MJPEG)
    with StatusCollector(tmp_path), Role(tmp_path, config, "capture"), Role(tmp_path, config, "view") as view:
        with JpegReader(tmp_path) as reader:
            reader.next()
            busy = cpu_ticks(view.process.pid)
        until(lambda: cpu_ticks(view.process.pid) <= max(3, busy // 4), 15, "the view is idle")
        with JpegReader(tmp_path) as reader:
            first = picture(reader.next())
            assert colourfulness(first) > 2  # not the card of a lost camera


def cpu_ticks(pid: int) -> int:
    """Return the processor time of one second, in clock ticks."""

    def used() -> int:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    before = used()
    time.sleep(1)
    return used() - before


def test_killed_view_leaves_playable_files_and_restarts(tmp_path: Path) -> None:
    folder = tmp_path / "video"
    folder.mkdir()
    config = view_config({"kind": "mp4", "path": str(folder), "segment": "2s"}, MJPEG)
    with StatusCollector(tmp_path), Role(tmp_path, config, "capture"), Role(tmp_path, config, "view") as view:
        until(lambda: len(files(folder)) >= 2, 30, "a second file")
        with JpegReader(tmp_path) as reader:

            def newest_is_filled() -> bool:
                """Wait for most of a second of video; return whether it is in the newest file."""
                before = files(folder)
                for _ in range(20):
                    reader.next()
                return files(folder) == before

            until(newest_is_filled, 60, "most of a second in the newest file")
        view.restart()
        killed = files(folder)
        until(lambda: len(files(folder)) >= len(killed) + 2, 30, "files after the restart")
        assert view.end() == 0
        probes = [ffprobe(file) for file in files(folder)]
    assert all(probe["codec_name"] == "h264" for probe in probes)
    assert 10 < int(probes[0]["nb_read_frames"]) <= 53  # fewer on a busy computer
    assert int(probes[len(killed) - 1]["nb_read_frames"]) >= 15
    assert all(float(probe["start_time"]) == 0 for probe in probes)


def test_camera_outage_leaves_no_gap_in_the_output(tmp_path: Path) -> None:
    """An RTSP camera is away for 6 s. MP4 (one file) and Motion JPEG go on, greyed meanwhile."""
    folder = tmp_path / "video"
    folder.mkdir()
    clip = write_clip(tmp_path / "clip.mp4", pictures=100, size=(320, 240))
    with RtspServer(clip) as server:
        mp4 = {"kind": "mp4", "path": str(folder), "segment": "1h"}
        config = view_config(mp4, MJPEG, source=server.url)
        with (
            StatusCollector(tmp_path) as statuses,
            Role(tmp_path, config, "capture"),
            Role(tmp_path, config, "view") as view,
            JpegReader(tmp_path) as reader,
        ):
            statuses.wait("stream.up")
            until(lambda: reader.rate(1) > 5, 60, "it runs")
            server.kill()
            assert 5 < reader.rate(6) < 27
            server.start()
            statuses.wait("stream.up", 2)
            until(lambda: reader.rate(1) > 5, 60, "it runs again")
            reader.rate(2)
            assert view.end() == 0
    (file,) = files(folder)
    times = frame_times(file)
    assert np.diff(times).max() < 4
    assert 5 < (len(times) - 1) / (times[-1] - times[0]) < 27
    with av.open(str(file)) as container:
        light = np.array([frame.to_ndarray(format="gray").mean() for frame in container.decode(video=0)])
    dark = np.flatnonzero(light < 0.7 * light[0])
    assert (dark == np.arange(dark[0], dark[-1] + 1)).all()
    card = [times[number] for number in dark]
    assert card[-1] - card[0] > 3
    assert len(times) - dark[-1] > 10


def test_outputs_follow_the_cameras_frame_size(tmp_path: Path) -> None:
    """A card before the first frame, then the camera's size, then another one: each output starts over."""
    folder = tmp_path / "video"
    folder.mkdir()
    index = tmp_path / "hls" / STREAM / "index.m3u8"
    wide = RtspServer(write_clip(tmp_path / "wide.mp4", pictures=100, size=(320, 180)))
    upright = RtspServer(write_clip(tmp_path / "upright.mp4", pictures=100, size=(192, 256)), port=wide.port)
    with RtspReceiver() as receiver:
        push = {"kind": "rtsp_push", "url": receiver.push_url, "name": "push"}
        mp4 = {"kind": "mp4", "path": str(folder), "segment": "1h"}
        config = view_config(mp4, {"kind": "hls"}, MJPEG, push, source=wide.url)
        with (
            StatusCollector(tmp_path) as statuses,
            Role(tmp_path, config, "view") as view,
            Role(tmp_path, config, "push", "push"),
            JpegReader(tmp_path) as reader,
            Role(tmp_path, config, "capture"),
        ):

            def wait_for_size(width: int, height: int, number: int) -> None:
                until(lambda: picture(reader.next()).shape == (height, width, 3), 20, f"a picture of {width}x{height}")
                until(lambda: len(files(folder)) == number, 5, "a file of its own")
                until(lambda: index.exists() and f'"init_{width}x{height}.mp4"' in index.read_text(), 5, "its own list")
                statuses.wait("output.up")
                until(lambda: pushed_size(receiver) == (width, height), 15, "it is pushed in that size")

            wait_for_size(*CARD_SIZE, 1)
            assert picture(reader.next())[330:390].max() > 200, "the card has a message"
            until(lambda: reader.rate(2) > 20, 60, "the card at the rate of the view")
            with wide:
                wait_for_size(320, 180, 2)
            with upright:
                wait_for_size(192, 256, 3)
            assert [event.subject for event in statuses.receive() if event.subject == "output.down"] == []
            assert view.end() == 0
        sizes = [(probe["width"], probe["height"]) for probe in map(ffprobe, files(folder))]
    assert sizes == [CARD_SIZE, (320, 180), (192, 256)]


def test_camera_with_pictures_too_large_to_encode_stops_one_output(tmp_path: Path) -> None:
    """The camera's pictures grow from usual ones to 60,000 columns and back. Motion JPEG shows them all."""
    sizes = {
        name: encoded_picture(*size)
        for name, size in {"usual": (64, 48), "tiny": (1, 1), "wide": (60_000, 100)}.items()
    }
    present = ["usual"]

    def play(_: Request, send: Send) -> None:
        send(head("200 OK", "Content-Type: multipart/x-mixed-replace; boundary=b"))
        while True:
            data = sizes[present[0]]
            send(b"--b\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data) + data + b"\r\n")
            time.sleep(0.1)

    with HttpCamera({"video": play}) as camera:
        config = view_config({"kind": "hls"}, MJPEG, source=camera.url("/video"))
        with (
            StatusCollector(tmp_path) as statuses,
            Role(tmp_path, config, "capture"),
            Role(tmp_path, config, "view") as view,
            JpegReader(tmp_path) as reader,
        ):
            until(lambda: picture(reader.next()).shape == (48, 64, 3), 30, "it plays")
            present[0] = "wide"
            down = statuses.wait("output.down").data
            assert down.reason == "pictures of 60000x100 pixels: H.264 has at most 16384 pixels a side"
            until(lambda: picture(reader.next()).shape == (100, 60_000, 3), 30, "Motion JPEG shows it")
            present[0] = "tiny"
            until(lambda: picture(reader.next()).shape == (2, 2, 3), 30, "Motion JPEG shows it")
            present[0] = "usual"
            statuses.wait("output.up")
            assert view.end() == 0


def encoded_picture(width: int, height: int) -> bytes:
    return cv2.imencode(".jpg", np.full((height, width, 3), 99, np.uint8))[1].tobytes()


def pushed_size(receiver: RtspReceiver) -> tuple[int, int]:
    probe = ffprobe(receiver.play_url, "-rtsp_transport", "tcp", "-read_intervals", "%+1")
    return probe["width"], probe["height"]


class RecordingView(View):
    """A view that records what it draws."""

    def __init__(self, worker: Worker, view_id: ViewId) -> None:
        super().__init__(worker, view_id)
        self.drawings: list[tuple[FrameId, float, list[Box]]] = []
        """Frame, its media time in seconds, and the boxes on it."""

    def show(self, paced: PacedFrame, now: float) -> None:
        super().show(paced, now)
        frame = paced.frame
        if frame is not None and not paced.is_repeat and frame.pts is not None:
            overlay = self.renderer.overlays.at(frame.id, frame.pts, now)
            self.drawings.append((frame.id, frame.pts, [box for layer in overlay.layers for box in layer.boxes]))


@pytest.mark.parametrize(("sync", "latency", "min_overlap"), [(False, 0.1, 0.75), (True, 1.4, 0.75)])
def test_drawn_boxes_match_the_objects(tmp_path: Path, sync: bool, latency: float, min_overlap: float) -> None:
    """On average over two seconds. With `sync`, answers 1.4 s late are drawn exactly on their own frames."""
    view_id = ViewId(STREAM, sync)
    config = view_config({**MJPEG, "sync": sync})
    null = os.open(os.devnull, os.O_WRONLY)
    assignment = Assignment(config=config, runtime=tmp_path, state=tmp_path, report_fd=null)
    with (
        StatusCollector(tmp_path),
        Role(tmp_path, config, "capture"),
        PerfectInference(tmp_path, latency=latency) as truth,
        RecordingView(Worker(assignment, str(view_id)), view_id) as view,
        JpegReader(tmp_path, str(view_id)),
    ):

        def inferred() -> set[FrameId]:
            answered = {result.job.frame.id for result in truth.results}
            return answered & {frame for frame, _, _ in view.drawings[60:]}

        deadline = time.monotonic() + 300
        while (len(view.drawings) < 220 or len(inferred()) < 3) and time.monotonic() < deadline:
            view.poll_once()
        own = inferred()
    os.close(null)
    found = {frame: overlap(boxes, at) for frame, at, boxes in view.drawings[60:]}
    overlaps = [*found.values()]
    # The best two seconds: on a busy computer some answers come late.
    assert max(statistics.fmean(overlaps[first : first + 50]) for first in range(0, len(found) - 50)) >= min_overlap
    if sync:
        assert len(own) >= 3
        # Rounding to pixels costs 0.05 for the smallest objects.
        assert statistics.median(found[frame] for frame in own) > 0.95


def overlap(boxes: list[Box], at: float) -> float:
    """Return the mean overlap of the drawn boxes with the objects at that time."""
    truth = [(thing.kind, thing.box) for thing in World(SEED).scene(at).objects]
    rows = match([(box.label, (box.x0, box.y0, box.x1, box.y1)) for box in boxes], truth)
    return statistics.fmean(row.iou for row in rows if row.truth)
