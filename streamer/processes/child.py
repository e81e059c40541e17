"""One child process as the parent sees it: start, reports, heartbeat, exit, restart delay."""

from __future__ import annotations

import logging
import os
import random
import signal
import time
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from streamer.core import atomic_file
from streamer.core.backoff import Backoff
from streamer.core.logs import RareLog
from streamer.core.reasons import ids_in
from streamer.processes.assignment import Assignment, Report, Role, child_name
from streamer.processes.config_part import extra_environment
from streamer.processes.fork_client import ChildProcess, ForkServer
from streamer.processes.fork_server import HEARTBEAT_FD, REPORT_FD
from streamer.processes.heartbeat import STARTING_S, Heartbeat, dump_file

log = logging.getLogger(__name__)

HEALTHY_S = 60.0
"""A child that has run for this long counts as healthy: its earlier failures are forgotten."""
FIRST_DELAY_S, MAX_DELAY_S, SLOW_DELAY_S = 0.1, 30.0, 60.0
RETIRE_S = 3.0
"""Longest time in which a child whose stream is given up must end: capture settles frames and flushes events."""
MAX_REPORT_BYTES = 1 << 16
"""Longest report. A child that was taken over could send a line without end."""
MAX_FAILURES = 10
"""After more failures than this within `FAILURES_S` a child is degraded: it is restarted once a minute."""
FAILURES_S = 600.0
REPLACEMENT: tuple[tuple[float, signal.Signals], ...] = (
    (0.0, signal.SIGUSR1),  # makes it write the stacks of all threads
    (0.0, signal.SIGCONT),  # a stopped process cannot write them
    (0.5, signal.SIGTERM),
    (2.5, signal.SIGKILL),
)
"""Signals to a stuck child, with the seconds after which each is sent."""


