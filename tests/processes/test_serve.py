"""The serve process: refused hosts are events at a falling rate, and its key and address are checked."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from streamer.bus.event_channel import EventServer
from streamer.bus.host_keys import HostKeys
from streamer.events.schema import StatusEvent
from streamer.processes.assignment import Assignment
from tests.support.agents import until
from tests.support.ports import free_port
from tests.support.serving import make_keys
from tests.support.worker_process import start_worker

START_S = 30.0


class ServeProcess:
    """The role `serve`, as the supervisor starts it; a context manager."""

    def __init__(self, folder: Path, port: int) -> None:
        config = {"agent": "boxa", "serve": {"bind": f"127.0.0.1:{port}"}, "streams": {"cam": {"source": "synthetic"}}}
        self.port = port
        self._events = EventServer(folder)
        self.statuses: list[dict[str, Any]] = []
        self.process, self._reports = start_worker(
            ["serve"], Assignment(config=config, runtime=folder, state=folder), folder / "serve.log"
        )

    def __enter__(self) -> ServeProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        os.close(self._reports)
        self._events.close()

    def report(self) -> dict[str, Any]:
        """Return its next report to the parent."""
        line: dict[str, Any] = json.loads(os.read(self._reports, 1 << 16).splitlines()[0])
        return line

    def receive(self) -> list[dict[str, Any]]:
        """Return the data of all status events so far."""
        deliveries = self._events.receive()
        self._events.ack(deliveries)
        for delivery in deliveries:
            assert isinstance(delivery.event, StatusEvent)
            self.statuses.append(delivery.event.data.model_dump())
        return self.statuses


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServeProcess]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    make_keys()
    with ServeProcess(tmp_path, free_port()) as process:
        assert process.report()["kind"] == "ready"
        yield process


def test_refused_connections_are_few_events(serve: ServeProcess) -> None:
    with zmq.Context() as context:
        for _ in range(12):
            with context.socket(zmq.DEALER) as plain:
                plain.set(zmq.LINGER, 0)
                plain.connect(f"tcp://127.0.0.1:{serve.port}")
                plain.send(b"hello")
                time.sleep(0.05)
    until(serve.receive, 10, "an event")
    assert {status["state"] for status in serve.statuses} == {"refused"}
    assert "without CURVE" in serve.statuses[0]["reason"]
    assert len(serve.receive()) <= 5


def test_new_key_of_the_host_replaces_the_process(serve: ServeProcess) -> None:
    HostKeys().create(replace=True)
    assert serve.process.wait(10) == 1


@pytest.mark.parametrize("fault", ["no key", "port in use"])
def test_what_must_be_changed_first_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        if fault == "port in use":
            make_keys()
        with ServeProcess(tmp_path, taken.getsockname()[1]) as process:
            report = process.report()
            assert process.process.wait(START_S) == 2
    assert report["kind"] == "failed"
    assert ("streamer keys new" if fault == "no key" else "cannot serve other hosts on 127.0.0.1") in report["reason"]
