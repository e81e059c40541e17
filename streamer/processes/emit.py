"""The emit process: accepts events into the ledger and feeds every sink from there, each at its own pace.

An event is acked once it is in the ledger. No sink is between the two, so that none can hold up inference, and none
can hold up another: each has a thread and a place in the ledger of its own. While the disk is full nothing is acked, so
that the makers keep their events and send them again. When the ledger fails otherwise the process ends; nothing is lost
by that either.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence

import apsw
import zmq

from streamer.bus.event_channel import EventServer
from streamer.config.model import find_pipeline
from streamer.core.backoff import Backoff
from streamer.core.errors import ConfigError, SinkError
from streamer.core.redact import redact
from streamer.events.build import sink_event
from streamer.events.ledger import BROKEN, Ledger, SinkCursor
from streamer.events.schema import StatusEvent, accepted
from streamer.events.sinks import SinkContext, SinkSettings
from streamer.processes.heartbeat import Heartbeat
from streamer.processes.worker import Worker
from streamer.types import Sink

log = logging.getLogger(__name__)

LEDGER = "ledger.db"
"""In the state directory."""
GROUP = 128
"""Events of one commit at most, so that it takes some milliseconds."""
BATCH = 256
"""Events that a sink is given at once at most."""
QUIET_MS = 100
BEAT_MS = 1000
COMMIT_S = 60.0
"""A disk may take so long for one group of events, when others write much."""
PROVE_S = 5.0
"""After so long without an event a commit is tried, so that a disk that fails is noticed in a quiet hour too."""
LATE_EVENTS_S = 0.5
"""Once asked to stop: how long events are still accepted while they keep coming."""
DRAIN_S = 1.5
"""And then: how long the sinks have for what is in the ledger. The rest stays there for the next start."""
LOOK_S = 2.0
"""How often a sink with nothing to do looks for dead letters to be tried again, and for refusals to be told."""
FIRST_RETRY_S, MAX_RETRY_S = 0.1, 5.0
"""Delay before a failed sink is tried again: the first, and the longest."""
REFUSED_EVERY_S = 60.0
"""How often a sink's refusals are told at most; the telling may be refused too."""


def run(worker: Worker) -> None:
    """Serve until asked to stop. Raises ConfigError when the ledger or a sink cannot be opened."""
    worker.heartbeat.beat("loading", COMMIT_S)
    with _ledger(worker) as ledger, EventServer(worker.runtime) as server, SinkThreads(worker, ledger) as feeds:
        desk = EventReceiver(worker.heartbeat, server, ledger, feeds)
        poller = zmq.Poller()
        for readable in (server.socket, feeds.status_fd, worker.stop_fd):
            poller.register(readable, zmq.POLLIN)
        worker.report("ready")
        while not worker.stopping:
            worker.heartbeat.beat()
            poller.poll(BEAT_MS)
            desk.accept()
        until = time.monotonic() + LATE_EVENTS_S
        while server.socket.poll(QUIET_MS) and time.monotonic() < until:
            desk.accept()
        worker.heartbeat.beat("batch", COMMIT_S)


class EventReceiver:
    """Where events are accepted."""

    def __init__(self, pulse: Heartbeat, server: EventServer, ledger: Ledger, feeds: SinkThreads) -> None:
        self._pulse, self._server, self._ledger, self._feeds = pulse, server, ledger, feeds
        self._own: list[StatusEvent] = []  # of the sinks, not committed yet
        self._full = False
        self._proved = -PROVE_S

    def accept(self) -> None:
        """Whatever came while the last group was written to the disk is the next group."""
        arrived = self._server.receive(GROUP)
        now = time.monotonic()
        self._own = (self._own + self._feeds.status_events())[-GROUP:]
        if not arrived and not self._own and not self._ledger.has_news and now - self._proved < PROVE_S:
            return
        ages = [None if one.captured_mono is None else now - one.captured_mono for one in arrived]
        events = [accepted(one.event, age) for one, age in zip(arrived, ages, strict=True)]
        self._pulse.beat("batch", COMMIT_S)
        try:
            new = self._ledger.commit([*events, *self._own])
        except apsw.FullError:  # not acked: their makers send them again, and make no more than they can keep
            self._proved = now
            self._is_full(True)
            return
        self._is_full(False)
        self._own = []
        self._server.ack(arrived)
        self._proved = time.monotonic()
        self._pulse.mark_commit(self._proved)
        if new:
            self._feeds.wake()

    def _is_full(self, full: bool) -> None:
        if full and not self._full:
            log.error("the disk of the ledger is full: nothing is accepted until there is room")
        elif self._full and not full:
            log.info("there is room for the ledger again")
        self._full = full


def _ledger(worker: Worker) -> Ledger:
    try:
        return Ledger(worker.state / LEDGER, worker.config.name, worker.config.ledger)
    except (apsw.CantOpenError, apsw.ReadOnlyError, apsw.PermissionsError) as error:
        raise ConfigError(f"cannot keep the ledger in {worker.state}: {error}") from error


