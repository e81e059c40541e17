"""The capture process of one stream: opens it again and again, keeps its newest frame, answers who asks for it.

The main thread answers and decides; a daemon thread per connection reads. So a call that hangs in libav holds up
nothing but itself: its connection is given up, and what it may still read is refused by the shelf.
"""

from __future__ import annotations

import logging
import os
import time
from types import TracebackType

import cv2
import zmq

from streamer.bus.event_channel import EventClient
from streamer.capture.connection import Connection
from streamer.capture.frame_server import FrameServer
from streamer.capture.frame_slot import BlockingFrameSlot, LatestFrameSlot
from streamer.capture.motion_gate import MotionDetector
from streamer.capture.silence_timeout import SilenceTimeout
from streamer.capture.stream_lock import StreamLock
from streamer.core.backoff import ReconnectBackoff
from streamer.core.errors import SourceEnded, SourceLost, SourceRefused
from streamer.events.build import status_event
from streamer.processes.worker import Worker

log = logging.getLogger(__name__)

TICK_S, CALM_S = 0.25, 1.0
"""How often the connection is looked after; the second while it is open, for its thread tells what happens to it."""
OPEN_S = 40.0
"""Opening has limits of its own, but looking up a host name has none that anybody could set."""
FIRST_PICTURE_S = 20.0
FILE_S = 60.0
STEADY_S = 10.0
"""A connection that held for so long makes up for the failures before it."""
STOP_S = 1.0
FLUSH_S = 1.0
LAST_ASK_S = 10.0
"""How long an ended stream waits for the inference process to ask and be told."""
MAX_HANGING = 8


def run(worker: Worker) -> None:
    """Serve one stream until it ends or the worker is asked to stop. Raises ConfigError when its source cannot be."""
    cv2.setNumThreads(1)  # for the small copies that `scene` looks at, two would only wait for each other
    with Capture(worker) as capture:
        capture.serve()


