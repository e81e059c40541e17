"""The emit process: accepts events into the ledger and feeds every sink from there, each at its own pace.

An event is acked once it is in the ledger. No sink is between the two, so that none can hold up inference, and none
can hold up another: each has a thread and a place in the ledger of its own. When the ledger's disk fails the process
ends; nothing is lost by that, for what was not acked comes again.
"""

from __future__ import annotations

import logging
import os
import queue
import random
import threading
import time
from collections.abc import Callable

import apsw
import zmq

from streamer.bus.delivery import EventServer
from streamer.errors import ConfigError, SinkError
from streamer.events import StatusEvent, accepted, sink_event
from streamer.ledger import Ledger, Reader
from streamer.redact import redact
from streamer.sinks import SinkContext, SinkSettings
from streamer.types import Sink
from streamer.worker import Worker

log = logging.getLogger(__name__)

BATCH = 256
QUIET_MS = 100
LAST_WORDS_S = 0.5
"""Once asked to stop: how long events are still accepted while they keep coming."""
DRAIN_S = 1.5
"""And then: how long the sinks have for what is in the ledger. The rest stays there for the next start."""


def run(worker: Worker) -> None:
    """Serve until asked to stop. Raises ConfigError when the ledger or a sink cannot be opened."""
    with _ledger(worker) as ledger, EventServer(worker.runtime) as server, Feeds(worker, ledger) as feeds:
        poller = zmq.Poller()
        for readable in (server.socket, feeds.news_fd, worker.stop_fd):
            poller.register(readable, zmq.POLLIN)
        worker.report("ready")
        while not worker.stopping:
            poller.poll()
            _accept(server, ledger, feeds)
        until = time.monotonic() + LAST_WORDS_S
        while server.socket.poll(QUIET_MS) and time.monotonic() < until:
            _accept(server, ledger, feeds)


def _accept(server: EventServer, ledger: Ledger, feeds: Feeds) -> None:
    """Whatever came while the last group was written to the disk is the next group."""
    arrived = server.receive(BATCH)
    now = time.monotonic()
    ages = [None if one.captured_mono is None else now - one.captured_mono for one in arrived]
    events = [accepted(one.event, age) for one, age in zip(arrived, ages, strict=True)]
    if ledger.commit([*events, *feeds.news()]):
        feeds.wake()
    server.ack(arrived)


def _ledger(worker: Worker) -> Ledger:
    try:
        return Ledger(worker.state / "ledger.db")
    except (apsw.CantOpenError, apsw.ReadOnlyError, apsw.PermissionsError) as error:
        raise ConfigError(f"cannot keep the ledger in {worker.state}: {error}") from error


class Feeds:
    """The sinks of an agent, running; a context manager that ends with what they can still deliver."""

    def __init__(self, worker: Worker, ledger: Ledger) -> None:
        self.news_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        """Readable when a sink has something to say: then call `news`."""
        self._news: queue.SimpleQueue[StatusEvent] = queue.SimpleQueue()
        self._worker = worker
        settings: list[SinkSettings] = list(worker.agent.sinks)
        readers = ledger.readers(one.name for one in settings)
        self._feeds = [self._open(one, readers[one.name]) for one in settings]
        for feed in self._feeds:
            feed.start()

    def __enter__(self) -> Feeds:
        return self

    def __exit__(self, *_: object) -> None:
        until = time.monotonic() + DRAIN_S
        for feed in self._feeds:
            feed.finish()
        for feed in self._feeds:
            feed.join(max(0.0, until - time.monotonic()))

    def wake(self) -> None:
        """There is something new in the ledger."""
        for feed in self._feeds:
            feed.wake()

    def news(self) -> list[StatusEvent]:
        """What became of the sinks since the last call."""
        try:
            os.eventfd_read(self.news_fd)
        except BlockingIOError:
            return []
        return [self._news.get() for _ in range(self._news.qsize())]

    def _open(self, settings: SinkSettings, reader: Reader) -> Feed:
        worker = self._worker
        context = SinkContext(
            agent=worker.agent.agent,
            runtime=worker.runtime,
            find=reader.find,
            finished=lambda: worker.report("finished"),
            max_events=worker.max_events,
        )
        return Feed(worker.agent.agent, settings.name, settings.open(context), reader, self._tell)

    def _tell(self, event: StatusEvent) -> None:
        self._news.put(event)
        os.eventfd_write(self.news_fd, 1)


class Feed(threading.Thread):
    """Brings one sink from its place in the ledger to the newest event, again and again."""

    def __init__(self, agent: str, name: str, sink: Sink, reader: Reader, tell: Callable[[StatusEvent], None]) -> None:
        super().__init__(name=f"sink {name}", daemon=True)  # one that hangs must not keep the process
        self._agent, self._sink_name = agent, name
        self._sink, self._reader, self._tell = sink, reader, tell
        self._fresh = threading.Event()
        self._finish = threading.Event()
        self._failures = 0

    def wake(self) -> None:
        self._fresh.set()

    def finish(self) -> None:
        """End when everything is delivered, or at the next failure."""
        self._finish.set()
        self._fresh.set()

    def run(self) -> None:
        while True:
            try:
                batch = self._next()
                if not batch:
                    break
                self._sink.write(batch)
                self._reader.advance(batch[-1][0])
                self._worked()
            except Exception as error:  # whatever a sink or its library raises: it is told, tried again, and alone
                if self._finish.wait(self._failed(error)):
                    break
        self._sink.close()
        self._reader.close()

    def _next(self) -> list[tuple[int, bytes]]:
        """Wait for the next events; none when it is time to end."""
        while True:
            self._fresh.clear()
            batch = self._reader.read(BATCH)
            if batch:
                self._skip_to(batch[0][0])
                return batch
            if self._finish.is_set():
                return []
            self._fresh.wait()

    def _skip_to(self, position: int) -> None:
        lost = position - self._reader.position - 1
        if lost:
            reason = f"{lost} events became too old for the ledger before they could be delivered"
            log.error("sink %s: %s", self._sink_name, reason)
            self._reader.advance(position - 1)
            self._tell(sink_event(self._agent, self._sink_name, "lost", reason))

    def _worked(self) -> None:
        if self._failures:
            log.info("sink %s works again", self._sink_name)
            self._tell(sink_event(self._agent, self._sink_name, "up"))
        self._failures = 0

    def _failed(self, error: Exception) -> float:
        """Seconds until the next try: 0.1 to 5, spread so that sinks of one server do not come back as one."""
        delay = random.uniform(0.5, 1.0) * min(5.0, 0.1 * 2.0 ** min(self._failures, 10))
        if not self._failures:
            reason = redact(str(error) if isinstance(error, SinkError) else f"{type(error).__name__}: {error}")
            log.error("sink %s failed: %s", self._sink_name, reason, exc_info=not isinstance(error, SinkError))
            self._tell(sink_event(self._agent, self._sink_name, "down", reason, delay))
        self._failures += 1
        return delay
