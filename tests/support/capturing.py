"""Runs a real capture, as a process or (to set small timeouts) in a thread, and receives its status events."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import zmq

from streamer.bus.event_channel import EventServer
from streamer.bus.frame_client import FrameClient, FrameRequest, Reply
from streamer.bus.frame_protocol import Role
from streamer.capture.interfaces import SourceSettings
from streamer.capture.silence_timeout import SilenceTimeout
from streamer.config.model import Config, from_mapping
from streamer.core.settings import Settings
from streamer.events.schema import StatusEvent
from streamer.processes.assignment import Assignment
from streamer.processes.capture import Capture
from streamer.processes.worker import Worker
from streamer.types import Frame
from tests.support.agents import assert_identity, until
from tests.support.worker_process import WorkerProcess, start_worker

STREAM = "cam"
Status = dict[str, Any]


def config_of(source: Any) -> dict[str, Any]:
    return {"agent": "test", "streams": {STREAM: {"source": source, "tasks": [{"task": "caption"}]}}}


class Statuses:
    """Stands in for emit: receives and acknowledges status events."""

    def __init__(self, runtime: Path) -> None:
        self._server = EventServer(runtime)
        self._ids: set[str] = set()
        self.all: list[Status] = []

    def close(self) -> None:
        self._server.close()

    def receive(self) -> list[Status]:
        """Return the data of all status events so far. Checks the accounting identity of each."""
        deliveries = self._server.receive()
        self._server.ack(deliveries)
        for delivery in deliveries:
            assert isinstance(delivery.event, StatusEvent)
            if delivery.event.id in self._ids:
                continue  # it was not acknowledged in time and arrived again
            self._ids.add(delivery.event.id)
            status = delivery.event.data.model_dump()
            assert_identity(status["frames"])
            self.all.append(status)
        return self.all

    def wait(self, state: str, count: int = 1, timeout: float = 10) -> Status:
        """Return the `count`-th status of that state."""

        def found() -> list[Status]:
            matching = [status for status in self.receive() if status["state"] == state]
            return matching[count - 1 : count]

        return until(found, timeout, f"{count} x {state} in {self.all}")[0]


class CaptureProcess:
    """`python -m streamer.processes.worker` in the role of capture, as the supervisor starts it; a context manager."""

    def __init__(self, folder: Path, source: Any) -> None:
        self.runtime = folder
        self._source = source
        self.errors = folder / "capture.log"
        self.statuses = Statuses(folder)
        self.process = self._start()

    def _start(self) -> WorkerProcess:
        folder = self.runtime
        assignment = Assignment(config=config_of(self._source), runtime=folder, state=folder)
        process, self._reports = start_worker(["capture", STREAM], assignment, self.errors)
        return process

    def __enter__(self) -> CaptureProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._end(signal.SIGKILL)
        self.statuses.close()

    def kill(self) -> None:
        """Send SIGKILL and wait for the end."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.process = self._start()

    def stop(self) -> Status:
        """Send SIGTERM and return the last status."""
        self.process.terminate()
        last = self.statuses.wait("stopped")
        assert self.process.wait(5) == 0
        return last

    def send_signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def reports(self) -> list[dict[str, Any]]:
        """Return its reports to the parent, after its end."""
        self.process.wait(5)
        text = b""
        while chunk := os.read(self._reports, 1 << 16):
            text += chunk
        return [json.loads(line) for line in text.splitlines()]

    def _end(self, number: signal.Signals) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait()
        if not self.process.stdin.closed:
            self.process.stdin.close()
            os.close(self._reports)


def _config(source: Any) -> Config:
    if not isinstance(source, Settings):
        return from_mapping(config_of(source))
    config = from_mapping(config_of("synthetic"))  # its source is replaced by one that no config can name
    stream = replace(config.streams[STREAM], source=cast(SourceSettings, source))
    return replace(config, streams={STREAM: stream})


class CaptureThread:
    """A capture in a thread of this process; a context manager. `error`: the exception it ended with."""

    def __init__(self, folder: Path, source: Any, silence_timeout: SilenceTimeout | None = None) -> None:
        self.statuses = Statuses(folder)
        self.error: BaseException | None = None
        self._null = os.open(os.devnull, os.O_WRONLY)
        settings = config_of("synthetic")
        self._worker = Worker(Assignment(config=settings, runtime=folder, state=folder, report_fd=self._null), STREAM)
        self._worker.config = _config(source)
        self._silence_timeout = silence_timeout
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            with Capture(self._worker, self._silence_timeout) as capture:
                capture.serve()
        except Exception as error:
            self.error = error

    def request_stop(self) -> None:
        self._worker.stop()

    def stop(self) -> Status:
        """Request a stop and return the last status."""
        self.request_stop()
        return self.statuses.wait("stopped")

    def __enter__(self) -> CaptureThread:
        return self

    def __exit__(self, *_: object) -> None:
        self.request_stop()
        until(lambda: self.statuses.receive() is None or not self.thread.is_alive(), 10, "the end of capture")
        self.statuses.close()
        os.close(self._null)
        os.close(self._worker.stop_fd)


class Consumer:
    """A FrameClient of one stream, used synchronously; a context manager."""

    def __init__(self, runtime: Path, role: Role = "infer", buffers: int = 4) -> None:
        self.client = FrameClient(runtime, role, buffers)
        self.client.connect(STREAM)
        self.replies: dict[int, Reply] = {}

    def __enter__(self) -> Consumer:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def reply(self, request_id: int, timeout: float = 60) -> Reply:
        deadline = time.monotonic() + timeout
        while request_id not in self.replies:
            assert time.monotonic() < deadline, "no reply"
            zmq.select(self.client.sockets(), [], [], 0.1)
            self.replies.update({reply.request: reply for reply in self.client.receive()})
        return self.replies.pop(request_id)

    def fetch(self, request: FrameRequest | None = None, timeout: float = 60) -> Reply:
        return self.reply(self.client.fetch(STREAM, request or FrameRequest()), timeout)

    def wait(self, request: FrameRequest | None = None, seconds: float = 5) -> Reply:
        return self.reply(self.client.wait(STREAM, request or FrameRequest(), seconds), seconds + 60)

    def next(self, request: FrameRequest | None = None, timeout: float = 60) -> Frame:
        """Return the next matching frame."""
        frame = self.next_or_end(request, timeout)
        assert frame is not None, "the stream ended"
        return frame

    def next_or_end(self, request: FrameRequest | None = None, timeout: float = 60) -> Frame | None:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            reply = self.wait(request, 1)
            if reply.ready:
                reply = self.fetch(request)
            if reply.frame or reply.ended:
                return reply.frame
        raise AssertionError("no frame")

    def rest(self, request: FrameRequest | None = None) -> Iterator[Frame]:
        """Yield every matching frame until the end; each is settled as done before the next request."""
        after = None
        while frame := self.next_or_end(FrameRequest(after=after) if request is None else request):
            yield frame
            after = frame.id
            self.client.settle(frame, "done")
