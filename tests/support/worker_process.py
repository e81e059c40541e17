"""Starts a worker process as the supervisor does: a fork server that all tests share forks it."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

from streamer.config.model import from_checked
from streamer.core.errors import ConfigError
from streamer.processes.assignment import Assignment, Role
from streamer.processes.fork_client import ChildProcess, ForkServer
from streamer.processes.fork_server import REPORT_FD
from tests.support.agents import until

START_S = 60.0
"""Longest start of a fork server, on a machine with much other work."""


class WorkerProcess(ChildProcess):
    """A worker. Like each child of an agent, it ends when its standard input is closed."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the process has ended, and return its exit code. Raises AssertionError after `timeout` seconds."""
        if timeout is not None:
            until(lambda: self.poll() is not None, timeout, f"the end of process {self.pid}")
        return super().wait()


def start_worker(
    command: list[str], assignment: Assignment, log: Path, stdout: IO[bytes] | None = None
) -> tuple[WorkerProcess, int]:
    """Start a role. `command`: the role and its target. Return the process and the descriptor to read its reports.

    Its environment is the one of this process now. Its standard output is discarded unless given.
    """
    server = _server(tuple(_modules(Role(command[0]), assignment.config)))
    until(lambda: server.wait_ready(0.25), START_S, "the fork server is ready")
    reports, report_fd = os.pipe()
    with log.open("ab") as errors, open(os.devnull, "wb") as null:
        descriptors = {1: (stdout or null).fileno(), 2: errors.fileno(), REPORT_FD: report_fd}
        child = server.fork(command, descriptors)
    os.close(report_fd)
    process = WorkerProcess(child.pid, os.dup(child.stdin.fileno()))
    child.stdin.close()
    own: dict[str, Any] = {"report_fd": REPORT_FD, "environment": {**os.environ, **assignment.environment}}
    process.stdin.write(assignment.model_copy(update=own).model_dump_json().encode() + b"\n")
    process.stdin.flush()
    return process, reports


def _modules(role: Role, config: dict[str, Any]) -> Iterator[str]:
    """Yield what a fork server of the product imports for this role."""
    yield f"streamer.processes.{role}"
    if role is Role.CAPTURE:
        with suppress(ConfigError):  # the worker reports it
            for stream in from_checked(config, is_part=True).streams.values():
                yield from stream.source.modules


@cache
def _server(modules: tuple[str, ...]) -> ForkServer:
    server = ForkServer(modules)
    atexit.register(server.close)
    return server