class Capture:
    """One stream's capture. A context manager; `serve` is its life."""

    def __init__(self, worker: Worker, silence_timeout: SilenceTimeout | None = None) -> None:
        assert worker.stream is not None
        self._worker = worker
        self._stream = worker.stream
        self._source = worker.config.streams[worker.stream].source
        self._silence_timeout = silence_timeout or SilenceTimeout()
        self._backoff = ReconnectBackoff()
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = StreamLock(worker.runtime, self._stream)
        self._slot = LatestFrameSlot(self._wake) if self._source.pace == "live" else BlockingFrameSlot(self._wake)
        self._server = FrameServer(worker.runtime, self._stream, self._slot)
        self._events = EventClient(worker.runtime, f"capture-{self._stream}")
        self._connection: Connection | None = None
        self._hanging: list[Connection] = []
        self._epoch: int | None = None
        self._state: str | None = None
        self._reported = False
        self._retry_at = 0.0
        self._ended_at: float | None = None
        self._stop_by: float | None = None
        self._poller = zmq.Poller()
        for readable in (self._server.socket, self._events.socket, self._wake_fd, worker.stop_fd):
            self._poller.register(readable, zmq.POLLIN)

    def __enter__(self) -> Capture:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._slot.set_epoch(None)
        self._events.close()
        self._server.close()
        self._lock.close()
        if not any(connection.is_alive() for connection in (*self._hanging, self._connection) if connection):
            os.close(self._wake_fd)  # else a hanging thread might write to what has its number next

    def serve(self) -> None:
        """Until the source has ended or a stop was asked for, and everything that was fetched is settled."""
        self._worker.report("ready")
        while not self._is_over():
            self._worker.heartbeat.beat()
            self._sleep()
            self._server.handle()
            self._events.receive()
            self._events.resend()
            if not self._worker.stopping and self._ended_at is None:
                self._check_connection()
        self._slot.drop_in_flight()
        self._publish_state("stopped" if self._worker.stopping else "ended")
        self._events.flush(FLUSH_S)

    def _wake(self) -> None:
        os.eventfd_write(self._wake_fd, 1)

    def _sleep(self) -> None:
        now = time.monotonic()
        tick = CALM_S if self._connection is not None and not self._worker.stopping else TICK_S
        until = min(now + tick, self._server.next_deadline or now + tick)
        for readable, _ in self._poller.poll(max(0, int((until - now) * 1000) + 1)):
            if readable == self._wake_fd:
                os.eventfd_read(self._wake_fd)

    def _is_over(self) -> bool:
        if self._worker.stopping:
            return self._has_stopped()
        if self._ended_at is None or self._slot.in_flight:
            return False
        infer = self._server.infer
        if infer.end_acknowledged or infer.last_message is None:
            return True
        return time.monotonic() > max(infer.last_message, self._ended_at) + LAST_ASK_S

    def _has_stopped(self) -> bool:
        """Nothing is in flight and the connection was closed in good order; if not, no longer than `STOP_S`."""
        if self._stop_by is None:
            self._stop_by = time.monotonic() + STOP_S
            self._poller.unregister(self._worker.stop_fd)  # it stays readable
            self._slot.set_epoch(None)
        quiet = self._slot.in_flight == 0 and not (self._connection and self._connection.is_alive())
        return quiet or time.monotonic() > self._stop_by

    def _check_connection(self) -> None:
        """Look after the connection: open, believe, give up."""
        now = time.monotonic()
        connection = self._connection
        if connection is None:
            if now >= self._retry_at:
                self._open()
            return
        if connection.first_picture is not None:
            self._on_first_picture(connection, connection.first_picture, now)
        if connection.outcome is not None:
            self._on_end(connection, connection.outcome)
        elif (since := connection.waiting_since) is not None and now - since > (
            limit := self._read_timeout(connection)
        ):
            self._abandon(connection, limit)

    def _on_first_picture(self, connection: Connection, first_picture: float, now: float) -> None:
        if not self._reported:
            self._worker.report("first_frame")
            self._reported = True
        if self._state != "up":
            self._publish_state("up", connection.note)
        if now - first_picture > STEADY_S:
            self._backoff.reset()

    def _open(self) -> None:
        self._epoch = self._lock.next_epoch()
        self._slot.set_epoch(self._epoch)
        self._connection = Connection(
            self._source, self._slot, self._epoch, self._silence_timeout, self._wake, self._make_motion_detector
        )
        self._connection.start()

    def _make_motion_detector(self) -> MotionDetector:
        stream = self._worker.config.streams[self._stream]
        return MotionDetector(stream.motion, stream.zones)

    def _read_timeout(self, connection: Connection) -> float:
        """Seconds that the connection's thread may be away. A little more than the source's own limits."""
        if self._source.pace == "file":
            return FILE_S
        if connection.first_picture is None:
            return OPEN_S + FIRST_PICTURE_S
        return self._silence_timeout.seconds() + 1.0

    def _abandon(self, connection: Connection, waited: float) -> None:
        self._hanging = [other for other in self._hanging if other.is_alive()] + [connection]
        if len(self._hanging) > MAX_HANGING:
            raise RuntimeError(f"{MAX_HANGING} connections hang: only a new process gets rid of them")
        self._on_end(connection, SourceLost(f"silent for {waited:g} s"))

    def _on_end(self, connection: Connection, outcome: BaseException) -> None:
        self._connection = None
        if isinstance(outcome, SourceLost):
            self._on_lost(connection, outcome)
        elif isinstance(outcome, SourceEnded):
            self._ended_at = time.monotonic()
            self._server.ended = True
            if self._source.pace == "live":
                self._slot.set_epoch(None)
            self._server.handle()
        else:
            raise outcome

    def _on_lost(self, connection: Connection, outcome: SourceLost) -> None:
        self._slot.set_epoch(None)
        now = time.monotonic()
        if connection.first_picture is not None and connection.waiting_since is not None:
            self._silence_timeout.observe_timeout(now - connection.waiting_since)
        if connection.first_picture is not None:
            self._backoff.on_response(now)
        wait = self._backoff.next_delay(now, refused=isinstance(outcome, SourceRefused))
        self._retry_at = now + wait
        if self._state != "down":
            self._publish_state("down", str(outcome), wait)

    def _publish_state(self, state: str, reason: str | None = None, retry_in: float | None = None) -> None:
        """Report a change of state, with the books as they are now."""
        self._state = state
        counts = self._slot.counts()
        log.log(logging.WARNING if state == "down" else logging.INFO, "%s %s %s", state, reason or "", counts)
        agent = self._worker.config.name
        self._events.send(status_event(agent, self._stream, state, reason, retry_in, counts, epoch=self._epoch), None)
