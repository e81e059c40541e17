"""The parent process: a table of children, a loop that makes what runs equal to what should run, an orderly end.

The parent opens no camera and loads no model, so it has nothing to crash on. A child that ends with 2 had a config
problem: everything stops with that. A capture that says it has ended is done. Any other end was not asked for: the
child comes back, however often. One whose sign of life is overdue is replaced.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from streamer.bus.event_channel import EventClient
from streamer.config.changes import SavedChanges
from streamer.config.model import Config
from streamer.core.errors import EXIT_CONFIG, ConfigError
from streamer.core.logs import Format
from streamer.core.paths import AgentPaths
from streamer.events.build import worker_event
from streamer.events.schema import StatusEvent
from streamer.processes.child import Child
from streamer.processes.control import Control
from streamer.processes.heartbeat import IDLE_S
from streamer.processes.systemd import Notifier
from streamer.video.outputs import RtspPush, outputs_by_view

log = logging.getLogger(__name__)

TICK_S = 0.25
HELD_UP_S = 2.0
"""When the parent itself was away for so long, its children get time to show that they were not at fault."""
COMMITTED_S = 8.0
"""Events can be kept while a commit was made so recently; in a quiet hour emit tries one every five seconds."""
STOP_ORDER: Mapping[tuple[str, ...], float] = {
    ("web", "view", "push", "infer"): 4.5,
    ("capture",): 2.5,
    ("emit",): 2.5,
}
"""Roles in the order they are stopped, with the seconds they have before they are killed; under 10 s in all."""


def run(
    config: Config,
    *,
    seconds: float | None = None,
    max_events: int | None = None,
    keep_state: bool = True,
    log_level: str = "info",
    log_format: Format = "text",
    on_ready: Callable[[Path], None] | None = None,
) -> None:
    """Run an agent until every stream has ended, SIGTERM or SIGINT, or a limit.

    `seconds` counts from the first frame that the loaded model can see; `max_events` counts on standard output.
    Without `keep_state` nothing is left on the disk. `on_ready` is given the runtime directory once before the
    children start. Raises ConfigError.
    """
    for output in config.outputs:
        output.check()
    with AgentPaths.acquire(config.name, _sockets(config), keep_state) as folders:
        config = SavedChanges(folders.state).apply(config)
        supervisor = Supervisor(config, folders, seconds, max_events, log_level, log_format)
        if on_ready is not None:
            on_ready(folders.runtime)
        supervisor.run()


def _sockets(config: Config) -> list[str]:
    """Names of the sockets that are called after something in the config."""
    return [
        *(f"frames-{stream}.sock" for stream in config.streams),
        *(f"jpeg-{view}.sock" for view in outputs_by_view(config.outputs)),
        *(f"packets-{output.label}.sock" for output in config.outputs if isinstance(output, RtspPush)),
    ]


class Supervisor:
    """The process table and its loop."""

    def __init__(
        self,
        config: Config,
        folders: AgentPaths,
        seconds: float | None,
        max_events: int | None,
        log_level: str,
        log_format: Format,
    ) -> None:
        self.config, self.folders = config, folders
        self.seconds, self.max_events = seconds, max_events
        self.log_level, self.log_format = log_level, log_format
        captures = [Child("capture", stream) for stream in config.streams]
        pages = [Child("web", None)] if config.web else []
        views = [Child("view", str(view)) for view in outputs_by_view(config.outputs)]
        pushes = [Child("push", output.label) for output in config.outputs if isinstance(output, RtspPush)]
        self.children = [Child("emit", None), *captures, Child("infer", None), *views, *pushes, *pages]
        self.selector = selectors.DefaultSelector()
        self.startup_pending = {"first_frame", "model"}
        """What has to happen before `seconds` begin to count."""
        self.stop_at: float | None = None
        self.stopping = False
        self.reconciled_at = time.monotonic()
        self.grace_until = 0.0
        self.failure: str | None = None
        self.is_ready = False
        self.notifier = Notifier()
        self.events: EventClient | None = None
        self.control = Control(config, folders, self.send)

    def run(self) -> None:
        wake, waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.selector.register(wake, selectors.EVENT_READ)
        for descriptor in self.control.descriptors():
            self.selector.register(descriptor, selectors.EVENT_READ, "control")
        before = signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        handlers = {number: signal.signal(number, self.on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        signal.pthread_sigmask(signal.SIG_UNBLOCK, handlers)  # `streamer run` holds them back until here
        try:
            with EventClient(self.folders.runtime, "parent") as self.events:
                while not self.is_over():
                    self.reconcile()
                    self.wait(TICK_S)
                    self.notify()
                    self.control.poll_once()
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
            self.notifier.close()
            self.control.close()
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
        """Start what should run and does not; replace what is stuck."""
        now = time.monotonic()
        if now - self.reconciled_at > HELD_UP_S:
            self.grace_until = now + IDLE_S
        self.reconciled_at = now
        for child in self.children:
            if child.process is not None:
                child.watch(now, max(0.0, self.grace_until - now))
                if child.restarts.recovered(now - child.started):
                    self.publish_status(child, "recovered")
            elif not child.finished and now >= child.start_at:
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
                self.reap(child)

    def start(self, child: Child) -> None:
        assignment = {
            "config": self.control.config.raw,
            "runtime": str(self.folders.runtime),
            "state": str(self.folders.state),
            "max_events": self.max_events,
            "was_killed": child.was_killed,
            "log_level": self.log_level,
            "log_format": self.log_format,
        }
        child.start(assignment, self.folders.runtime)
        self.selector.register(child.reports_fd, selectors.EVENT_READ, ("report", child))
        self.selector.register(child.pidfd, selectors.EVENT_READ, ("end", child))

    def read_reports(self, child: Child) -> None:
        for report in child.reports():
            self.on_report(child, report)

    def on_report(self, child: Child, report: dict[str, Any]) -> None:
        match report["kind"]:
            case "failed":
                self.failure = self.failure or report["reason"]
            case "ended":
                child.finished = True
            case "finished":
                self.stop_at = 0.0
            case "crashed":
                child.failure_reason = child.failure_reason or report["reason"]
            case "stuck":
                child.replace(report["reason"], time.monotonic())
            case "first_frame":
                self.startup_done("first_frame")
            case "ready":
                child.ready = True
                if child.role == "infer":
                    self.startup_done("model")

    def startup_done(self, what: str) -> None:
        """Start the clock of `seconds` with the first frame that the model can see."""
        if what in self.startup_pending:
            self.startup_pending.remove(what)
            if not self.startup_pending and self.seconds is not None:
                self.stop_at = time.monotonic() + self.seconds

    def reap(self, child: Child) -> None:
        """A child has ended: take its last words, and decide whether it comes back."""
        assert child.process is not None
        self.read_reports(child)
        code, now = child.process.returncode, time.monotonic()
        self.unregister(child)
        reason = child.reap()
        if child.role == "infer":
            self.control.infer_died()
        if child.finished or self.stopping:
            log.debug("%s has ended", child.name)
        elif code == EXIT_CONFIG:
            self.failure = self.failure or f"{child.name} could not start"
        else:
            was_degraded = child.restarts.degraded
            delay = child.restarts.failed(now, now - child.started)
            child.start_at = now + delay
            log.warning("%s ended (%s): starting again in %.1f s", child.name, reason, delay)
            self.publish_status(child, "restarted", reason, delay)
            if child.restarts.degraded and not was_degraded:
                log.error("%s fails again and again: it is tried once a minute from now on", child.name)
                self.publish_status(child, "degraded", reason, delay)

    def publish_status(self, child: Child, state: str, reason: str | None = None, delay: float | None = None) -> None:
        self.send(worker_event(self.config.name, child.name, state, reason, delay, child.about))

    def send(self, event: StatusEvent) -> None:
        if self.events is not None:
            self.events.send(event, None)

    def unregister(self, child: Child) -> None:
        for descriptor in (child.reports_fd, child.pidfd):
            self.selector.unregister(descriptor)

    def notify(self) -> None:
        """Tell systemd. What it may restart the service for is only that events cannot be kept, never a camera."""
        (emit,) = (child for child in self.children if child.role == "emit")
        commits = time.monotonic() - emit.heartbeat.committed_at < COMMITTED_S
        if commits:
            self.notifier.feed()
            if not self.is_ready:
                self.is_ready = True
                self.notifier.ready()
        self.notifier.status(self.status(commits))

    def status(self, commits: bool) -> str:
        """The state in a line."""
        if self.is_ready and not commits:
            return "events cannot be kept, see the log"
        away = [child.name for child in self.children if child.process is None and not child.finished]
        if away:
            return f"starting again: {', '.join(away)}"
        if "model" in self.startup_pending:
            return "loading the model"
        return f"running, {len(self.config.streams)} streams"

    # -- the end

    def shut_down(self) -> None:
        """Inference first, so that every frame is accounted for; then the cameras; emit last, with their words."""
        self.stopping = True
        self.notifier.stopping()
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
        self.unregister(child)
        child.release()
