"""Delivers events from the ledger to the sinks: one thread and one ledger position for each sink."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from streamer.core.backoff import Backoff, Settling
from streamer.core.closing import Closing
from streamer.core.errors import SinkError
from streamer.core.reasons import reason_of
from streamer.events.build import sink_event
from streamer.events.ledger import BROKEN, Ledger, SinkCursor
from streamer.events.schema import StatusEvent
from streamer.events.sinks import IdleSink, Receiver, ReportingSink, SinkContext
from streamer.types import Sink

log = logging.getLogger(__name__)

BATCH = 256
"""Maximum number of events that a sink gets at once."""
DRAIN_S = 1.5
"""Seconds that the sinks have to deliver the rest at the end; what is left stays in the ledger for the next start."""
IDLE_S = 2.0
"""Seconds between two checks for dead letters to resend and refusals to report, when there are no new events."""
FIRST_RETRY_S, MAX_RETRY_S = 0.1, 5.0
"""Delay before a failed sink is tried again: the first, and the longest."""
REFUSED_EVERY_S = 60.0
"""Minimum seconds between two `sink.refused` events of a sink: such an event may be refused too."""


class SinkThreads(Closing):
    """The running sinks of an agent; a context manager that lets them deliver for `DRAIN_S` at its end."""

    def __init__(
        self,
        ledger: Ledger,
        sinks: Sequence[Receiver],
        context: SinkContext,
        is_first_start: bool = True,
        readers: Sequence[str] = (),
    ) -> None:
        """`is_first_start`: raise ConfigError when a sink cannot be opened; else only this sink is down.

        `readers`: names of positions in the ledger that other processes advance.
        """
        self.status_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        """Readable when `status_events` has something."""
        self._status_events: queue.SimpleQueue[StatusEvent] = queue.SimpleQueue()
        self._failure: Exception | None = None
        cursors = ledger.cursors((one.name for one in sinks), readers)
        self._threads = [
            SinkThread(
                context.agent,
                one.name,
                partial(one.open, context, cursors[one.name]),
                cursors[one.name],
                self._send_status,
                self._fail,
                one.selects,
            )
            for one in sinks
        ]
        if is_first_start:
            for thread in self._threads:
                with suppress(SinkError):  # it is reported, and tried again, by the thread
                    thread.open()
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        deadline = time.monotonic() + DRAIN_S
        for thread in self._threads:
            thread.finish()
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def wake(self) -> None:
        """Make the sinks read the ledger: it has new events."""
        for thread in self._threads:
            thread.wake()

    def status_events(self) -> list[StatusEvent]:
        """Return the sinks' changes of state since the last call. Raises the error of a sink's ledger connection."""
        if self._failure is not None:
            raise self._failure
        try:
            os.eventfd_read(self.status_fd)
        except BlockingIOError:
            return []
        return [self._status_events.get() for _ in range(self._status_events.qsize())]

    def _send_status(self, event: StatusEvent) -> None:
        self._status_events.put(event)
        os.eventfd_write(self.status_fd, 1)

    def _fail(self, error: Exception) -> None:
        self._failure = error
        os.eventfd_write(self.status_fd, 1)


class SinkThread(threading.Thread):
    """Delivers events to one sink, from its ledger position on, and retries after failures."""

    def __init__(
        self,
        agent: str,
        name: str,
        open_sink: Callable[[], Sink],
        cursor: SinkCursor,
        send_status: Callable[[StatusEvent], None],
        fail: Callable[[Exception], None],
        selects: Callable[[bytes], bool] = lambda _: True,
    ) -> None:
        """`open_sink` may raise any exception: it is tried again. `fail` gets the error of a damaged ledger, which ends
        the thread. `selects`: as of `Receiver`.
        """
        super().__init__(name=f"sink {name}", daemon=True)  # a hanging sink must not keep the process alive
        self._agent, self._sink_name = agent, name
        self._open_sink, self._cursor, self._selects = open_sink, cursor, selects
        self._send_status, self._fail = send_status, fail
        self._sink: Sink | None = None
        self._new_events = threading.Event()
        self._finish = threading.Event()
        self._backoff = Backoff(FIRST_RETRY_S, MAX_RETRY_S)
        self._settling = Settling()
        self._is_down = False  # as reported
        self._refusals_reported_at = -REFUSED_EVERY_S

    def open(self) -> Sink:
        """Return the sink, opened unless it is open."""
        if self._sink is None:
            self._sink = self._open_sink()
        return self._sink

    def wake(self) -> None:
        self._new_events.set()

    def finish(self) -> None:
        """End when everything is delivered, or at the next failure."""
        self._finish.set()
        self._new_events.set()

    def run(self) -> None:
        while True:
            try:
                if not self._deliver():
                    break
                self._on_success()
            except BROKEN as error:  # the ledger is damaged; the process must replace it
                self._fail(error)
                break
            except Exception as error:  # a bug of a sink or its library harms this sink only: report and retry
                if self._finish.wait(self._on_failure(error)):
                    break
        if self._sink is not None:
            self._sink.close()
        self._cursor.close()

    def _deliver(self) -> bool:
        """Deliver one batch, or wait for events; return False when it is time to end."""
        self._new_events.clear()
        sink = self.open()
        # Dead letters go together with new events: alone, one that fails again would hold up all that is new.
        dead_letters, batch = self._cursor.to_resend(BATCH), self._cursor.read(BATCH)
        if dead_letters or batch:
            wanted = [event for event in batch if self._selects(event[1])]
            if batch:  # what is left out before the first wanted event does not wait for the receiver
                self._cursor.advance(wanted[0][0] - 1 if wanted else batch[-1][0])
            if dead_letters or wanted:
                self._write(sink, [*dead_letters, *wanted])
                self._cursor.resent(dead_letters)
                self._cursor.advance(batch[-1][0] if batch else 0)
            elif isinstance(sink, IdleSink):
                sink.idle()
        elif self._finish.is_set():
            return False
        else:
            if isinstance(sink, IdleSink):
                sink.idle()
            self._new_events.wait(min(IDLE_S, sink.idle_s) if isinstance(sink, IdleSink) else IDLE_S)
        return True

    def _write(self, sink: Sink, events: Sequence[tuple[int, bytes]]) -> None:
        try:
            sink.write(events)
        except UnicodeDecodeError as error:  # from a response of the receiver; in BROKEN it means a damaged ledger
            raise SinkError("the receiver answers with bytes that are no text") from error

    def _on_success(self) -> None:
        if self._is_down and self._settling.is_over(time.monotonic()):
            log.info("sink %s works again", self._sink_name)
            self._report("up")
            self._is_down = False
        self._backoff.reset()
        if isinstance(self._sink, ReportingSink) and (report := self._sink.report()) is not None:
            self._report(*report)
        if self._cursor.refused and time.monotonic() - self._refusals_reported_at >= REFUSED_EVERY_S:
            events = "1 event was" if self._cursor.refused == 1 else f"{self._cursor.refused} events were"
            self._report("refused", f"{events} refused, the last one: {self._cursor.refusal}")
            self._refusals_reported_at, self._cursor.refused = time.monotonic(), 0

    def _on_failure(self, error: Exception) -> float:
        """Return the seconds until the next attempt: those that the sink asks for, else 0.1 to 5 with jitter."""
        delay = self._backoff.next_delay()
        if isinstance(error, SinkError) and error.wait_s is not None:
            delay = error.wait_s
        self._settling.on_failure(time.monotonic(), is_reported=not self._is_down)
        if not self._is_down:
            self._is_down = True
            reason = reason_of(error, self.name)
            log.error("sink %s failed: %s", self._sink_name, reason)
            self._report("down", reason, delay)
        return delay

    def _report(self, state: str, reason: str | None = None, retry_in_s: float | None = None) -> None:
        self._send_status(sink_event(self._agent, self._sink_name, state, reason, retry_in_s))
