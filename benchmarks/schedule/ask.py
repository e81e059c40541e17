"""Latency of one-shot requests while the device has twice as much work as it can do.

Requests come at random times, each about the newest frame of a camera. Target: two batches (the running one and its
own), one frame interval, and 30 ms of transport.
"""

from __future__ import annotations

import random
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.schedule.harness import FPS, START_S, AgentUnderTest, Device
from streamer.bus.rpc import RpcClient, infer_socket

CAMERAS, BATCH, BATCH_S, EVERY_S = 8, 8, 0.5, 0.25
WARM_UP_S = 3.0
TARGET_MS = 1000 * 2 * BATCH_S + 1000 / FPS + 30


def ask(requests: int) -> dict[str, Any]:
    source = f"synthetic?fps={FPS}&size=320x240"
    tasks = [{"task": "object_detection", "every": f"{EVERY_S:g}s"}]
    streams = {f"cam{number}": {"source": source, "tasks": tasks} for number in range(CAMERAS)}
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as folder,
        AgentUnderTest(Path(folder), streams, Device(BATCH_S, BATCH)) as agent,
    ):
        agent.warm_up(WARM_UP_S)
        agent.results.clear()
        started = time.monotonic()
        client = _Client(Path(folder), requests)
        client.start()
        agent.run_until(lambda: not client.is_alive(), requests * START_S)
        load = len(agent.results) / (time.monotonic() - started) * BATCH_S / BATCH
        agent.stop()
    if len(client.latencies) < requests:
        raise TimeoutError(f"only {len(client.latencies)} of {requests} requests were answered")
    p50, highest = (round(1000 * float(np.percentile(client.latencies, share)), 1) for share in (50, 100))
    return {
        "cameras": CAMERAS,
        "batch_ms": 1000 * BATCH_S,
        "device_share_of_the_load": round(load, 2),
        "requests": requests,
        "target_ms": TARGET_MS,
        "ask_p50_ms": p50,
        "ask_max_ms": highest,
    }


class _Client(threading.Thread):
    """Sends one request after the other, as the supervisor does."""

    def __init__(self, runtime: Path, requests: int) -> None:
        super().__init__(daemon=True)
        self.latencies: list[float] = []
        """Seconds from each request to its answer."""
        self._runtime, self._requests = runtime, requests

    def run(self) -> None:
        rng, infer = random.Random(7), RpcClient(infer_socket(self._runtime))
        try:
            for _ in range(self._requests):
                time.sleep(rng.uniform(0.0, 2 * BATCH_S))
                stream, sent = f"cam{rng.randrange(CAMERAS)}", time.monotonic()
                infer.send(op="ask", stream=stream, task={"task": "caption", "name": "ask"}, seconds=START_S)
                if not infer.socket.poll(int(1000 * START_S)):
                    return
                (answer,) = infer.receive()
                if "event" not in answer:
                    raise RuntimeError(answer)
                self.latencies.append(time.monotonic() - sent)
        finally:
            infer.close()
