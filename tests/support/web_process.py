"""The web process with its inputs: a real ledger, a real capture process, and a publisher in place of a view."""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import zmq

from streamer.events.build import result_event, status_event
from streamer.events.ledger import Ledger
from streamer.events.schema import Event, ResultEvent
from streamer.processes.assignment import Assignment
from streamer.toyworld.world import World
from streamer.types import Answer, Box, Span
from streamer.video.outputs.base import ViewId
from streamer.video.outputs.mjpeg import jpeg_endpoint
from tests.support.capturing import STREAM, CaptureProcess
from tests.support.sample_events import result
from tests.support.worker_process import start_worker

SOURCE = "synthetic?fps=20&size=320x240&seed=3"
AGENT = "test"
CONFIG: dict[str, Any] = {
    "agent": AGENT,
    "web": {"bind": "127.0.0.1:0"},
    "streams": {
        STREAM: {"source": SOURCE, "tasks": [{"task": "object_detection", "name": "people"}, {"task": "caption"}]},
        "cam1": {"source": SOURCE, "tasks": [{"task": "caption"}]},
    },
    "outputs": [{"kind": "mjpeg", "stream": STREAM}, {"kind": "hls", "stream": "cam1"}],
}


class WebProcess:
    """`python -m streamer.processes.worker web`, as the supervisor starts it; a context manager."""

    def __init__(
        self,
        runtime: Path,
        config: Mapping[str, Any] = CONFIG,
        devices: Mapping[str, str] = MappingProxyType({}),
        state: Path | None = None,
    ) -> None:
        """`devices`: names by inference process, if there are several. `state`: by default `runtime`."""
        self.errors = runtime / "web.log"
        self.runtime, self.config = runtime, config
        assignment = Assignment(
            config=dict(config),
            runtime=runtime,
            state=state or runtime,
            inference=(*devices,) or (None,),
            devices=dict(devices),
        )
        self.process, reports = start_worker(["web"], assignment, self.errors)
        with os.fdopen(reports, "rb") as lines:
            assert select.select([lines], [], [], 100)[0], self.errors.read_text()
            self.report = json.loads(lines.readline() or b"{}")
        self.address: str = self.report.get("address", "")
        self.port = int(self.address.rpartition(":")[2] or 0)

    def __enter__(self) -> WebProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdin.close()

    def restart(self) -> WebProcess:
        """Kill the process and start another one on the same port."""
        self.__exit__()
        return WebProcess(self.runtime, {**self.config, "web": {"bind": f"127.0.0.1:{self.port}"}})

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def get(
        self, path: str, headers: Mapping[str, str] | None = None, method: str = "GET", body: bytes = b""
    ) -> Response:
        connection = self.connect()
        try:
            connection.putrequest(method, path, skip_host="Host" in (headers or {}))
            for name, value in (headers or {}).items():
                connection.putheader(name, value)
            if body:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            response = connection.getresponse()
            return Response(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    @contextmanager
    def stream(self, path: str, headers: Mapping[str, str] | None = None) -> Iterator[http.client.HTTPResponse]:
        """Open a response that does not end."""
        connection = self.connect()
        connection.request("GET", path, headers=dict(headers or {}))
        response = connection.getresponse()
        try:
            yield response
        finally:
            response.close()
            connection.close()


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        assert self.status == 200, (self.status, self.body)
        return json.loads(self.body)


class Publisher(threading.Thread):
    """Publishes JPEGs while it has a subscriber, as a view does."""

    def __init__(self, runtime: Path, view: str = STREAM, fps: float = 15, size: tuple[int, int] = (320, 240)) -> None:
        super().__init__(daemon=True)
        self.watched = False
        self.sent = 0
        self._fps, self._size = fps, size
        self._stopping = threading.Event()
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.XPUB)
        self._socket.set(zmq.LINGER, 0)
        self._socket.bind(jpeg_endpoint(runtime, ViewId.parse(view)))

    def run(self) -> None:
        scenes = [World(5).scene(number / self._fps) for number in range(8)]
        pictures = cycle([cv2.imencode(".jpg", scene.paint(*self._size))[1].tobytes() for scene in scenes])
        while not self._stopping.wait(1 / self._fps):
            while self._socket.poll(0):
                self.watched = self._socket.recv() == b"\x01jpeg"
            if self.watched:
                self._socket.send_multipart([b"jpeg", next(pictures)])
                self.sent += 1

    def __enter__(self) -> Publisher:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self.join()
        self._socket.close()


class Scene:
    """A web process with all its inputs; a context manager."""

    def __init__(self, runtime: Path, web: Mapping[str, Any] | None = None) -> None:
        """`web`: further keys of `web` in the config."""
        self.runtime = runtime
        self.ledger = Ledger(runtime / "ledger.db")
        self.capture = CaptureProcess(runtime, SOURCE)
        self.publisher = Publisher(runtime)
        self.web = WebProcess(runtime, {**CONFIG, "web": {**CONFIG["web"], **(web or {})}})
        self.idle = socket.create_connection(("127.0.0.1", self.web.port))
        """A client that starts a request and never completes it."""
        self.idle.sendall(b"GET / HTTP/1.1\r\nHost:")
        self._seq = 0

    def __enter__(self) -> Scene:
        self.publisher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.idle.close()
        self.web.__exit__()
        self.publisher.__exit__()
        self.capture.__exit__()
        self.ledger.close()

    def publish(self, *events: Event) -> None:
        self.ledger.commit(events)

    def answer(
        self, text: str | None = None, label: str = "person", stream: str = STREAM, spans: tuple[Span, ...] = ()
    ) -> ResultEvent:
        """Return a new result: of the task `caption` if a text is given, with its spans, else of `people`."""
        self._seq += 1
        answer = Answer(text=text, spans=spans) if text else Answer(boxes=(Box(0.1, 0.2, 0.3, 0.6, label, 0.93),))
        one = result(stream, self._seq, "caption" if text else "people", answer=answer)
        frame = replace(one.job.frame, captured_at=time.time())
        one = replace(one, job=replace(one.job, frame=frame), draft=(10, 7), near=2)
        return result_event(AGENT, one, "tiny")

    def camera_down(self, reason: str, stream: str = STREAM) -> Event:
        return status_event(AGENT, stream, "down", reason, 1.0)
