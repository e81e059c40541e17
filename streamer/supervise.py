"""The parent process: a table of children, a loop that makes what runs equal to what should run, an orderly end.

The parent opens no camera and loads no model, so it has nothing to crash on. A child that ends with 2 had a config
problem: everything stops with that. A capture that says it has ended is done. Any other end was not asked for: the
child comes back.
"""

from __future__ import annotations

import json
import logging
import math
import os
import random
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streamer.bus.delivery import EventClient
from streamer.config import Agent
from streamer.errors import ConfigError
from streamer.events import worker_event
from streamer.folders import Folders
from streamer.outputs import RtspPush, outputs_by_view, stream_of
from streamer.worker import EXIT_CONFIG

log = logging.getLogger(__name__)

TICK_S = 0.25
HEALTHY_S = 60.0
"""A child that lived this long starts its backoff anew."""
LONGEST_BACKOFF_S = 30.0
STOP_ORDER: Mapping[tuple[str, ...], float] = {
    ("web", "view", "push", "infer"): 4.5,
    ("capture",): 2.5,
    ("emit",): 2.5,
}
"""Roles in the order they are stopped, with the seconds they have before they are killed; under 10 s in all."""
WATCHED = ("view", "push")
"""Roles that say every second that they are not stuck."""
STUCK_S = 8.0
"""A watched child that is silent for so long is killed, and comes back."""
SLOW_START_S = 30.0
"""And one that has not spoken yet."""


@dataclass(slots=True)
class Child:
    """One row of the process table."""

    role: str
    stream: str | None
    """Of capture: its stream. Of view and push: the view's and the output's name."""
    process: subprocess.Popen[bytes] | None = None
    pidfd: int = -1
    reports: int = -1
    started: float = 0.0
    start_at: float = 0.0
    crashes: int = 0
    finished: bool = False
    alive_until: float = math.inf
    """Of a watched child: when it counts as stuck."""
    stuck: str | None = None
    """Why it was killed, if it was."""
    unread: bytes = field(default=b"", repr=False)

    @property
    def name(self) -> str:
        return f"{self.role}:{self.stream}" if self.stream else self.role

    @property
    def about(self) -> str | None:
        """The stream that it works for alone."""
        return None if self.stream is None or self.role == "push" else stream_of(self.stream)


def run(
    agent: Agent,
    *,
    seconds: float | None = None,
    max_events: int | None = None,
    keep_state: bool = True,
    log_level: str = "info",
    on_ready: Callable[[Path], None] | None = None,
) -> None:
    """Run an agent until every stream has ended, SIGTERM or SIGINT, or a limit.

    `seconds` counts from the first frame that the loaded model can see; `max_events` counts on standard output.
    Without `keep_state` nothing is left on the disk. `on_ready` is given the runtime directory once before the
    children start. Raises ConfigError.
    """
    for output in agent.outputs:
        output.check()
    with Folders.take(agent.agent, _sockets(agent), keep_state) as folders:
        supervisor = Supervisor(agent, folders, seconds, max_events, log_level)
        if on_ready is not None:
            on_ready(folders.runtime)
        supervisor.run()


def _sockets(agent: Agent) -> list[str]:
    """Names of the sockets that are called after something in the config."""
    return [
        *(f"frames-{stream}.sock" for stream in agent.streams),
        *(f"jpeg-{view}.sock" for view in outputs_by_view(agent.outputs)),
        *(f"packets-{output.label}.sock" for output in agent.outputs if isinstance(output, RtspPush)),
    ]