class Restarts:
    """The restart delay of a child that failed. Pure: the clock is passed in."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()
        self._backoff = Backoff(FIRST_DELAY_S, MAX_DELAY_S, self._rng)
        self._failures: deque[float] = deque()
        self.degraded = False

    def failed(self, now: float, lived: float) -> float:
        """Count a failure after `lived` seconds and return the seconds to wait: 0.1 to 30, a minute when degraded."""
        if lived >= HEALTHY_S:
            self._backoff.reset()
        self._failures.append(now)
        while now - self._failures[0] > FAILURES_S:
            self._failures.popleft()
        if len(self._failures) > MAX_FAILURES:
            self.degraded = True
        delay = self._backoff.next_delay()
        return SLOW_DELAY_S * self._rng.uniform(0.5, 1.0) if self.degraded else delay

    def recovered(self, lived: float) -> bool:
        """Return True once when a degraded child has become healthy."""
        if not self.degraded or lived < HEALTHY_S:
            return False
        self.degraded = False
        self._backoff.reset()
        self._failures.clear()
        return True


@dataclass(slots=True, eq=False, repr=False)
class Child:
    """One row of the process table: a child process, and how often it has failed."""

    role: Role
    target: str | None = None
    """For capture: its stream. For view: the view. For push: the label of the output."""
    stream: str | None = None
    """The stream that the child works for alone; stands in its status events."""
    lease: int | None = None
    """`lease` in the events of its stream."""
    is_running: bool = False
    process: ChildProcess = field(init=False)
    """The current or last process; unset before the first start, as are the descriptors and `_dump`."""
    pidfd: int = field(init=False)
    reports_fd: int = field(init=False)
    heartbeat: Heartbeat = field(default_factory=Heartbeat)
    started: float = 0.0
    """Monotonic second of its last start."""
    start_at: float = 0.0
    """Monotonic second of its next start, while it does not run."""
    restarts: Restarts = field(default_factory=Restarts)
    finished: bool = False
    """Its work is done: it is not started again."""
    was_ready: bool = False
    """One of its processes has been ready: from then on a config error concerns this child only."""
    model: str | None = None
    """Name in events of the model that an infer process has loaded."""
    had_frame: bool = False
    """One process of this capture has had a frame."""
    unreadable: str | None = None
    """Reason why the recording of a capture cannot be read, as long as it has given no frame."""
    failure_reason: str | None = None
    """Why it is being replaced, or what it reported before it crashed."""
    is_retired: bool = False
    """The agent has given up its stream: its process ends, and it is not started again."""
    exit_code: int | None = None
    """Exit code of the previous process, as of `subprocess.Popen.returncode`."""
    was_killed: bool = False
    """The previous process was killed from outside, so none of its jobs is a suspect."""
    _error_counts: Counter[str] = field(default_factory=Counter)
    _is_replacing: bool = False
    _oom_kills: int | None = None
    _dump: Path = field(init=False)
    _signals_due: deque[tuple[float, signal.Signals]] = field(default_factory=deque)
    _unread: bytes = b""
    _invalid_reports: RareLog = field(
        default_factory=lambda: RareLog(log, "invalid report %d ignored, from %s: %r", logging.ERROR)
    )

    @property
    def name(self) -> str:
        return child_name(self.role, self.target)

    def start(self, server: ForkServer, assignment: Assignment) -> None:
        """Fork the process and write its assignment to its standard input. Raises OSError if that is not possible.

        The pipe stays open: the child stops when it reads the end of file, which means that the parent is dead.
        """
        self.heartbeat.beat("loading", STARTING_S)
        self.heartbeat.mark_commit(0.0)
        self._dump = dump_file(assignment.runtime, self.name)
        self.reports_fd, report_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        own = {
            "report_fd": REPORT_FD,
            "heartbeat_fd": HEARTBEAT_FD,
            "environment": {**extra_environment(self.role), **assignment.environment},
            "was_killed": self.was_killed,
            "lease": self.lease,
            "is_first_start": not self.was_ready,
            "error_counts": dict(self._error_counts),
        }
        assignment = assignment.model_copy(update=own)
        try:
            arguments = [*filter(None, (self.role, self.target))]
            descriptors = {REPORT_FD: report_fd, HEARTBEAT_FD: self.heartbeat.descriptor}
            self.process = process = server.fork(arguments, descriptors)
            try:
                self.pidfd = os.pidfd_open(process.pid)
            except OSError:
                process.stdin.close()  # the child reads the end of file, and ends
                raise
        except OSError:
            os.close(self.reports_fd)
            raise
        finally:
            os.close(report_fd)
        with suppress(BrokenPipeError):  # it died at once; its exit is handled like any other
            process.stdin.write(assignment.model_dump_json().encode() + b"\n")
            process.stdin.flush()
        self.is_running, self.started, self.failure_reason = True, time.monotonic(), None
        self._signals_due.clear()
        self._is_replacing, self._oom_kills, self._unread = False, _oom_kills(), b""
        log.debug("%s started, pid %d", self.name, process.pid)

    def read_reports(self) -> list[Report]:
        """Return the reports that have arrived since the last call."""
        try:
            self._unread += os.read(self.reports_fd, 1 << 16)
        except BlockingIOError:
            return []
        *lines, self._unread = self._unread.split(b"\n")
        if len(self._unread) > MAX_REPORT_BYTES:
            lines, self._unread = [*lines, self._unread], b""
        reports = []
        for line in lines:
            try:
                reports.append(Report.model_validate_json(line))
            except ValidationError:
                self._invalid_reports.add(self.name, line[:80])
        return reports

    def check_heartbeat(self, now: float, grace: float) -> None:
        """Replace the process if its heartbeat is overdue by more than `grace` seconds; send the signals that are due.

        `now`: monotonic second.
        """
        heartbeat = self.heartbeat.read()
        if now > heartbeat.deadline + grace:
            self.replace(f"no heartbeat while {heartbeat.state}", now)
        while self._signals_due and now >= self._signals_due[0][0]:
            self.process.send_signal(self._signals_due.popleft()[1])

    def replace(self, reason: str, now: float) -> None:
        """Have the process write its stacks, then kill it: no other way frees a process from a call that hangs."""
        if not self._is_replacing:
            log.warning("%s stuck (%s), restarting", self.name, reason)
            self._is_replacing = True
            self.failure_reason = self.failure_reason or f"killed: {reason}"
            self._signals_due.extend((now + after, number) for after, number in REPLACEMENT)

    def retire(self, reason: str, now: float) -> None:
        """Have the process end because its stream is given up; kill it if it does not. It is not started again.

        `reason` stands in the last event of the stream. `now`: monotonic second.
        """
        self.is_retired = self.finished = True
        if self.is_running:
            with suppress(BrokenPipeError):  # it is dead already
                self.process.stdin.write(f"{reason}\n".encode())
                self.process.stdin.flush()
            self._signals_due.append((now + RETIRE_S, signal.SIGKILL))

    def reap(self) -> str:
        """Release the ended process, log the stacks it left, and return why it ended."""
        code = self.exit_code = self.process.wait()
        no_oom_kill = self._oom_kills is not None and self._oom_kills == _oom_kills()
        self.was_killed = code == -signal.SIGKILL and not self._is_replacing and no_oom_kill
        reason = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        self._error_counts.update(ids_in(self.failure_reason))
        self.release()
        with suppress(OSError):
            if stacks := atomic_file.read(self._dump).decode(errors="replace").strip():
                log.warning("%s left its stacks:\n%s", self.name, stacks)
        return self.failure_reason or reason

    def plan_restart(self, now: float) -> float:
        """Count a failure, and return the seconds until the next start. `now`: monotonic second."""
        delay = self.restarts.failed(now, now - self.started)
        self.start_at = now + delay
        return delay

    def release(self) -> None:
        """Close the descriptors of the ended process."""
        for descriptor in (self.reports_fd, self.pidfd):
            os.close(descriptor)
        with suppress(BrokenPipeError):  # what it was told is not read any more
            self.process.stdin.close()
        self.is_running = False


def _oom_kills() -> int | None:
    """Return how many processes the kernel has killed for lack of memory; None if the kernel does not report it."""
    with suppress(OSError, KeyError):
        return int(dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())["oom_kill"])
    return None
