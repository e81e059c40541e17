"""One child process, seen from its parent: started, heard, found stuck, ended, and when it comes back."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streamer.core.backoff import Backoff
from streamer.processes.heartbeat import STARTING_S, Heartbeat, dump_file, heartbeat_file
from streamer.video.outputs import ViewId

log = logging.getLogger(__name__)

HEALTHY_S = 60.0
"""A child that lived this long is well again."""
FIRST_DELAY_S, MAX_DELAY_S, SLOW_DELAY_S = 0.1, 30.0, 60.0
MAX_FAILURES = 10
"""After more than so many in `FAILURES_S` a child is degraded: it is tried again slowly, for ever."""
FAILURES_S = 600.0
REPLACEMENT: tuple[tuple[float, signal.Signals], ...] = (
    (0.0, signal.SIGUSR1),  # its stacks into the log
    (0.0, signal.SIGCONT),  # a stopped process does not even write these
    (0.5, signal.SIGTERM),
    (2.5, signal.SIGKILL),
)
"""What is sent to a child that is stuck, and when."""


class Restarts:
    """When a child that failed comes back. Pure: the clock is passed in."""

    def __init__(self, chance: random.Random | None = None) -> None:
        self._rng = chance or random.Random()
        self._backoff = Backoff(FIRST_DELAY_S, MAX_DELAY_S, self._rng)
        self._failures: deque[float] = deque()
        self.degraded = False

    def failed(self, now: float, lived: float) -> float:
        """Seconds to wait: 0.1 doubling to 30, with jitter; a minute once it failed too often."""
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
        """Whether it was degraded and is well now; said once."""
        if not self.degraded or lived < HEALTHY_S:
            return False
        self.degraded = False
        self._backoff.reset()
        self._failures.clear()
        return True


@dataclass(slots=True)
class Child:
    """One row of the process table."""

    role: str
    stream: str | None
    """Of capture: its stream. Of view and push: the view's and the output's name."""
    process: subprocess.Popen[bytes] | None = None
    pidfd: int = -1
    reports_fd: int = -1
    heartbeat: Heartbeat = field(default_factory=Heartbeat)
    started: float = 0.0
    start_at: float = 0.0
    restarts: Restarts = field(default_factory=Restarts)
    finished: bool = False
    ready: bool = False
    """Since its start it has said that it does its work."""
    failure_reason: str | None = None
    """Why it is being replaced, or what it died of in its own words."""
    was_killed: bool = False
    """The process before was ended by somebody's kill -9, so nothing that it did is to blame."""
    _is_replacing: bool = False
    _oom_kills: int | None = None
    _dump: Path = field(default_factory=Path)
    _signals_due: deque[tuple[float, signal.Signals]] = field(default_factory=deque)
    _unread: bytes = field(default=b"", repr=False)

    @property
    def name(self) -> str:
        return f"{self.role}:{self.stream}" if self.stream else self.role

    @property
    def about(self) -> str | None:
        """The stream that it works for alone."""
        return None if self.stream is None or self.role == "push" else ViewId.parse(self.stream).stream

    def start(self, assignment: Mapping[str, Any], runtime: Path) -> None:
        """Spawn it and tell it its job through a pipe that stays open: the pipe's end tells it of our death."""
        self.heartbeat = Heartbeat(heartbeat_file(runtime, self.name))
        self.heartbeat.beat("loading", STARTING_S)
        self.heartbeat.mark_commit(0.0)
        self._dump = dump_file(runtime, self.name)
        self.reports_fd, report_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.process = process = subprocess.Popen(
            [sys.executable, "-m", "streamer.processes.worker", *self.name.split(":")],
            stdin=subprocess.PIPE,
            pass_fds=[report_fd],
            process_group=0,  # a Ctrl-C in the terminal is the parent's alone: children are stopped in order
        )
        os.close(report_fd)
        assert process.stdin is not None
        os.set_blocking(process.stdin.fileno(), True)
        try:
            process.stdin.write(json.dumps({**assignment, "report_fd": report_fd}).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # it died at once; its end is noticed like any other
        self.pidfd = os.pidfd_open(process.pid)
        self.started, self.ready, self.failure_reason, self._unread = time.monotonic(), False, None, b""
        self._signals_due.clear()
        self._is_replacing, self._oom_kills = False, _oom_kills()
        log.debug("%s started as %d", self.name, process.pid)

    def reports(self) -> list[dict[str, Any]]:
        """What it has said since the last call."""
        try:
            self._unread += os.read(self.reports_fd, 1 << 16)
        except BlockingIOError:
            return []
        *lines, self._unread = self._unread.split(b"\n")
        return [json.loads(line) for line in lines]

    def watch(self, now: float, patience: float) -> None:
        """Replace it when its sign of life is overdue by `patience`; go on with that when it is being replaced."""
        sign = self.heartbeat.read()
        if now > sign.deadline + patience:
            self.replace(f"no sign of life while {sign.state}", now)
        while self._signals_due and now >= self._signals_due[0][0]:
            self.send(self._signals_due.popleft()[1])

    def replace(self, reason: str, now: float) -> None:
        """Have its stacks written, then end it; only death frees a process from a call that hangs."""
        if not self._is_replacing:
            log.warning("%s is stuck (%s): it is replaced", self.name, reason)
            self._is_replacing = True
            self.failure_reason = self.failure_reason or f"killed: {reason}"
            self._signals_due.extend((now + after, number) for after, number in REPLACEMENT)

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def reap(self) -> str:
        """It has ended: why, in words. Its stacks, if it left some, go into the log."""
        assert self.process is not None
        code = self.process.returncode
        self.was_killed = code == -signal.SIGKILL and not self._is_replacing and self._out_of_memory() == 0
        words = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        self.release()
        try:
            dump = self._dump.read_text(errors="replace").strip()
        except FileNotFoundError:
            dump = ""
        if dump:
            log.warning("%s left its stacks:\n%s", self.name, dump)
        return self.failure_reason or words

    def _out_of_memory(self) -> int | None:
        """Processes that the kernel has ended for want of memory since it was started."""
        before, now = self._oom_kills, _oom_kills()
        return None if before is None or now is None else now - before

    def release(self) -> None:
        """Let go of what belonged to its process."""
        assert self.process is not None
        for descriptor in (self.reports_fd, self.pidfd):
            os.close(descriptor)
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process = None


def _oom_kills() -> int | None:
    """Processes that the kernel has ended for want of memory; None where it does not say."""
    with suppress(OSError, KeyError):
        return int(dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())["oom_kill"])
    return None
