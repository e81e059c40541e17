"""How long a question waits that is asked once, while the device has twice more to do than it can.

Questions come at random moments, each about the newest picture of a camera. Target: the rest of the batch that runs,
at most a whole one, and its own, and a frame's interval and 30 ms for the way.
"""

from __future__ import annotations

import random
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.schedule.parts import FPS, START_S, Device, Measured
from streamer.bus.rpc import RpcClient, infer_socket

CAMERAS, BATCH, BATCH_S, EVERY_S = 8, 8, 0.5, 0.25
WARM_UP_S = 3.0
TARGET_MS = 1000 * 2 * BATCH_S + 1000 / FPS + 30


def ask(questions: int) -> dict[str, Any]:
    source = f"synthetic?fps={FPS}&size=320x240"
    tasks = [{"task": "object_detection", "every": f"{EVERY_S:g}s"}]
    streams = {f"cam{number}": {"source": source, "tasks": tasks} for number in range(CAMERAS)}
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as folder,
        Measured(Path(folder), streams, Device(BATCH_S, BATCH)) as agent,
    ):
        agent.warm_up(WARM_UP_S)
        agent.results.clear()
        began = time.monotonic()
        asker = _Asker(Path(folder), questions)
        asker.start()
        agent.turn_until(lambda: not asker.is_alive(), questions * START_S)
        load = len(agent.results) / (time.monotonic() - began) * BATCH_S / BATCH
        agent.stop()
    if len(asker.waited) < questions:
        raise TimeoutError(f"only {len(asker.waited)} of {questions} questions were answered")
    p50, most = (round(1000 * float(np.percentile(asker.waited, share)), 1) for share in (50, 100))
    return {
        "cameras": CAMERAS,
        "batch_ms": 1000 * BATCH_S,
        "share_of_the_device_that_the_load_had": round(load, 2),
        "questions": questions,
        "target_ms": TARGET_MS,
        "ask_p50_ms": p50,
        "ask_longest_ms": most,
    }


class _Asker(threading.Thread):
    """Asks one question after the other, as the parent does."""

    def __init__(self, runtime: Path, questions: int) -> None:
        super().__init__(daemon=True)
        self.waited: list[float] = []
        """Seconds from each question to its answer."""
        self._runtime, self._questions = runtime, questions

    def run(self) -> None:
        chance, infer = random.Random(7), RpcClient(infer_socket(self._runtime))
        try:
            for _ in range(self._questions):
                time.sleep(chance.uniform(0.0, 2 * BATCH_S))
                stream, asked = f"cam{chance.randrange(CAMERAS)}", time.monotonic()
                infer.send(op="ask", stream=stream, task={"task": "caption", "name": "ask"}, seconds=START_S)
                if not infer.socket.poll(int(1000 * START_S)):
                    return
                (answer,) = infer.receive()
                if "event" not in answer:
                    raise RuntimeError(answer)
                self.waited.append(time.monotonic() - asked)
        finally:
            infer.close()
