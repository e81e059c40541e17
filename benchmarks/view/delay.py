"""Delay from a frame's creation to the viewer. Each frame shows its creation time as black and white cells."""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from benchmarks.view.parts import FPS, wait_for, worker
from streamer.capture.interfaces import Source
from streamer.config.model import from_mapping
from streamer.core.settings import Settings
from streamer.processes.capture import Capture
from streamer.types import Image, Luma, Pace
from tests.support.rtsp import RtspReceiver
from tests.support.viewing import Role, StatusCollector, view_config
from tests.support.web_process import WebProcess

CELL, BITS = 20, 32


class Clock(Settings):
    """A camera whose frames show the monotonic milliseconds of their creation."""

    pace: Pace = "live"

    def open(self, read_limit: float = 15.0) -> Source:
        return _ClockCamera()


class _ClockCamera:
    note = None

    def set_interval(self, every: float) -> bool:
        """Ignore it: every frame is needed."""
        return False

    def __iter__(self) -> Iterator[_ClockPicture]:
        started, number = time.monotonic(), 0
        while True:
            time.sleep(max(0.0, started + number / FPS - time.monotonic()))
            yield _ClockPicture(number / FPS)
            number += 1

    def close(self) -> None:
        """Do nothing: no resource is open."""


class _ClockPicture:
    width, height = 640, 480

    def __init__(self, pts: float | None) -> None:
        self.pts = pts
        self._created_ms = int(time.monotonic() * 1000) % (1 << BITS)

    def luma(self) -> Luma:
        return np.full((120, 160), 90, np.uint8)

    def write_bgr(self, out: Image) -> None:
        out[:] = 90
        for bit in range(BITS):
            out[200 : 200 + CELL, bit * CELL : (bit + 1) * CELL] = 235 if self._created_ms >> bit & 1 else 20


def delay_of(image: Image) -> float:
    """Return the seconds since the frame's creation."""
    cells = (image[200 + CELL // 2, bit * CELL + CELL // 2].mean() > 128 for bit in range(BITS))
    shown = sum(1 << bit for bit, white in enumerate(cells) if white)
    return (int(time.monotonic() * 1000) % (1 << BITS) - shown) / 1000


def delay(pictures: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder, RtspReceiver() as receiver:
        runtime = Path(folder)
        push = {"kind": "rtsp_push", "url": receiver.push_url, "name": "push"}
        made = {**view_config({"kind": "mjpeg"}, {"kind": "hls"}, push), "web": {"bind": "127.0.0.1:0"}}
        agent = from_mapping(made)
        clock: Any = Clock()
        agent = replace(agent, streams={"cam": replace(agent.streams["cam"], source=clock)})
        camera = worker(agent, runtime, "cam")
        with (
            StatusCollector(runtime) as statuses,
            Capture(camera) as capture,
            Role(runtime, made, "view"),
            Role(runtime, made, "push", "push"),
            WebProcess(runtime, made) as web,
        ):
            serving = threading.Thread(target=capture.serve, daemon=True)
            serving.start()
            statuses.wait("output.up")
            found = {"mjpeg": [delay_of(picture) for picture in islice(_motion_jpeg(web), FPS, FPS + pictures)]}
            tcp = {"rtsp_transport": "tcp", "fflags": "nobuffer", "probesize": "32"}
            found["rtsp_push"] = _delays(receiver.play_url, tcp, pictures)
            index = runtime / "hls" / "cam" / "index.m3u8"
            wait_for(lambda: index.exists() and index.read_text().count("#EXTINF") >= 4, 60)
            found["hls"] = _delays(f"{web.address}/hls/cam/index.m3u8", {}, pictures)
            camera.stop()
            serving.join(10)
    return {name: summary(delays) for name, delays in found.items()}


def _motion_jpeg(web: WebProcess) -> Iterator[Image]:
    """Yield the images of the Motion JPEG stream, read as a browser does."""
    with web.stream("/live/cam.mjpeg") as response:
        while line := response.readline():
            if line.lower().startswith(b"content-length:"):
                size = int(line.partition(b":")[2])
                response.readline()
                yield _jpeg(response.read(size))


def _jpeg(data: bytes) -> Image:
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), np.uint8)


def _delays(url: str, options: dict[str, str], pictures: int) -> list[float]:
    """Return the delays seen by a player that shows each frame at its time; HLS arrives a segment at a time."""
    found: list[float] = []
    with av.open(url, options=options, timeout=20) as container:
        begin: tuple[float, float] | None = None
        for frame in container.decode(video=0):
            at = frame.time or 0.0
            begin = begin or (time.monotonic(), at)
            time.sleep(max(0.0, begin[0] + at - begin[1] - time.monotonic()))
            found.append(delay_of(np.asarray(frame.to_ndarray(format="bgr24"), np.uint8)))
            if len(found) >= pictures:
                break
    return found


def summary(delays: list[float]) -> dict[str, float]:
    return {
        "median_ms": round(1000 * statistics.median(delays), 1),
        "p95_ms": round(1000 * float(np.percentile(delays, 95)), 1),
    }