class Supervisor:
    """The process table and its loop."""

    def __init__(
        self, agent: Agent, folders: Folders, seconds: float | None, max_events: int | None, log_level: str
    ) -> None:
        self.agent, self.folders = agent, folders
        self.seconds, self.max_events, self.log_level = seconds, max_events, log_level
        captures = [Child("capture", stream) for stream in agent.streams]
        pages = [Child("web", None)] if agent.web else []
        views = [Child("view", view) for view in outputs_by_view(agent.outputs)]
        pushes = [Child("push", output.label) for output in agent.outputs if isinstance(output, RtspPush)]
        self.children = [Child("emit", None), *captures, Child("infer", None), *views, *pushes, *pages]
        self.selector = selectors.DefaultSelector()
        self.awaited = {"first_frame", "model"}
        """What has to happen before `seconds` begin to count."""
        self.stop_at: float | None = None
        self.stopping = False
        self.failure: str | None = None
        self.events: EventClient | None = None

    def run(self) -> None:
        wake, waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.selector.register(wake, selectors.EVENT_READ)
        before = signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        handlers = {number: signal.signal(number, self.on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            with EventClient(self.folders.runtime, "parent") as self.events:
                while not self.is_over():
                    self.reconcile()
                    self.wait(TICK_S)
                    self.events.receive()
                    self.events.resend()
                self.shut_down()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(before)
            for child in self.running():
                self.kill(child)
            self.selector.close()
            os.close(wake)
            os.close(waker)
        if self.failure is not None:
            raise ConfigError(self.failure)

    def on_signal(self, *_: object) -> None:
        self.stop_at = 0.0

    def is_over(self) -> bool:
        """Time to stop: asked to, failed, the limit reached, or nothing left to look at."""
        captures = [child for child in self.children if child.role == "capture"]
        return (
            self.failure is not None
            or (self.stop_at is not None and time.monotonic() >= self.stop_at)
            or all(child.finished for child in captures)
        )

    def running(self, *roles: str) -> list[Child]:
        return [child for child in self.children if child.process is not None and (not roles or child.role in roles)]

    # -- the loop

    def reconcile(self) -> None:
        """Start what should run and does not; kill what is stuck."""
        now = time.monotonic()
        for child in self.children:
            if child.process is not None and now > child.alive_until:
                self.end_stuck(child, f"silent for {STUCK_S:g} s")
            if child.process is None and not child.finished and now >= child.start_at:
                self.start(child)

    def wait(self, timeout: float) -> None:
        """Sleep until something happens, and take note of it."""
        due = [child.start_at - time.monotonic() for child in self.children if child.process is None]
        timeout = max(0.0, min([timeout, *(delay for delay in due if delay > 0)]))
        for key, _ in self.selector.select(timeout):
            match key.data:
                case None:
                    os.read(key.fd, 4096)
                case ("report", child):
                    self.read_reports(child)
        for child in self.running():
            if child.process is not None and child.process.poll() is not None:
                self.bury(child)

    def start(self, child: Child) -> None:
        reports, report_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        assignment = {
            "config": self.agent.raw,
            "runtime": str(self.folders.runtime),
            "state": str(self.folders.state),
            "max_events": self.max_events,
            "log_level": self.log_level,
            "report_fd": report_fd,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "streamer.worker", *child.name.split(":")],
            stdin=subprocess.PIPE,
            pass_fds=[report_fd],
            process_group=0,  # a Ctrl-C in the terminal is ours alone: children are stopped in order
        )
        os.close(report_fd)
        assert process.stdin is not None
        os.set_blocking(process.stdin.fileno(), True)
        try:
            process.stdin.write(json.dumps(assignment).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # it died at once; its end is noticed like any other
        child.process, child.started, child.unread = process, time.monotonic(), b""
        child.alive_until = child.started + SLOW_START_S if child.role in WATCHED else math.inf
        child.stuck = None
        child.reports, child.pidfd = reports, os.pidfd_open(process.pid)
        self.selector.register(child.reports, selectors.EVENT_READ, ("report", child))
        self.selector.register(child.pidfd, selectors.EVENT_READ, ("end", child))
        log.debug("%s started as %d", child.name, process.pid)

    def read_reports(self, child: Child) -> None:
        try:
            child.unread += os.read(child.reports, 1 << 16)
        except BlockingIOError:
            return
        *lines, child.unread = child.unread.split(b"\n")
        for line in lines:
            self.on_report(child, json.loads(line))

    def on_report(self, child: Child, report: dict[str, Any]) -> None:
        match report["kind"]:
            case "failed":
                self.failure = self.failure or report["reason"]
            case "ended":
                child.finished = True
            case "finished":
                self.stop_at = 0.0
            case "progress":
                child.alive_until = time.monotonic() + STUCK_S
            case "stuck":
                self.end_stuck(child, report["reason"])
            case "first_frame":
                self.has_happened("first_frame")
            case "ready" if child.role == "infer":
                self.has_happened("model")

    def end_stuck(self, child: Child, reason: str) -> None:
        """Only death frees a process from a call that hangs; `bury` brings it back."""
        if child.process is not None and child.stuck is None:
            log.warning("%s is stuck (%s): killed", child.name, reason)
            child.process.kill()
            child.alive_until, child.stuck = math.inf, reason

    def has_happened(self, what: str) -> None:
        """Start the clock of `seconds` with the first frame that the model can see."""
        if what in self.awaited:
            self.awaited.remove(what)
            if not self.awaited and self.seconds is not None:
                self.stop_at = time.monotonic() + self.seconds

    def bury(self, child: Child) -> None:
        """A child has ended: take its last words, and decide whether it comes back."""
        assert child.process is not None
        self.read_reports(child)
        code = child.process.returncode
        lived = time.monotonic() - child.started
        self.forget(child)
        if child.finished or self.stopping:
            log.debug("%s has ended", child.name)
        elif code == EXIT_CONFIG:
            self.failure = self.failure or f"{child.name} could not start"
        else:
            child.crashes = 1 if lived >= HEALTHY_S else child.crashes + 1
            delay = min(LONGEST_BACKOFF_S, 0.05 * 2**child.crashes) * random.uniform(0.5, 1.0)
            child.start_at = time.monotonic() + delay
            reason = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            reason = f"killed: {child.stuck}" if child.stuck else reason
            log.warning("%s ended (%s): starting again in %.1f s", child.name, reason, delay)
            self.tell(child, reason, delay)

    def tell(self, child: Child, reason: str, delay: float) -> None:
        if self.events is not None:
            event = worker_event(self.agent.agent, child.name, "restarted", reason, delay, child.about)
            self.events.send(event, None)

    def forget(self, child: Child) -> None:
        assert child.process is not None
        for fd in (child.reports, child.pidfd):
            self.selector.unregister(fd)
            os.close(fd)
        if child.process.stdin is not None:
            child.process.stdin.close()
        child.process = None

    # -- the end

    def shut_down(self) -> None:
        """Inference first, so that every frame is accounted for; then the cameras; emit last, with their words."""
        self.stopping = True
        for roles, patience in STOP_ORDER.items():
            if "emit" in roles and self.events is not None:
                self.events.flush(0.5)
            for child in self.running(*roles):
                assert child.process is not None
                child.process.terminate()
            until = time.monotonic() + patience
            while self.running(*roles) and time.monotonic() < until:
                self.wait(until - time.monotonic())
            for child in self.running(*roles):
                log.warning("%s did not stop in %.1f s: killed", child.name, patience)
                self.kill(child)

    def kill(self, child: Child) -> None:
        assert child.process is not None
        child.process.kill()
        child.process.wait()
        self.forget(child)
