"""The parent's table of child processes: starts them, waits for their reports and exits, replaces and stops them."""

from __future__ import annotations

import logging
import selectors
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from streamer.processes.assignment import Assignment, Report, Role
from streamer.processes.child import Child
from streamer.processes.fork_client import ForkServer
from streamer.processes.heartbeat import IDLE_S

log = logging.getLogger(__name__)

MAX_LOOP_GAP_S = 2.0
"""If the parent's own loop was suspended for longer, the children get `IDLE_S` more before they count as stuck."""

SERVER_POLL_S = 0.25
"""Longest wait for the fork server in one turn of the parent's loop."""


class Exit(NamedTuple):
    """A child's process has ended."""

    code: int
    """As of `subprocess.Popen.returncode`: negative for a signal."""
    reason: str


class ProcessTable:
    """All children of an agent. `poll` returns reports and exits; deciding what follows is the supervisor's."""

    def __init__(self, children: Sequence[Child], wakeups: Iterable[int], server: ForkServer) -> None:
        """`wakeups`: non-blocking file descriptors that end a `poll` early when they become readable."""
        self.children = list(children)
        self._server = server
        self._checked_at = time.monotonic()
        self._grace_until = 0.0
        self._selector = selectors.DefaultSelector()
        for descriptor in wakeups:
            self._selector.register(descriptor, selectors.EVENT_READ)

    def close(self) -> None:
        """Kill what still runs."""
        for child in self.running():
            self._kill(child)
        self._server.close()
        self._selector.close()

    def add(self, children: Iterable[Child]) -> None:
        self.children.extend(children)

    def remove(self, child: Child) -> None:
        """Remove a child that has no process."""
        self.children.remove(child)
        child.heartbeat.close()

    def watch(self, wakeup: int) -> None:
        """Have one more descriptor end a `poll` early."""
        self._selector.register(wakeup, selectors.EVENT_READ)

    def unwatch(self, wakeup: int) -> None:
        """Forget such a descriptor, before it is closed."""
        self._selector.unregister(wakeup)

    def of_role(self, role: Role) -> list[Child]:
        return [child for child in self.children if child.role is role]

    def running(self, *roles: Role) -> list[Child]:
        """Return the children that have a process, of these roles or of all."""
        return [child for child in self.children if child.is_running and (not roles or child.role in roles)]

    def to_start(self) -> list[Child]:
        """Return the children that should run, do not, and whose restart delay has passed, once they can start."""
        now = time.monotonic()
        waiting = (child for child in self.children if not child.is_running and not child.finished)
        due = [child for child in waiting if now >= child.start_at]
        return due if self._server.wait_ready(SERVER_POLL_S if due else 0.0) else []

    def start(self, child: Child, assignment: Assignment) -> None:
        """Start the child's process."""
        child.start(self._server, assignment)
        self._selector.register(child.reports_fd, selectors.EVENT_READ)
        self._selector.register(child.pidfd, selectors.EVENT_READ)

    def check_heartbeats(self) -> None:
        """Replace the children whose heartbeat is overdue."""
        now = time.monotonic()
        if now - self._checked_at > MAX_LOOP_GAP_S:
            self._grace_until = now + IDLE_S
        self._checked_at = now
        for child in self.running():
            child.check_heartbeat(now, max(0.0, self._grace_until - now))

    def poll(self, timeout: float) -> Iterator[tuple[Child, Report | Exit]]:
        """Wait until something happens, at most `timeout` seconds or until a restart is due; yield what happened."""
        delays = [child.start_at - time.monotonic() for child in self.children if not child.is_running]
        timeout = max(0.0, min([timeout, *(delay for delay in delays if delay > 0)]))
        self._selector.select(timeout)
        for child in self.running():
            code = child.process.poll()  # looked at first: all its reports are in the pipe then
            for report in child.read_reports():
                yield child, report
            if code is not None:
                self._unregister(child)
                yield child, Exit(code, child.reap())
        self._server.reap_orphans(child.process.pid for child in self.running())

    def stop(self, roles: Sequence[Role], timeout: float) -> Iterator[tuple[Child, Report | Exit]]:
        """Send SIGTERM to the children of these roles, kill what still runs after `timeout` seconds."""
        for child in self.running(*roles):
            child.process.terminate()
        deadline = time.monotonic() + timeout
        while self.running(*roles) and (left := deadline - time.monotonic()) > 0:
            yield from self.poll(left)
        for child in self.running(*roles):
            log.warning("%s did not stop within %.1f s, killed", child.name, timeout)
            self._kill(child)

    def _kill(self, child: Child) -> None:
        child.process.kill()
        child.process.wait()
        self._unregister(child)
        child.release()

    def _unregister(self, child: Child) -> None:
        for descriptor in (child.reports_fd, child.pidfd):
            self._selector.unregister(descriptor)
