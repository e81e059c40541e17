"""The emit process: accepts events into the ledger and delivers them from there to every sink.

An event is acknowledged once it is in the ledger, so no sink can slow down inference or another sink. While the disk
is full nothing is acknowledged, and clients send their events again. On any other failure of the ledger the process
ends and is restarted; accepted events stay in the ledger.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import apsw
import zmq

from streamer.bus.event_channel import EventServer
from streamer.bus.rules_client import command_rules_by_data
from streamer.config.model import find_pipeline
from streamer.config.rule import RULES, answering, needs_rules_process
from streamer.core.errors import ConfigError, LedgerError
from streamer.events.ledger import LEDGER_FILE, Ledger
from streamer.events.notify.delivery import Target
from streamer.events.sink_threads import SinkThreads
from streamer.events.sinks import RuleInfo, SinkContext, TaskKinds
from streamer.events.snapshots.picture import incident_picture
from streamer.processes.assignment import ReportKind
from streamer.processes.event_receiver import COMMIT_S, EventReceiver
from streamer.processes.worker import Worker
from streamer.rules.state_file import rules_state

BEAT_MS = 1000
"""Maximum time between two heartbeats."""
QUIET_MS, LATE_EVENTS_S = 100, 0.5
"""After the request to stop, events are accepted until none came for `QUIET_MS`, at most for `LATE_EVENTS_S`."""


def run(worker: Worker) -> None:
    """Serve until asked to stop.

    Raises ConfigError when the ledger cannot be opened. A sink that cannot be opened is an error at the first start;
    later it is down and tried again.
    """
    worker.heartbeat.beat("loading", COMMIT_S)
    with (
        _disk_failures(worker.state),
        _open_ledger(worker) as ledger,
        EventServer(worker.runtime) as server,
        _open_sinks(worker, ledger) as sinks,
    ):
        receiver = EventReceiver(server, ledger, sinks, worker.heartbeat)
        poller = zmq.Poller()
        for readable in (server.socket, sinks.status_fd, worker.stop_fd):
            poller.register(readable, zmq.POLLIN)
        worker.report(ReportKind.READY)
        while not worker.stopping:
            worker.heartbeat.beat()
            poller.poll(BEAT_MS)
            ledger.check_mark()
            receiver.commit_pending()
        deadline = time.monotonic() + LATE_EVENTS_S
        while server.socket.poll(QUIET_MS) and time.monotonic() < deadline:
            receiver.commit_pending()
        worker.heartbeat.beat("batch", COMMIT_S)


@contextmanager
def _disk_failures(state: Path) -> Iterator[None]:
    """Raise LedgerError for what SQLite reports about the disk and a damaged file."""
    try:
        yield
    except (apsw.IOError, apsw.FullError, apsw.NoMemError) as error:
        with suppress(OSError):
            free = f", {shutil.disk_usage(state).free / 1e6:.1f} MB free"
            raise LedgerError(f"the disk of the ledger fails or is full: {state}{free}") from error
        raise LedgerError(f"the disk of the ledger fails: {state}") from error
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise LedgerError(f"the ledger in {state} is damaged: it is recovered at the next start") from error


def _open_ledger(worker: Worker) -> Ledger:
    try:
        return Ledger(worker.state / LEDGER_FILE, worker.config.name, worker.config.ledger)
    except (apsw.CantOpenError, apsw.ReadOnlyError, apsw.PermissionsError) as error:
        if not worker.state.is_dir():
            reason = "no such folder"
        elif not os.access(worker.state, os.W_OK | os.X_OK):
            reason = "no permission to write"
        else:
            reason = f"{LEDGER_FILE} cannot be opened for writing"
        raise ConfigError(f"cannot keep the ledger in {worker.state}: {reason}") from error


def _open_sinks(worker: Worker, ledger: Ledger) -> SinkThreads:
    kinds = {task: spec.result for task, spec in find_pipeline().tasks().items()}
    streams = worker.config.streams.items()
    context = SinkContext(
        agent=worker.config.name,
        runtime=worker.runtime,
        ledger=worker.state / LEDGER_FILE,
        stop_agent=lambda: worker.report(ReportKind.FINISHED),
        max_results=worker.assignment.max_events,
        command_rules=partial(command_rules_by_data, worker.runtime),
        tasks=TaskKinds(kinds, {name: {task.name: kinds[task.task] for task in one.tasks} for name, one in streams}),
        rules={
            name: RuleInfo(answering(rule, worker.config.streams, kinds).tasks, rule.subject, rule.words)
            for name, rule in worker.config.rules.items()
        },
        modes=tuple(worker.config.modes),
        rules_state=partial(rules_state, worker.config, worker.state, worker.state / LEDGER_FILE),
    )
    needs_rules = needs_rules_process(worker.config.rules, worker.config.snapshots, worker.state)
    readers = [RULES] if needs_rules else []
    zone, pictures = worker.config.timezone, partial(incident_picture, worker.state)
    targets = [Target(name, settings, zone, pictures) for name, settings in worker.config.notify.items()]
    receivers = [*worker.config.sinks, *targets]
    return SinkThreads(ledger, receivers, context, worker.assignment.is_first_start, readers)
