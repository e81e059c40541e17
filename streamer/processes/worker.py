"""The child's end of the supervisor: reads the assignment, runs the role, reports to the parent, stops when asked to.

The parent has the fork server start `main` with ROLE [TARGET], writes the assignment to its standard input and keeps
that pipe open: its end of file means that the parent is dead. See `assignment.py` for the messages.
"""

from __future__ import annotations

import faulthandler
import importlib
import logging
import os
import signal
import sys
import threading
import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from streamer.config.model import Config, from_checked
from streamer.core import logs
from streamer.core.errors import EXIT_CONFIG, ConfigError, StreamerError
from streamer.core.malloc import keep_little
from streamer.core.reasons import continue_counts, internal_error
from streamer.core.redact import remember
from streamer.processes.assignment import Assignment, Report, ReportKind, Role, child_name
from streamer.processes.heartbeat import Heartbeat, dump_file

if TYPE_CHECKING:
    from streamer.processes.confinement import Confinement

log = logging.getLogger(__name__)

ORPHAN_S = 8.0
"""Seconds in which a child must finish once the parent is dead; then it ends itself."""


class Worker:
    """The supervisor's data for a role, and the role's ways to report."""

    def __init__(self, assignment: Assignment, target: str | None = None, heartbeat: Heartbeat | None = None) -> None:
        self.assignment = assignment
        self.runtime, self.state = assignment.runtime, assignment.state
        self.target = target
        """For capture: its stream. For view: the view. For push: the label of the output."""
        self.heartbeat = heartbeat or Heartbeat()
        """Each turn of the role's main loop calls `beat`; the parent replaces a child that does not."""
        self.confinement: Confinement | None = None
        self.stopping = False
        self.retired: str | None = None
        """Why the agent has given up the stream of this process, which therefore stops."""
        self.stop_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        """Readable once the process was asked to stop: put it into every poll."""

    @cached_property
    def config(self) -> Config:
        """The role's part of the config. Raises ConfigError, which then ends the role like its other errors."""
        return from_checked(self.assignment.config, is_part=True)

    def confine(self) -> None:
        """Restrict this process to what its camera needs. Raises OSError."""
        from streamer.processes.confinement import Confinement

        assert self.target is not None
        self.confinement = Confinement(self.config.streams[self.target].source, self.runtime)

    def stop(self, *_: object) -> None:
        """Ask the role to finish. Safe as a signal handler: takes no lock."""
        self.stopping = True
        os.eventfd_write(self.stop_fd, 1)

    def report(self, kind: ReportKind, reason: str | None = None, **more: str | float) -> None:
        """Send a report to the parent. The arguments are those of `Report`."""
        report = Report.model_validate({"kind": kind, "reason": reason, **more})
        try:
            os.write(self.assignment.report_fd, report.model_dump_json(exclude_none=True).encode() + b"\n")
        except BrokenPipeError:
            self.stop()


def _watch_parent(worker: Worker) -> None:
    """Stop the worker when its stream is given up: the parent writes the reason. Also when the parent is dead: its end
    of our standard input is closed."""
    while line := sys.stdin.buffer.readline():
        worker.retired = line.decode(errors="replace").strip()
        worker.stop()
    worker.stop()
    time.sleep(ORPHAN_S)
    os._exit(1)


def _dump_stacks_to(path: Path) -> None:
    """Write the stacks of all threads to `path` on SIGUSR1 and on fatal signals, even while a C library blocks."""
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        file = os.open(path, flags, 0o600)
    except OSError as error:
        log.warning("no file for stacks (%s): they are written to standard error", error.strerror)
        file = sys.stderr.fileno()
    faulthandler.enable(file)
    faulthandler.register(signal.SIGUSR1, file, all_threads=True)


def _read_assignment() -> Assignment:
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):  # the parent is dead
        raise SystemExit(0)
    return Assignment.model_validate_json(line)


def main() -> NoReturn:
    """Run one role to its end. Exit codes: 0 done, 2 ConfigError, anything else a crash."""
    role, target = Role(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None
    name = child_name(role, target)
    logs.log_uncaught()
    assignment = _read_assignment()
    os.environ.update(assignment.environment)
    for secret in assignment.secrets:
        remember(secret)
    logs.setup(name, assignment.log_level, assignment.log_format)
    continue_counts(assignment.error_counts)
    heartbeat = Heartbeat(assignment.heartbeat_fd if assignment.heartbeat_fd >= 0 else None)
    _dump_stacks_to(dump_file(assignment.runtime, name))
    worker = Worker(assignment, target, heartbeat)
    signal.signal(signal.SIGTERM, worker.stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    code = 0
    try:
        if role is Role.CAPTURE:
            keep_little()
            worker.confine()
        threading.Thread(target=_watch_parent, args=(worker,), name="parent", daemon=True).start()
        importlib.import_module(f"streamer.processes.{role}").run(worker)
        if not worker.stopping:
            worker.report(ReportKind.ENDED)
    except ConfigError as error:
        worker.report(ReportKind.FAILED, str(error))
        code = EXIT_CONFIG
    except Exception as error:
        reason = str(error) if isinstance(error, StreamerError) else internal_error(error, name)
        worker.report(ReportKind.CRASHED, reason)
        code = 1
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)  # not sys.exit: a thread that hangs in libav must not keep the process alive


if __name__ == "__main__":
    main()
