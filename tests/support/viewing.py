"""Runs real view, capture and push processes, with a substitute for inference that knows the toy world's objects."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import zmq

from streamer.bus.event_channel import EventServer
from streamer.bus.frame_client import FrameRequest
from streamer.bus.result_feed import ResultPublisher
from streamer.events.build import result_event
from streamer.events.schema import StatusEvent
from streamer.inference.tracking import ObjectTracker
from streamer.processes.assignment import Assignment
from streamer.toyworld.world import World
from streamer.types import Answer, Box, DueTask, Job, Result, Task
from streamer.video.outputs.base import ViewId
from streamer.video.outputs.mjpeg import jpeg_endpoint
from tests.support.agents import until
from tests.support.capturing import STREAM, Consumer
from tests.support.tasks import PARAMS
from tests.support.worker_process import WorkerProcess, start_worker

SEED = 1
SOURCE = f"synthetic?seed={SEED}&fps=25&size=320x240"
Probe = dict[str, Any]


def view_config(*outputs: dict[str, Any], source: Any = SOURCE) -> dict[str, Any]:
    task = {"task": "object_detection", "name": "objects", "every": "1s"}
    return {
        "agent": "test",
        "streams": {STREAM: {"source": source, "tasks": [task]}},
        "outputs": [{"stream": STREAM, **output} for output in outputs],
        "web": {},
    }


class Role:
    """A worker process in one role, started as the supervisor does; a context manager."""

    def __init__(self, runtime: Path, config: dict[str, Any], role: str, name: str = STREAM) -> None:
        self._command = [role, name]
        self._assignment = Assignment(config=config, runtime=runtime, state=runtime)
        self.errors = runtime / f"{role}.log"
        self.process = self._start()

    def _start(self) -> WorkerProcess:
        process, self._reports = start_worker(self._command, self._assignment, self.errors)
        return process

    def __enter__(self) -> Role:
        return self

    def __exit__(self, *_: object) -> None:
        self.end(signal.SIGKILL)
        os.close(self._reports)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal the process if it still runs, and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(10)
        self.process.stdin.close()
        return code

    def restart(self) -> None:
        self.end(signal.SIGKILL)
        os.close(self._reports)
        self.process = self._start()

    def reports(self) -> list[dict[str, Any]]:
        """Return its reports to the parent, once it has ended."""
        self.process.wait(10)
        text = b""
        while chunk := os.read(self._reports, 1 << 16):
            text += chunk
        return [json.loads(line) for line in text.splitlines()]

    def log(self) -> str:
        return self.errors.read_text(errors="replace")[-3000:]


class PerfectInference(threading.Thread):
    """Publishes the true boxes of the newest frame every `interval` seconds, `latency` seconds after fetching it."""

    def __init__(self, runtime: Path, interval: float = 1.0, latency: float = 0.1) -> None:
        super().__init__(daemon=True)
        self._runtime, self._interval, self._latency = runtime, interval, latency
        self._stopped = threading.Event()
        self.silent = threading.Event()
        self.results: list[Result] = []

    def __enter__(self) -> PerfectInference:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self.join()

    def run(self) -> None:
        publisher, tracker, world = ResultPublisher(self._runtime, {}), ObjectTracker({}, lambda: None), World(SEED)
        with Consumer(self._runtime, "view") as consumer:
            while not self._stopped.wait(self._interval):
                reply = consumer.fetch(FrameRequest(), timeout=60)
                if (frame := reply.frame) is None:
                    continue
                due = DueTask(STREAM, Task("objects", "object_detection", PARAMS), 0.0)
                things = world.scene(frame.pts or 0.0).objects
                boxes = tuple(Box(*thing.box, thing.kind) for thing in things)
                answer = Answer(boxes=boxes)
                now = time.monotonic()
                result = Result(Job(due, frame), "ok", answer, None, now, self._latency)
                result = tracker.assign_ids(result)
                event = result_event("test", result, "truth")
                self._stopped.wait(self._latency)
                consumer.client.settle(frame, "done")
                if not self.silent.is_set():
                    publisher.publish(event)
                    self.results.append(result)
        publisher.close()


class JpegReader:
    """Subscribes to a view's JPEG images as the web process does; a context manager."""

    def __init__(self, runtime: Path, view: str = STREAM) -> None:
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.RCVHWM, 4)
        self.socket.set(zmq.SUBSCRIBE, b"jpeg")
        self.socket.connect(jpeg_endpoint(runtime, ViewId.parse(view)))

    def __enter__(self) -> JpegReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def next(self, timeout: float = 60) -> bytes:
        """Return the next image from now on."""
        self._drain()
        assert self.socket.poll(int(timeout * 1000)), "no image"
        topic, data = self.socket.recv_multipart()
        assert topic == b"jpeg"
        return data

    def _drain(self) -> None:
        """Discard images that arrived before."""
        while self.socket.poll(15):
            self.socket.recv_multipart()

    def rate(self, seconds: float) -> float:
        """Return the images per second over that many seconds."""
        self._drain()
        end, count = time.monotonic() + seconds, 0
        while (left := end - time.monotonic()) > 0:
            if self.socket.poll(int(left * 1000)):
                self.socket.recv_multipart()
                count += 1
        return count / seconds


class StatusCollector:
    """Receives status events in place of the emit process; a context manager."""

    def __init__(self, runtime: Path) -> None:
        self._server = EventServer(runtime)
        self._events: dict[str, StatusEvent] = {}
        """Events by their id: one that was not acknowledged in time arrives again."""

    def __enter__(self) -> StatusCollector:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()

    def receive(self) -> list[StatusEvent]:
        """Return all status events so far."""
        deliveries = self._server.receive()
        self._server.ack(deliveries)
        self._events |= {one.event.id: one.event for one in deliveries if isinstance(one.event, StatusEvent)}
        return [*self._events.values()]

    def wait(self, subject: str, count: int = 1, timeout: float = 30) -> StatusEvent:
        """Wait for the `count`-th event of that subject and return it."""

        def found() -> list[StatusEvent]:
            return [event for event in self.receive() if event.subject == subject][count - 1 : count]

        return until(found, timeout, f"{count} x {subject} in {[event.subject for event in self._events.values()]}")[0]


def ffprobe(what: str | Path, *options: str, timeout: float = 30) -> Probe:
    """Return ffprobe's description of the first video stream, with every frame decoded and counted."""
    command = [
        "ffprobe", "-v", "error", "-count_frames", "-select_streams", "v:0", "-show_entries",
        "stream=codec_name,width,height,avg_frame_rate,nb_read_frames,start_time,duration", "-of", "json",
    ]  # fmt: skip
    done = subprocess.run([*command, *options, str(what)], capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["streams"]
    stream: Probe = found
    return stream


def frame_times(what: str | Path, *options: str, timeout: float = 30) -> list[float]:
    """Return the presentation time of each frame in seconds."""
    command = ["ffprobe", "-v", "error", "-select_streams", "v:0", "-show_entries", "packet=pts_time", "-of", "json"]
    done = subprocess.run([*command, *options, str(what)], capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return sorted(float(packet["pts_time"]) for packet in json.loads(done.stdout)["packets"])


def files(folder: Path, pattern: str = "*.mp4") -> Sequence[Path]:
    return sorted(folder.glob(pattern))
