"""Shared parts of the live schedule benchmarks: a camera clip, a simulated device, and an agent under test."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from streamer.bus.event_channel import EventServer
from streamer.events.schema import ResultEvent, StatusEvent
from streamer.processes.assignment import Assignment
from streamer.processes.infer import Inference
from streamer.processes.worker import Worker
from streamer.types import Job, Result
from tests.support.agents import assert_identity
from tests.support.viewing import Role

FPS, KEY_FRAME_EVERY = 25, 20
START_S = 60.0


def make_clip(path: Path, seconds: int = 8) -> Path:
    """Write a 720p25 H.264 clip like a camera's: motion, noise, 3 Mbit/s, a key frame every 0.8 s, no B-frames."""
    codec = f"-c:v libx264 -preset veryfast -b:v 3M -maxrate 3M -bufsize 3M -bf 0 -g {KEY_FRAME_EVERY}"
    return _film(path, seconds, f"{codec} -keyint_min {KEY_FRAME_EVERY} -sc_threshold 0 -pix_fmt yuv420p")


def make_jpegs(path: Path) -> Path:
    """Write two seconds of the same film as JPEG pictures of about 80 kB, one after the other."""
    return _film(path, 2, "-c:v mjpeg -q:v 4 -f mjpeg")


def _film(path: Path, seconds: int, options: str) -> Path:
    source = f"testsrc2=size=1280x720:rate={FPS}:duration={seconds},noise=alls=6:allf=t"
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", source, *options.split(), str(path)]
    subprocess.run(command, check=True)
    return path


class Device:
    """An engine that needs `seconds` per batch and records each frame's age at the start of its batch."""

    model = "device"
    description = "a stand-in"
    warnings = ()

    def __init__(self, seconds: float, batch: int) -> None:
        self.ages: list[float] = []
        """Seconds since capture."""
        self._seconds, self._batch = seconds, batch
        self._jobs: list[Job] = []

    def free(self) -> int:
        return self._batch - len(self._jobs)

    def admit(self, jobs: Sequence[Job]) -> None:
        self._jobs += jobs

    def step(self) -> list[Result]:
        jobs, self._jobs = self._jobs, []
        started = time.monotonic()
        self.ages += [started - job.frame.captured_mono for job in jobs]
        time.sleep(self._seconds)  # the simulated inference
        return [Result(job, "empty", started_mono=started, inference_s=self._seconds, batch=len(jobs)) for job in jobs]


class AgentUnderTest:
    """Capture processes, with infer and a stand-in for emit in this process; a context manager."""

    def __init__(self, runtime: Path, streams: dict[str, Any], device: Device) -> None:
        config = {"agent": "bench", "streams": streams, "sinks": [{"kind": "zmq"}]}
        self.results: list[ResultEvent] = []
        self.statuses: list[StatusEvent] = []
        with ExitStack() as stack:
            self._server = stack.enter_context(EventServer(runtime))
            devnull = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            stack.callback(os.close, devnull)
            worker = Worker(Assignment(config=config, runtime=runtime, state=runtime, report_fd=devnull))
            self._inference = stack.enter_context(Inference(worker, device))
            self.captures = {name: stack.enter_context(Role(runtime, config, "capture", name)) for name in streams}
            self._stack = stack.pop_all()

    def __enter__(self) -> AgentUnderTest:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run_until(self, condition: Callable[[], object], seconds: float) -> None:
        """Run inference until `condition()` is true. Raises TimeoutError after `seconds`."""
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > until:
                raise TimeoutError(f"condition not met; status events: {[status.subject for status in self.statuses]}")
            self._inference.poll_once()
            deliveries = self._server.receive()
            self._server.ack(deliveries)
            for delivery in deliveries:
                event = delivery.event
                if isinstance(event, ResultEvent):
                    self.results.append(event)
                elif isinstance(event, StatusEvent):
                    self.statuses.append(event)

    def run_for(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        self.run_until(lambda: time.monotonic() >= until, math.inf)

    def warm_up(self, seconds: float) -> None:
        """Run until every camera has had a result, and `seconds` more."""
        self.run_until(lambda: {event.data.stream for event in self.results} == set(self.captures), START_S)
        self.run_for(seconds)

    def stop(self) -> dict[str, dict[str, Any]]:
        """Stop the captures; return the frame counts of each and check that they add up."""
        for capture in self.captures.values():
            capture.process.send_signal(signal.SIGTERM)
        self.run_until(lambda: len(self._stopped()) == len(self.captures), START_S)
        return self._stopped()

    def _stopped(self) -> dict[str, dict[str, Any]]:
        last = [event.data for event in self.statuses if event.subject == "stream.stopped"]
        counts = {str(data.stream): data.frames.model_dump() for data in last if data.frames is not None}
        for frames in counts.values():
            assert_identity(frames)
        return counts
