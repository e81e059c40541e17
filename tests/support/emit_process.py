"""The real emit process, started as the supervisor starts it."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from streamer.bus.event_channel import EventClient
from streamer.processes.assignment import Assignment
from tests.support.agents import until
from tests.support.sample_events import event
from tests.support.worker_process import start_worker


class EmitProcess:
    """An emit process with the folders `run` and `state` in `folder`; a context manager."""

    def __init__(
        self,
        folder: Path,
        sinks: Sequence[dict[str, Any]],
        max_events: int | None = None,
        stdout: IO[bytes] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """`config`: further keys of the config."""
        self.folder, self.runtime, self.state = folder, folder / "run", folder / "state"
        self.runtime.mkdir(exist_ok=True)
        self.state.mkdir(exist_ok=True)
        self._sinks, self._max_events, self._stdout = list(sinks), max_events, stdout
        self._config = config or {}
        self.start()

    def __enter__(self) -> EmitProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        self._received = b""
        stream = {"source": "synthetic", "tasks": [{"task": "object_detection"}]}
        config = {"agent": "home", "streams": {"gate": stream}, "sinks": self._sinks, **self._config}
        assignment = Assignment(config=config, runtime=self.runtime, state=self.state, max_events=self._max_events)
        log = self.folder / "emit.log"
        self.process, self._report_pipe = start_worker(["emit"], assignment, log, self._stdout)
        os.set_blocking(self._report_pipe, False)

    def reports(self) -> list[dict[str, Any]]:
        """Return everything it has reported since it was started."""
        with contextlib.suppress(BlockingIOError):
            if self._report_pipe >= 0:
                self._received += os.read(self._report_pipe, 1 << 16)
        return [json.loads(line) for line in self._received.splitlines()]

    def wait_for(self, kind: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = until(
            lambda: [one for one in self.reports() if one["kind"] == kind], 20, f"{kind} reported; log: {self.log()}"
        )
        return found[0]

    def kill(self) -> None:
        """Send SIGKILL unless the process has ended."""
        if self.process.poll() is None:
            self.process.kill()
        self._wait()

    def stop(self) -> int:
        """Send SIGTERM and return the exit code."""
        self.process.terminate()
        return self._wait()

    def _wait(self) -> int:
        code = self.process.wait(20)
        if self._report_pipe >= 0:
            self.process.stdin.close()
            self.reports()
            os.close(self._report_pipe)
            self._report_pipe = -1
        return code

    def log(self) -> str:
        return (self.folder / "emit.log").read_text()


def send_events(client: EventClient, seqs: range, stream: str = "gate") -> None:
    """Send events and wait until all are accepted."""
    for seq in seqs:
        client.send(event(stream, seq), time.monotonic())
    assert client.flush(60)


def lines(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a JSON Lines file, parsed."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
