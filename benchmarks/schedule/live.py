"""How old a frame is when a slow model begins with it: through the agent, and through a plain queue.

Eight cameras want a question twice a second each; the device takes eight at once and needs a second for them, which is
half of what is asked for. The queue's cameras are read by a process each (PyAV, as the agent's captures), which pushes
a picture twice a second (PUSH to PULL, at most four waiting at either end) and drops what does not go in. Ages count
from the decoded picture. Target: a frame's interval and 30 ms.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import struct
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import zmq

from benchmarks.schedule.parts import FPS, START_S, Device, Measured, make_clip
from tests.support.rtsp import RtspServer

CAMERAS, BATCH, BATCH_S, EVERY_S, WAITING = 8, 8, 1.0, 0.5, 4
WARM_UP_S = 3.0
TARGET_MS = 1000 / FPS + 30


def live(seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        clip = make_clip(Path(folder) / "clip.mp4")
        with RtspServer(clip, FPS) as server:
            ours = through_the_agent(Path(folder), server.url, seconds)
            theirs = through_a_queue(Path(folder), server.url, seconds)
    return {"cameras": CAMERAS, "target_ms": TARGET_MS, "agent": ours, "queue": theirs}


def through_the_agent(runtime: Path, url: str, seconds: float) -> dict[str, Any]:
    task = {"task": "object_detection", "every": f"{EVERY_S:g}s"}
    source = {"kind": "rtsp", "url": url, "decode": "all"}
    streams = {f"cam{number}": {"source": source, "tasks": [task]} for number in range(CAMERAS)}
    device = Device(BATCH_S, BATCH)
    with Measured(runtime, streams, device) as agent:
        agent.warm_up(WARM_UP_S)
        device.ages.clear()
        agent.turn_for(seconds)
        ages = device.ages.copy()
        agent.stop()
    return told("agent", ages)


def through_a_queue(runtime: Path, url: str, seconds: float) -> dict[str, Any]:
    endpoint = f"ipc://{runtime}/queue.sock"
    context = multiprocessing.get_context("spawn")
    cameras = [context.Process(target=push, args=(url, endpoint), daemon=True) for _ in range(CAMERAS)]
    queue: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PULL)
    queue.set(zmq.RCVHWM, WAITING)
    queue.bind(endpoint)
    for camera in cameras:
        camera.start()
    try:
        if not queue.poll(int(START_S * 1000)):
            raise TimeoutError("no picture came")
        work(queue, WARM_UP_S)
        ages = work(queue, seconds)
    finally:
        for camera in cameras:
            camera.kill()
            camera.join()
        queue.close(linger=0)
    return told("queue", ages)


def push(url: str, endpoint: str) -> None:
    """A camera of the queue, until it is ended."""
    queue: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUSH)
    queue.set(zmq.SNDHWM, WAITING)
    queue.connect(endpoint)
    due = 0.0
    with av.open(url, options={"rtsp_transport": "tcp"}) as container:
        for frame in container.decode(container.streams.video[0]):
            now = time.monotonic()
            if now >= due:
                due = now + EVERY_S
                image = frame.to_ndarray(format="bgr24").data
                with contextlib.suppress(zmq.Again):
                    queue.send_multipart([struct.pack("d", now), image], zmq.NOBLOCK, copy=False)


def work(queue: zmq.Socket[bytes], seconds: float) -> list[float]:
    """The device behind the queue: takes what is there, at most a batch. Seconds since capture of each picture."""
    ages: list[float] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        batch: list[float] = []
        with contextlib.suppress(zmq.Again):
            while len(batch) < BATCH:
                stamp, _ = queue.recv_multipart(zmq.NOBLOCK, copy=False)
                batch.append(struct.unpack("d", stamp.buffer)[0])
        if not batch:
            queue.poll(100)
            continue
        started = time.monotonic()
        ages += [started - captured for captured in batch]
        time.sleep(BATCH_S)
    return ages


def told(way: str, ages: list[float]) -> dict[str, Any]:
    p50, p99 = (round(1000 * float(np.percentile(ages, share)), 1) for share in (50, 99))
    return {f"{way}_p50_ms": p50, f"{way}_p99_ms": p99, f"{way}_frames": len(ages)}
