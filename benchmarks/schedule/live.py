"""Frame age at the start of inference with a slow model, through the agent and through a plain queue.

Eight cameras have a task twice a second each; the device runs eight jobs per second, half of the load. Each camera of
the queue has a process with PyAV that pushes a frame twice a second (PUSH to PULL, high-water mark 4 at both ends) and
drops frames when the queue is full. Ages count from the decoded frame. Target: one frame interval and 30 ms.
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

from benchmarks.schedule.harness import FPS, START_S, AgentUnderTest, Device, make_clip
from tests.support.rtsp import RtspServer

CAMERAS, BATCH, BATCH_S, EVERY_S, HIGH_WATER_MARK = 8, 8, 1.0, 0.5, 4
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
    with AgentUnderTest(runtime, streams, device) as agent:
        agent.warm_up(WARM_UP_S)
        device.ages.clear()
        agent.run_for(seconds)
        ages = device.ages.copy()
        agent.stop()
    return summary("agent", ages)


def through_a_queue(runtime: Path, url: str, seconds: float) -> dict[str, Any]:
    endpoint = f"ipc://{runtime}/queue.sock"
    context = multiprocessing.get_context("spawn")
    cameras = [context.Process(target=push, args=(url, endpoint), daemon=True) for _ in range(CAMERAS)]
    queue: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PULL)
    queue.set(zmq.RCVHWM, HIGH_WATER_MARK)
    queue.bind(endpoint)
    for camera in cameras:
        camera.start()
    try:
        if not queue.poll(int(START_S * 1000)):
            raise TimeoutError("the queue received no frame")
        consume(queue, WARM_UP_S)
        ages = consume(queue, seconds)
    finally:
        for camera in cameras:
            camera.kill()
            camera.join()
        queue.close(linger=0)
    return summary("queue", ages)


def push(url: str, endpoint: str) -> None:
    """Push the frames of one camera until the process is killed."""
    queue: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUSH)
    queue.set(zmq.SNDHWM, HIGH_WATER_MARK)
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


def consume(queue: zmq.Socket[bytes], seconds: float) -> list[float]:
    """Run batches of queued frames; return each frame's age in seconds at the start of its batch."""
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


def summary(name: str, ages: list[float]) -> dict[str, Any]:
    p50, p99 = (round(1000 * float(np.percentile(ages, share)), 1) for share in (50, 99))
    return {f"{name}_p50_ms": p50, f"{name}_p99_ms": p99, f"{name}_frames": len(ages)}