class SinkThreads:
    """The sinks of an agent, running; a context manager that ends with what they can still deliver."""

    def __init__(self, worker: Worker, ledger: Ledger) -> None:
        self.status_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        """Readable when a sink has something to say: then call `news`."""
        self._status_events: queue.SimpleQueue[StatusEvent] = queue.SimpleQueue()
        self._failure: Exception | None = None
        self._worker = worker
        self._kinds = kinds = {task: spec.result for task, spec in find_pipeline().tasks().items()}
        streams = worker.config.streams.items()
        self._tasks = {name: {task.name: kinds[task.task] for task in stream.tasks} for name, stream in streams}
        settings: list[SinkSettings] = list(worker.config.sinks)
        readers = ledger.readers(one.name for one in settings)
        self._threads = [self._open(one, readers[one.name]) for one in settings]
        for feed in self._threads:
            feed.start()

    def __enter__(self) -> SinkThreads:
        return self

    def __exit__(self, *_: object) -> None:
        until = time.monotonic() + DRAIN_S
        for feed in self._threads:
            feed.finish()
        for feed in self._threads:
            feed.join(max(0.0, until - time.monotonic()))

    def wake(self) -> None:
        """There is something new in the ledger."""
        for feed in self._threads:
            feed.wake()

    def status_events(self) -> list[StatusEvent]:
        """What became of the sinks since the last call. Raises what a sink met in the ledger."""
        if self._failure is not None:
            raise self._failure
        try:
            os.eventfd_read(self.status_fd)
        except BlockingIOError:
            return []
        return [self._status_events.get() for _ in range(self._status_events.qsize())]

    def _open(self, settings: SinkSettings, reader: SinkCursor) -> SinkThread:
        worker, box = self._worker, DeadLetterBox(reader)
        context = SinkContext(
            agent=worker.config.name,
            runtime=worker.runtime,
            find=reader.find,
            finished=lambda: worker.report("finished"),
            done=reader.advance,
            dead_letter=box.put,
            ledger=worker.state / LEDGER,
            max_events=worker.max_events,
            streams=self._tasks,
            kinds=self._kinds,
        )
        sink = settings.open(context)
        return SinkThread(worker.config.name, settings.name, sink, reader, box, self._send_status, self._fail)

    def _send_status(self, event: StatusEvent) -> None:
        self._status_events.put(event)
        os.eventfd_write(self.status_fd, 1)

    def _fail(self, error: Exception) -> None:
        self._failure = error
        os.eventfd_write(self.status_fd, 1)


class DeadLetterBox:
    """Takes what a sink refuses, and counts it."""

    def __init__(self, reader: SinkCursor) -> None:
        self._reader = reader
        self._told = -REFUSED_EVERY_S
        self.count, self.reason = 0, ""

    def put(self, position: int, reason: str) -> None:
        self.reason = redact(reason)
        self._reader.dead_letter(position, self.reason)
        self.count += 1

    def report(self) -> str | None:
        """What is to be told, if it is time."""
        if not self.count or time.monotonic() - self._told < REFUSED_EVERY_S:
            return None
        words = f"{self.count} events were refused, the last one because: {self.reason}"
        self._told, self.count = time.monotonic(), 0
        return words


class SinkThread(threading.Thread):
    """Brings one sink from its place in the ledger to the newest event, again and again."""

    def __init__(
        self,
        agent: str,
        name: str,
        sink: Sink,
        reader: SinkCursor,
        box: DeadLetterBox,
        tell: Callable[[StatusEvent], None],
        fail: Callable[[Exception], None],
    ) -> None:
        super().__init__(name=f"sink {name}", daemon=True)  # one that hangs must not keep the process
        self._agent, self._sink_name = agent, name
        self._sink, self._reader, self._box, self._send_status, self._fail = sink, reader, box, tell, fail
        self._fresh = threading.Event()
        self._finish = threading.Event()
        self._backoff = Backoff(FIRST_RETRY_S, MAX_RETRY_S)

    def wake(self) -> None:
        self._fresh.set()

    def finish(self) -> None:
        """End when everything is delivered, or at the next failure."""
        self._finish.set()
        self._fresh.set()

    def run(self) -> None:
        while True:
            try:
                if not self._deliver():
                    break
                self._on_success()
            except BROKEN as error:  # a damaged ledger is nothing that a sink can do anything about
                self._fail(error)
                break
            except Exception as error:  # whatever a sink or its library raises: it is told, tried again, and alone
                if self._finish.wait(self._on_failure(error)):
                    break
        self._sink.close()
        self._reader.close()

    def _deliver(self) -> bool:
        """Deliver what there is, or wait for something; False when it is time to end."""
        self._fresh.clear()
        # Together: a dead letter that still cannot be taken would hold up all that is new.
        again, batch = self._reader.to_resend(BATCH), self._reader.read(BATCH)
        if again or batch:
            self._write([*again, *batch])
            self._reader.resent(again)
            if batch:
                self._reader.advance(batch[-1][0])
        elif self._finish.is_set():
            return False
        else:
            self._fresh.wait(LOOK_S)
        return True

    def _write(self, events: Sequence[tuple[int, bytes]]) -> None:
        try:
            self._sink.write(events)
        except UnicodeDecodeError as error:  # of what a receiver sent; of the ledger it would be damage
            raise SinkError(f"{type(error).__name__}: {error}") from error

    def _on_success(self) -> None:
        if self._backoff.failures:
            log.info("sink %s works again", self._sink_name)
            self._send_status(sink_event(self._agent, self._sink_name, "up"))
        self._backoff.reset()
        if reason := self._box.report():
            self._send_status(sink_event(self._agent, self._sink_name, "refused", reason))

    def _on_failure(self, error: Exception) -> float:
        """Seconds until the next try: 0.1 to 5, spread so that sinks of one server do not come back as one.

        A sink may know better.
        """
        is_first = self._backoff.failures == 0
        delay = self._backoff.next_delay()
        if isinstance(error, SinkError) and error.wait_s is not None:
            delay = error.wait_s
        if is_first:
            reason = str(error) if isinstance(error, SinkError) else f"{type(error).__name__}: {error}"
            log.error("sink %s failed: %s", self._sink_name, reason, exc_info=not isinstance(error, SinkError))
            self._send_status(sink_event(self._agent, self._sink_name, "down", reason, delay))
        return delay
