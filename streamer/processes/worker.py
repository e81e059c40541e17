"""The child's end of the supervisor: reads the assignment, runs the role, reports to the parent, stops when asked to.

The parent starts `python -m streamer.processes.worker ROLE [TARGET]`, writes the assignment to its standard input and
keeps that pipe open: its end of file means that the parent is dead. See `assignment.py` for the messages.
"""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import logging
import os
import select
import signal
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

from streamer.config.model import Config, from_mapping
from streamer.core import logs
from streamer.core.errors import EXIT_CONFIG, ConfigError
from streamer.processes.assignment import Assignment, Report, ReportKind, Role, child_name
from streamer.processes.heartbeat import Heartbeat, dump_file, heartbeat_file

log = logging.getLogger(__name__)

ORPHAN_S = 8.0
"""Seconds in which a child must finish once the parent is dead; then it ends itself."""
_PR_SET_PDEATHSIG = 1


class Worker:
    """The supervisor's data for a role, and the role's ways to report."""

    def __init__(
        self,
        config: Config,
        runtime: Path,
        state: Path,
        target: str | None,
        report_fd: int,
        max_events: int | None = None,
        heartbeat: Heartbeat | None = None,
        was_killed: bool = False,
    ) -> None:
        self.config = config
        self.runtime = runtime
        """Folder of sockets and frame buffers, mode 0700, on a tmpfs."""
        self.state = state
        """Folder of what outlives the processes, such as the ledger."""
        self.target = target
        """For capture: its stream. For view: the view. For push: the label of the output."""
        self.max_events = max_events
        """For emit: end the agent after this many results on standard output."""
        self.heartbeat = heartbeat or Heartbeat()
        """Each turn of the role's main loop calls `beat`; the parent replaces a child that does not."""
        self.was_killed = was_killed
        """The previous process was killed from outside, so none of its jobs is a suspect."""
        self._report_fd = report_fd
        self.stopping = False
        self.stop_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        """Readable once the process was asked to stop: put it into every poll."""

    def stop(self, *_: object) -> None:
        """Ask the role to finish. Safe as a signal handler: takes no lock."""
        self.stopping = True
        os.eventfd_write(self.stop_fd, 1)

    def report(self, kind: ReportKind, reason: str | None = None, address: str | None = None) -> None:
        """Send a report to the parent. The arguments are those of `Report`."""
        try:
            os.write(self._report_fd, Report(kind, reason, address).encode())
        except BrokenPipeError:
            self.stop()


def _watch_parent(worker: Worker) -> None:
    """Stop the worker when the parent is dead: when its end of our standard input is closed."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        worker.stop()
        time.sleep(ORPHAN_S)
        os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def _die_with_parent() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _dump_stacks_to(path: Path) -> None:
    """Write the stacks of all threads to `path` on SIGUSR1 and on fatal signals, even while a C library blocks."""
    file = path.open("wb")
    faulthandler.enable(file)
    faulthandler.register(signal.SIGUSR1, file, all_threads=True)


def _read_assignment() -> Assignment:
    line = b""
    while not line.endswith(b"\n"):
        select.select([0], [], [])
        chunk = os.read(0, 1 << 16)
        if not chunk:
            raise SystemExit(0)
        line += chunk
    return Assignment.decode(line)


def main() -> NoReturn:
    """Run one role to its end. Exit codes: 0 done, 2 ConfigError, anything else a crash."""
    _die_with_parent()
    role, target = Role(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None
    name = child_name(role, target)
    assignment = _read_assignment()
    logs.setup(name, assignment.log_level, assignment.log_format)
    runtime = Path(assignment.runtime)
    heartbeat = Heartbeat(heartbeat_file(runtime, name))  # creates the folder of the stacks file too
    _dump_stacks_to(dump_file(runtime, name))
    worker = Worker(
        config=from_mapping(assignment.config),
        runtime=runtime,
        state=Path(assignment.state),
        target=target,
        report_fd=assignment.report_fd,
        max_events=assignment.max_events,
        heartbeat=heartbeat,
        was_killed=assignment.was_killed,
    )
    signal.signal(signal.SIGTERM, worker.stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _watch_parent(worker)
    code = 0
    try:
        importlib.import_module(f"streamer.processes.{role}").run(worker)
        if not worker.stopping:
            worker.report(ReportKind.ENDED)
    except ConfigError as error:
        worker.report(ReportKind.FAILED, str(error))
        code = EXIT_CONFIG
    except Exception as error:
        log.exception("%s crashed", role)
        worker.report(ReportKind.CRASHED, f"{type(error).__name__}: {error}")
        code = 1
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)  # not sys.exit: a thread that hangs in libav must not keep the process alive


if __name__ == "__main__":
    main()
