"""Runs a real view beside a real capture, and takes inference's place: publishes the toy world's truth as results."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
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
from streamer.toyworld.world import World
from streamer.types import Answer, Box, DueTask, Frame, Job, Result, Task
from streamer.video.outputs import ViewId
from streamer.video.outputs.mjpeg import jpeg_endpoint
from tests.support.agents import until
from tests.support.capturing import STREAM, Consumer
from tests.support.tasks import PARAMS

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
    """`python -m streamer.processes.worker` in one role, as the supervisor starts it; a context manager."""

    def __init__(self, runtime: Path, config: dict[str, Any], role: str, name: str = STREAM) -> None:
        self._command = [sys.executable, "-m", "streamer.processes.worker", role, name]
        self._runtime, self._config = runtime, config
        self.errors = runtime / f"{role}.log"
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        self._reports, write = os.pipe()
        assignment = {
            "config": self._config, "log_level": "info", "runtime": str(self._runtime), "state": str(self._runtime),
            "report_fd": write, "max_events": None,
        }  # fmt: skip
        with self.errors.open("ab") as errors:
            process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stderr=errors, pass_fds=[write])
        os.close(write)
        assert process.stdin is not None
        process.stdin.write(json.dumps(assignment).encode() + b"\n")
        process.stdin.flush()
        return process

    def __enter__(self) -> Role:
        return self

    def __exit__(self, *_: object) -> None:
        self.end(signal.SIGKILL)
        os.close(self._reports)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal it, if it still runs; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(10)
        if self.process.stdin is not None:
            self.process.stdin.close()
        return code

    def restart(self) -> None:
        self.end(signal.SIGKILL)
        os.close(self._reports)
        self.process = self._start()

    def reports(self) -> list[dict[str, Any]]:
        """What it told its parent, once it has ended."""
        self.process.wait(10)
        text = b""
        while chunk := os.read(self._reports, 1 << 16):
            text += chunk
        return [json.loads(line) for line in text.splitlines()]

    def log(self) -> str:
        return self.errors.read_text(errors="replace")[-3000:]


class Truth(threading.Thread):
    """Inference that is always right: every `every` seconds the truth about the newest frame, `late` seconds later."""

    def __init__(self, runtime: Path, every: float = 1.0, late: float = 0.1) -> None:
        super().__init__(daemon=True)
        self._runtime, self._every, self._late = runtime, every, late
        self._over = threading.Event()
        self.silent = threading.Event()
        self.results: list[Result] = []

    def __enter__(self) -> Truth:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        live, tracks, world = ResultPublisher(self._runtime, {}), ObjectTracker({}), World(SEED)
        with Consumer(self._runtime, "view") as consumer:
            while not self._over.wait(self._every):
                reply = consumer.fetch(FrameRequest(), timeout=60)
                if (frame := reply.frame) is None:
                    continue
                due = DueTask(STREAM, Task("objects", "object_detection", PARAMS), 0.0)
                things = world.scene(frame.pts or 0.0).objects
                boxes = tuple(Box(*thing.box, thing.kind) for thing in things)
                answer = Answer(boxes=boxes)
                now = time.monotonic()
                result = Result(Job(due, frame), "ok", answer, None, now, self._late)
                result = tracks.assign_ids(result)
                event = result_event("test", result, "truth")
                self._over.wait(self._late)
                consumer.client.settle(frame, "done")
                if not self.silent.is_set():
                    live.publish(event)
                    self.results.append(result)
        live.close()


class JpegReader:
    """Watches a view as the web process does: a picture from now on, not one that waited. A context manager."""

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

    def next(self, timeout: float = 20) -> bytes:
        self._drain()
        assert self.socket.poll(int(timeout * 1000)), "no picture"
        topic, data = self.socket.recv_multipart()
        assert topic == b"jpeg"
        return data

    def _drain(self) -> None:
        """Forget what came while nobody read."""
        while self.socket.poll(15):
            self.socket.recv_multipart()

    def rate(self, seconds: float) -> float:
        """Pictures per second over so long."""
        self._drain()
        until_then, count = time.monotonic() + seconds, 0
        while (left := until_then - time.monotonic()) > 0:
            if self.socket.poll(int(left * 1000)):
                self.socket.recv_multipart()
                count += 1
        return count / seconds


class Ears:
    """Emit's place: takes the status events."""

    def __init__(self, runtime: Path) -> None:
        self._server = EventServer(runtime)
        self._heard: list[StatusEvent] = []

    def __enter__(self) -> Ears:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()

    def hear(self) -> list[StatusEvent]:
        deliveries = self._server.receive()
        self._server.ack(deliveries)
        self._heard += [one.event for one in deliveries if isinstance(one.event, StatusEvent)]
        return self._heard

    def wait(self, subject: str, count: int = 1, timeout: float = 30) -> StatusEvent:
        """The `count`-th event of that subject."""

        def found() -> list[StatusEvent]:
            return [event for event in self.hear() if event.subject == subject][count - 1 : count]

        return until(found, timeout, f"{count} x {subject} in {[event.subject for event in self._heard]}")[0]


def ffprobe(what: str | Path, *options: str, timeout: float = 30) -> Probe:
    """The first video stream as ffprobe sees it, every frame decoded and counted."""
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
    """When each picture is shown, in seconds."""
    command = ["ffprobe", "-v", "error", "-select_streams", "v:0", "-show_entries", "packet=pts_time", "-of", "json"]
    done = subprocess.run([*command, *options, str(what)], capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return sorted(float(packet["pts_time"]) for packet in json.loads(done.stdout)["packets"])


def files(folder: Path, pattern: str = "*.mp4") -> Sequence[Path]:
    return sorted(folder.glob(pattern))


__all__ = ["Ears", "Frame", "JpegReader", "Role", "Truth", "ffprobe", "files", "frame_times", "view_config"]
