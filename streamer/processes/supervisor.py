"""The parent process: starts the children that the config needs, restarts those that fail, stops them in order.

The parent opens no camera and loads no model. A child that exits with code 2 before it was ever ready had a config
error: the whole agent stops with that error. A child that reports `ended` is finished. After any other exit the child
is started again, with a growing delay. A child whose heartbeat is overdue is killed and started again.
"""

from __future__ import annotations

import logging
import os
import resource
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from streamer.bus.event_channel import EventClient
from streamer.config.changes import SavedChanges
from streamer.config.model import Config, find_pipeline
from streamer.config.model_choice import ModelChoices
from streamer.config.rule import needs_rules_process
from streamer.config.socket_names import socket_names
from streamer.core.errors import EXIT_CONFIG, ConfigError, SourceIncomplete
from streamer.core.logs import Format
from streamer.core.paths import AgentPaths
from streamer.core.printable import counted
from streamer.events.build import rules_event, streams_event, worker_event
from streamer.processes.assignment import Assignment, Report, ReportKind, Role
from streamer.processes.child import Child
from streamer.processes.config_part import part_of, secrets_in
from streamer.processes.control import Control
from streamer.processes.fork_client import ForkServer
from streamer.processes.model_swap import ModelSwap
from streamer.processes.process_table import Exit, ProcessTable
from streamer.processes.running_streams import StreamProcesses, children_of
from streamer.processes.stop_signals import StopSignals
from streamer.processes.stream_router import StreamRouter, device_names
from streamer.processes.systemd import ServiceStatus
from streamer.processes.wanted_streams import WantedStreams
from streamer.types import Device

log = logging.getLogger(__name__)

POLL_S = 0.25
"""Longest wait of the main loop: heartbeats are checked at this interval."""
STOP_ORDER: Mapping[tuple[Role, ...], float] = {
    (Role.WEB, Role.SERVE, Role.VIEW, Role.PUSH, Role.INFER): 4.5,
    (Role.CAPTURE, Role.RULES): 2.5,
    (Role.EMIT,): 2.5,
}
"""Roles in the order they are stopped, with the seconds until they are killed; under 10 s in all. Inference stops
before the cameras, so that every frame is settled, and emit last, so that it gets the events of all others."""
THREADS = "OMP_NUM_THREADS"
"""The number of threads of numerical libraries. Without it each process starts one for every core."""
FLUSH_S = 0.5
"""Longest wait for acks of the parent's own events before emit is stopped."""


