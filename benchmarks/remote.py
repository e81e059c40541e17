"""Frame age at the start of inference for cameras of another host: `python -m benchmarks.remote`.

Two runtime folders are the hosts, with a proxy of 100 Mbit/s and 20 ms round trip between them. One has eight 720p25
cameras and serves them, the other one has a task twice a second for each and a simulated device. Ages are those that
the asking host computes. The cameras send Motion JPEG over HTTP, as webcams do (`webcam`), or H.264 over RTSP (`rtsp`),
of which each frame must be decoded. Target for `webcam`: one frame interval and 50 ms. Both hosts and the cameras share
one computer, so `rtsp` mostly shows the load of that computer.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.report import merge
from benchmarks.schedule.harness import FPS, AgentUnderTest, Device, make_clip, make_jpegs
from streamer.processes.assignment import Assignment
from tests.support.jpeg_camera import JpegCamera
from tests.support.ports import free_port
from tests.support.rtsp import RtspServer
from tests.support.serving import PEER, make_keys
from tests.support.slow_link import SlowLink
from tests.support.viewing import Role
from tests.support.worker_process import start_worker

SOURCES = ("webcam", "rtsp")
CAMERAS, EVERY_S, BATCH, BATCH_S = 8, 0.5, 8, 0.05
MBIT, DELAY_MS = 100, 10
"""Rate of the link, and delay of one direction."""
WARM_UP_S = 5.0
TARGET_MS = 1000 / FPS + 50


def measure(source: str, seconds: float, quality: int) -> dict[str, Any]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm")))
        os.environ["XDG_STATE_HOME"] = str(folder / "state")
        make_keys()
        link = stack.enter_context(SlowLink(serve(stack, folder / "a", source), DELAY_MS, MBIT))
        device = Device(BATCH_S, BATCH)
        agent = stack.enter_context(AgentUnderTest(make(folder / "b"), streams(link.port, quality), device))
        agent.warm_up(WARM_UP_S)
        device.ages.clear()
        before = len(agent.results)
        agent.run_for(seconds)
        ages = sorted(1000 * age for age in device.ages)
        answers = len(agent.results) - before
        counts = agent.stop()
    captured, done = (sum(one[key] for one in counts.values()) for key in ("captured", "done"))
    return {
        "source": source, "cameras": CAMERAS, "size": "1280x720", "quality": quality,
        "link": f"{MBIT} Mbit/s, {2 * DELAY_MS} ms round trip",
        "target_ms": TARGET_MS,
        "p50_ms": round(statistics.median(ages), 1), "p99_ms": round(ages[int(0.99 * (len(ages) - 1))], 1),
        "max_ms": round(ages[-1], 1), "answers_per_s": round(answers / seconds, 2),
        "frames_per_answer": round(captured / done, 2),
    }  # fmt: skip


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


def serve(stack: ExitStack, runtime: Path, source: str) -> int:
    """Start the cameras, their captures and the serve process; return its port."""
    make(runtime)
    port = free_port()
    camera: RtspServer | JpegCamera
    if source == "rtsp":
        camera = RtspServer(make_clip(runtime / "clip.mp4"), FPS)
    else:
        camera = JpegCamera(make_jpegs(runtime / "film.mjpeg"), FPS)
    stack.enter_context(camera)
    cameras = {f"cam{number}": {"source": camera.url} for number in range(CAMERAS)}
    config = {"agent": PEER, "serve": {"bind": f"127.0.0.1:{port}"}, "streams": cameras}
    for name in cameras:
        part = {"agent": PEER, "streams": {name: cameras[name]}}
        stack.enter_context(Role(runtime, part, "capture", name))
    process, reports = start_worker(
        ["serve"], Assignment(config=config, runtime=runtime, state=runtime), runtime / "serve.log"
    )
    stack.callback(os.close, reports)
    stack.callback(process.wait)
    stack.callback(process.send_signal, signal.SIGKILL)
    return port


def streams(port: int, quality: int) -> dict[str, Any]:
    task = {"task": "object_detection", "every": f"{EVERY_S:g}s"}
    return {
        name: {
            "source": {
                "kind": "remote",
                "url": f"streamer://127.0.0.1:{port}/{name}",
                "peer": PEER,
                "quality": quality,
            },
            "tasks": [task],
        }
        for name in (f"cam{number}" for number in range(CAMERAS))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", choices=SOURCES, help="kind of the cameras (default: both, one after the other)")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each measurement (default: 60)")
    parser.add_argument("--quality", type=int, default=90, help="of the JPEG pictures (default: 90)")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/remote.json")
    given = parser.parse_args()
    results = {}
    for source in [given.source] if given.source else SOURCES:
        results[source] = result = measure(source, given.seconds, given.quality)
        print(
            f"{source}: frame age at inference: median {result['p50_ms']} ms, 99th percentile {result['p99_ms']} ms "
            f"(target {TARGET_MS:.0f} ms), {result['answers_per_s']} answers/s, "
            f"{result['frames_per_answer']} frames on the wire for each"
        )
    if given.write:
        merge("remote", results)


if __name__ == "__main__":
    main()