def run(
    config: Config,
    *,
    seconds: float | None = None,
    max_events: int | None = None,
    keep_state: bool = True,
    streams: Collection[str] | None = None,
    log_level: str = "info",
    log_format: Format = "text",
    on_ready: Callable[[Path], None] | None = None,
) -> None:
    """Run an agent until all streams have ended, a limit is reached, or SIGTERM or SIGINT comes.

    Raises ConfigError, and SourceIncomplete for a recording with `strict: true` that ended early.

    `seconds` counts from the first frame after the model is loaded. `max_events` counts results on standard output.
    Without `keep_state` nothing stays on the disk. `streams`: those of the config to begin with; None: all. `on_ready`
    gets the runtime folder, before the children start.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file of this process or of a child would hold secrets
    for output in config.outputs:
        output.check()
    with AgentPaths.acquire(config.name, socket_names(config), keep_state) as folders:
        config = SavedChanges(folders.state).apply(config)
        choices = ModelChoices(folders.state, config)
        config = choices.at_start(config)
        if on_ready is not None:
            on_ready(folders.runtime)
        with StopSignals() as signals, EventClient(folders.runtime, "parent") as events:
            devices = _devices(config)
            assignment = Assignment(
                config={},
                inference=tuple(devices),
                host=config.host,
                runtime=folders.runtime,
                state=folders.state,
                max_events=max_events,
                log_level=log_level,
                log_format=log_format,
            )
            wanted = WantedStreams(config.streams, streams)
            router = StreamRouter(folders.runtime, config, devices, wanted.leases)
            control = Control(config, folders, router, wanted, lambda event: events.send(event, None))
            Supervisor(signals, events, control, choices, assignment, seconds).run()


class Supervisor:
    """Decides what follows from the reports and exits of the children."""

    def __init__(
        self, signals: StopSignals, events: EventClient, control: Control, choices: ModelChoices,
        assignment: Assignment, seconds: float | None,
    ) -> None:  # fmt: skip
        self.signals, self.events, self.control = signals, events, control
        self.assignment, self.seconds = assignment, seconds
        """`assignment`: what all children have in common, with an empty config."""
        config, wakeups = control.config, (signals.wakeup_fd, *control.descriptors())
        modules = _modules(config, _children(config, assignment, dict.fromkeys(config.streams)))
        self.table = ProcessTable(_children(config, assignment, control.wanted.leases), wakeups, ForkServer(modules))
        self.streams = StreamProcesses(control, self.table)
        self.swap = ModelSwap(control, self.table, choices)
        self.service = ServiceStatus()
        self.startup_pending = {ReportKind.FIRST_FRAME} | ({ReportKind.READY} if assignment.inference else set())
        """Before `seconds` begin to count: the first frame of a stream, and readiness of the inference process."""
        self.stop_at: float | None = None
        """Monotonic second."""
        self.stopping = False
        self.failure: str | None = None
        """The config error that stops the agent."""
        self.incomplete: str | None = None
        """The recording that ended early and must be whole: the agent fails at its end."""

    def run(self) -> None:
        """Run until it is time to stop. Raises ConfigError if a child reported one, or SourceIncomplete."""
        (emit,) = self.table.of_role(Role.EMIT)
        if not (wanted := self.control.wanted).is_all:
            self.events.send(streams_event(self.control.config.name, wanted.leases, wanted.reason), None)
        if self.table.of_role(Role.RULES):
            self.events.send(rules_event(self.control.config.name, "started"), None)
        try:
            while not self.is_over():
                for child in self.table.to_start():
                    self.start(child)
                self.table.check_heartbeats()
                self.report_recovered()
                self.poll(POLL_S)
                self.service.update(emit.heartbeat.committed_at, self.describe())
                self.control.poll_once()
                self.streams.reconcile()
                self.swap.poll_once()
                self.events.receive()
                self.events.resend()
            self.shut_down()
        finally:
            self.table.close()
            self.service.close()
            self.control.close()
        if self.failure is not None:
            raise ConfigError(self.failure)
        if self.incomplete is not None:
            raise SourceIncomplete(self.incomplete)

    def start(self, child: Child) -> None:
        """Start a child with its part of the present config. While the system refuses, try again later."""
        part = part_of(self.control.config, child.role, child.target)
        own: dict[str, Any] = {"inference": self.control.router.placement.chosen}
        if child.role is Role.INFER:
            own |= self.control.router.state_at_start(child.target)._asdict()
            own["is_trial"] = self.swap.is_trial(child)
            part["model"] = self.control.router.devices[child.target].settings.model_dump(mode="json")
        if child.role is Role.INFER and len(self.assignment.inference) > 1:
            own["environment"] = _shared_cores(len(self.assignment.inference))
        if child.role is Role.WEB:
            own["running"], own["made_at"] = tuple(self.control.wanted.leases), time.time()
            own["devices"] = device_names(self.control.router.devices)
        own |= {"config": part, "secrets": secrets_in(part)}
        try:
            self.table.start(child, self.assignment.model_copy(update=own))
        except OSError as error:
            self.plan_restart(child, f"cannot be started: {error.strerror}")

    def is_over(self) -> bool:
        """Return whether it is time to stop."""
        return (
            self.signals.received
            or self.failure is not None
            or (self.stop_at is not None and time.monotonic() >= self.stop_at)
        )

    def poll(self, timeout: float) -> None:
        """Wait at most `timeout` seconds, and handle the reports and exits that come."""
        for child, item in self.table.poll(timeout):
            self.handle(child, item)
        self.signals.clear()

    def handle(self, child: Child, item: Report | Exit) -> None:
        if isinstance(item, Exit):
            self.on_exit(child, item)
        else:
            self.on_report(child, item)

    def on_report(self, child: Child, report: Report) -> None:
        """Act on a report. One that its role never makes is ignored: capture decodes bytes from outside."""
        match report.kind:
            case ReportKind.FAILED | ReportKind.CRASHED:
                child.failure_reason = child.failure_reason or report.reason
            case ReportKind.ENDED:
                child.finished = True
                if child.role is Role.CAPTURE and not child.is_retired:
                    self.control.router.remove(child.target or "")
                self.stop_after_last_stream()
            case ReportKind.UNREADABLE if child.role is Role.CAPTURE and not child.had_frame:
                child.unreadable = report.reason
                self.stop_after_last_stream()
            case ReportKind.INCOMPLETE if child.role is Role.CAPTURE:
                self.incomplete = self.incomplete or f"stream {child.stream} {report.reason}"
            case ReportKind.FINISHED if child.role is Role.EMIT:
                self.stop_at = 0.0
            case ReportKind.FIRST_FRAME:
                child.had_frame, child.unreadable = True, None
                self.startup_done(report.kind)
            case ReportKind.READY:
                child.was_ready, child.model = True, report.model
                if child.role is Role.INFER:
                    self.startup_done(report.kind)
                    self.control.router.on_ready(child.target)
                    self.swap.on_ready(child)
            case ReportKind.SPEED if child.role is Role.INFER and report.speed is not None:
                self.control.router.placement.set_speed(child.target, report.speed)

    def stop_after_last_stream(self) -> None:
        """Stop the agent once no stream can give another frame. A recording that never was readable is its failure.

        An agent that is told which streams it runs waits for others.
        """
        captures = self.table.of_role(Role.CAPTURE)
        if self.control.wanted.is_commanded or not captures:
            return
        if all(child.finished or child.unreadable for child in captures):
            self.stop_at = 0.0
            self.failure = self.failure or next((child.unreadable for child in captures if child.unreadable), None)

    def startup_done(self, kind: ReportKind) -> None:
        """Start the clock of `seconds` once the model is loaded and a stream has a frame."""
        if kind in self.startup_pending:
            self.startup_pending.remove(kind)
            if not self.startup_pending and self.seconds is not None:
                self.stop_at = time.monotonic() + self.seconds

    def on_exit(self, child: Child, end: Exit) -> None:
        """Plan the restart of a child, unless it is finished or the agent stops."""
        if child.role is Role.INFER and not self.stopping:
            self.control.on_infer_exit(child.target, child.was_killed)
            self.swap.on_exit(child, end)
        if child.finished or self.stopping:
            log.debug("%s ended", child.name)
        elif end.code == EXIT_CONFIG and not child.was_ready:
            self.failure = self.failure or child.failure_reason or f"{child.name} could not start"
        else:
            self.plan_restart(child, end.reason)

    def plan_restart(self, child: Child, reason: str) -> None:
        """Start a child again after a delay, and report it."""
        was_degraded = child.restarts.degraded
        delay = child.plan_restart(time.monotonic())
        log.warning("%s ended (%s), restarting in %.1f s", child.name, reason, delay)
        self.publish_status(child, "restarted", reason, delay)
        if child.restarts.degraded and not was_degraded:
            log.error("%s degraded: too many failures, restarting once a minute", child.name)
            self.publish_status(child, "degraded", reason, delay)

    def report_recovered(self) -> None:
        """Publish which degraded children have become healthy."""
        now = time.monotonic()
        for child in self.table.running():
            if child.restarts.recovered(now - child.started):
                self.publish_status(child, "recovered")

    def publish_status(self, child: Child, state: str, reason: str | None = None, delay: float | None = None) -> None:
        self.events.send(worker_event(self.control.config.name, child.name, state, reason, delay, child.stream), None)

    def describe(self) -> str:
        """Return the state of the agent in one line."""
        if missing := [child.name for child in self.table.children if not child.is_running and not child.finished]:
            return f"restarting {', '.join(missing)}"
        if ReportKind.READY in self.startup_pending:
            return "loading the model"
        return f"running, {counted(len(self.control.wanted.leases), 'stream')}"

    def shut_down(self) -> None:
        """Stop all children in `STOP_ORDER`."""
        self.stopping = True
        self.service.stopping()
        for roles, timeout in STOP_ORDER.items():
            if Role.EMIT in roles:
                self.events.flush(FLUSH_S)
            for child, item in self.table.stop(roles, timeout):
                self.handle(child, item)


def _devices(config: Config) -> dict[str | None, Device]:
    """Return the devices of the model by the targets of their processes: None where there is one, else numbers.

    There are none if no stream has a task: then no model is needed.
    """
    if not any(stream.tasks for stream in config.streams.values()):
        return {}
    devices = find_pipeline().devices(config.model)
    return {None: devices[0]} if len(devices) == 1 else {str(number): one for number, one in enumerate(devices)}


def _shared_cores(processes: int) -> dict[str, str]:
    """Return the variable with which each of several inference processes starts threads for its part of the cores."""
    cores = len(os.sched_getaffinity(0))
    return {THREADS: os.environ.get(THREADS) or str(max(1, cores // processes))}


def _children(config: Config, assignment: Assignment, streams: Mapping[str, int | None]) -> list[Child]:
    """Return the children that a config needs while these streams run, in the order they are started."""
    return [
        *(Child(Role.INFER, target) for target in assignment.inference),  # first: it takes longest to be ready
        Child(Role.EMIT),
        *children_of(config, streams),
        *([Child(Role.WEB)] if config.web else []),
        *([Child(Role.SERVE)] if config.serve else []),
        *([Child(Role.RULES)] if needs_rules_process(config.rules, config.snapshots, assignment.state) else []),
    ]


def _modules(config: Config, children: Iterable[Child]) -> Iterator[str]:
    """Yield the modules that the processes of the children import, as far as they should share them."""
    yield from (f"streamer.processes.{child.role}" for child in children)
    for stream in config.streams.values():
        yield from stream.source.modules
