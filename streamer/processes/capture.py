"""The capture process of one stream: connects, decodes, reconnects, and serves frames to the consumers.

The main thread serves frames and supervises; a daemon thread per connection decodes. A call that hangs in libav
therefore blocks only its own thread: the connection is abandoned, and the slot rejects its later frames.
"""

from __future__ import annotations

import logging
import os
import time

import cv2
import zmq

from streamer.bus.event_channel import EventClient
from streamer.capture.connection import Connection
from streamer.capture.frame_server import FrameServer
from streamer.capture.frame_slot import BlockingFrameSlot, LatestFrameSlot
from streamer.capture.motion_gate import MotionDetector
from streamer.capture.picture_memory import PictureMemory
from streamer.capture.silence_timeout import SilenceTimeout
from streamer.capture.sources import File
from streamer.capture.stream_lock import MAX_DEATHS, StreamLock
from streamer.core.backoff import MAX_DELAY_S, ReconnectBackoff, Settling
from streamer.core.closing import Closing
from streamer.core.errors import ProcessBroken, SourceEnded, SourceIncomplete, SourceLost, SourceRefused
from streamer.core.reasons import reason_of
from streamer.events.build import status_event
from streamer.processes.assignment import ReportKind
from streamer.processes.worker import Worker

log = logging.getLogger(__name__)

TICK_S, CONNECTED_TICK_S = 0.25, 1.0
"""Longest sleep of the main loop. Longer while connected: the connection's thread wakes it at every change."""
OPEN_S = 40.0
"""Longest time for opening. The source has shorter limits, but they do not cover the lookup of a host name."""
FIRST_FRAME_S = 20.0
"""Longest time without data between opening and the first frame."""
FILE_S = 60.0
"""Longest time for reading one frame of a file, which may be on a network disk."""
STABLE_S = 10.0
"""A connection that lasts this long resets the reconnect delay."""
STOP_S = 1.0
"""Longest wait at a stop for frames in flight to be settled and the connection to be closed."""
FLUSH_S = 1.0
"""Longest wait for the acknowledgement of the last status event."""
END_S = 10.0
"""Longest wait of an ended stream for the inference process to request a frame and receive the end."""
MAX_HANGING = 8
"""Hanging connections, each with a thread and a decoder, beyond which the process is restarted."""


def run(worker: Worker) -> None:
    """Capture one stream until it ends or a stop is requested.

    Whatever its source does concerns the stream only: it is down and is opened again, and a recording that breaks ends.
    """
    cv2.setNumThreads(1)  # motion detection works on small images, where threads only add waiting
    with Capture(worker) as capture:
        capture.serve()


class Capture(Closing):
    """Captures one stream: `serve` is the main loop. A context manager."""

    def __init__(self, worker: Worker, silence_timeout: SilenceTimeout | None = None) -> None:
        assert worker.target is not None
        self._worker = worker
        self._stream = worker.target
        self._source = worker.config.streams[worker.target].source
        self._silence_timeout = silence_timeout or SilenceTimeout()
        self._backoff = ReconnectBackoff(max_delay_s=getattr(self._source, "max_retry_s", MAX_DELAY_S))
        self._settling = Settling()
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = StreamLock(worker.runtime, self._stream)
        if worker.assignment.was_killed:
            self._lock.set_reading(False)  # from outside: not the recording's fault
        self._slot = LatestFrameSlot(self._wake) if self._source.pace == "live" else BlockingFrameSlot(self._wake)
        self._server = FrameServer(worker.runtime, self._stream, self._slot)
        self._events = EventClient(worker.runtime, f"capture-{self._stream}")
        self._connection: Connection | None = None
        self._hanging: list[Connection] = []
        self._epoch: int | None = None
        self._state: str | None = None
        self._first_frame_reported = False
        self._memory = PictureMemory()
        self._retry_at = 0.0
        self._ended_at: float | None = None
        self._end_reason: str | None = None
        self._stop_deadline: float | None = None
        self._poller = zmq.Poller()
        for readable in (self._server.socket, self._events.socket, self._wake_fd, worker.stop_fd):
            self._poller.register(readable, zmq.POLLIN)

    def close(self) -> None:
        self._slot.set_epoch(None)
        self._events.close()
        self._server.close()
        self._lock.close()
        if not any(connection.is_alive() for connection in (*self._hanging, self._connection) if connection):
            os.close(self._wake_fd)  # not while a hanging thread may still write to this descriptor

    def serve(self) -> None:
        """Run until the source has ended or a stop is requested, and all fetched frames are settled."""
        self._worker.report(ReportKind.READY)
        while not self._is_over():
            self._worker.heartbeat.beat()
            if (confinement := self._worker.confinement) is not None and confinement.is_runtime_replaced():
                raise ProcessBroken("the runtime folder was made again: only a new process may use it")
            self._sleep()
            self._server.handle()
            self._memory.follow(self._slot.interval, time.monotonic())
            self._events.receive()
            self._events.resend()
            if not self._worker.stopping and self._ended_at is None:
                self._check_connection()
        self._slot.drop_in_flight()
        state = "moved" if self._worker.retired else "stopped" if self._worker.stopping else "ended"
        self._publish_state(state, self._worker.retired or self._end_reason)
        self._events.flush(FLUSH_S)

    def _wake(self) -> None:
        os.eventfd_write(self._wake_fd, 1)

    def _sleep(self) -> None:
        now = time.monotonic()
        tick = CONNECTED_TICK_S if self._connection is not None and not self._worker.stopping else TICK_S
        until = min(now + tick, self._server.next_deadline or now + tick)
        for readable, _ in self._poller.poll(max(0, int((until - now) * 1000) + 1)):
            if readable == self._wake_fd:
                os.eventfd_read(self._wake_fd)

    def _is_over(self) -> bool:
        if self._worker.stopping:
            return self._has_stopped()
        if self._ended_at is None or self._slot.in_flight:
            return False
        if self._server.end_acknowledged:
            return True
        seen = self._server.infer_seen
        if seen is None and self._epoch is not None:  # else inference may still wait for the process before this one
            return True
        return time.monotonic() > max(seen or 0.0, self._ended_at) + END_S

    def _has_stopped(self) -> bool:
        """Return True when all frames are settled and the connection is closed, or after `STOP_S`."""
        if self._stop_deadline is None:
            self._stop_deadline = time.monotonic() + STOP_S
            self._poller.unregister(self._worker.stop_fd)  # stays readable: polling it would spin
            self._slot.set_epoch(None)
        finished = self._slot.in_flight == 0 and not (self._connection and self._connection.is_alive())
        return finished or time.monotonic() > self._stop_deadline

    def _check_connection(self) -> None:
        """Open, report as up, or abandon the connection."""
        now = time.monotonic()
        connection = self._connection
        if connection is None:
            if now >= self._retry_at:
                self._open()
            return
        if connection.first_frame is not None:
            self._on_up(connection, connection.first_frame, now)
        if self._server.no_room is not None and self._state != "down":
            self._settling.on_failure(now, is_reported=True)
            self._publish_state("down", self._server.no_room)
        if connection.outcome is not None:
            self._on_end(connection, connection.outcome)
            return
        waiting_since, timeout = connection.waiting_since, self._read_timeout(connection)
        if waiting_since is not None and now - waiting_since > timeout:
            self._abandon(connection, timeout)

    def _on_up(self, connection: Connection, first_frame: float, now: float) -> None:
        if not self._first_frame_reported:
            self._worker.report(ReportKind.FIRST_FRAME)
            self._first_frame_reported = True
        if self._state != "up" and self._server.no_room is None and self._settling.is_over(now):
            self._publish_state("up", connection.note)
        if now - first_frame > STABLE_S:
            self._backoff.reset()

    def _open(self) -> None:
        if (confinement := self._worker.confinement) is not None and (path := confinement.replaced()) is not None:
            raise ProcessBroken(f"{path} was replaced: only a new process may use it")
        if self._lock.deaths >= MAX_DEATHS:
            self._on_source_ended(f"{self._lock.deaths} processes died reading it: it is not read again", early=True)
            return
        self._epoch = self._lock.next_epoch()
        self._lock.set_reading(self._source.pace == "file")
        self._slot.set_epoch(self._epoch)
        stream = self._worker.config.streams[self._stream]
        detector = MotionDetector(stream.motion, stream.zones)
        self._connection = Connection(
            self._source, self._slot, self._epoch, self._silence_timeout, self._wake, detector
        )
        self._connection.start()

    def _read_timeout(self, connection: Connection) -> float:
        """Return the seconds that the connection may wait for its source: a little above the source's limits."""
        if self._source.pace == "file":
            return FILE_S
        if connection.first_frame is None:
            return OPEN_S + FIRST_FRAME_S
        return self._silence_timeout.seconds() + 1.0

    def _abandon(self, connection: Connection, timeout: float) -> None:
        self._hanging = [other for other in self._hanging if other.is_alive()] + [connection]
        if len(self._hanging) > MAX_HANGING:
            raise ProcessBroken(f"more than {MAX_HANGING} connections hang")
        self._on_end(connection, SourceLost(f"silent for {timeout:g} s"))

    def _on_end(self, connection: Connection, outcome: BaseException) -> None:
        self._connection = None
        if not isinstance(outcome, Exception):
            raise outcome
        is_file = self._source.pace == "file"
        if is_file:
            self._lock.set_reading(False)
        if isinstance(outcome, SourceEnded):
            self._on_source_ended(str(outcome) or None, early=isinstance(outcome, SourceIncomplete))
        elif is_file and connection.first_frame is not None:  # read again, it would break at the same place
            self._on_source_ended(reason_of(outcome, f"stream {self._stream}"), early=True)
        else:
            reason = reason_of(outcome, f"stream {self._stream}")
            if is_file:
                self._worker.report(ReportKind.UNREADABLE, reason)
            self._on_lost(connection, reason, isinstance(outcome, SourceRefused))

    def _on_source_ended(self, reason: str | None, early: bool) -> None:
        """Serve what is left, then end. `early`: a recording ended before the end that it states."""
        self._end_reason = reason
        if early and isinstance(self._source, File) and self._source.strict:
            self._worker.report(ReportKind.INCOMPLETE, reason)
        self._ended_at = time.monotonic()
        self._server.ended = True
        if self._source.pace == "live":
            self._slot.set_epoch(None)
        self._server.handle()

    def _on_lost(self, connection: Connection, reason: str, refused: bool) -> None:
        self._slot.set_epoch(None)
        now = time.monotonic()
        if connection.first_frame is not None:
            if connection.waiting_since is not None:
                self._silence_timeout.observe_timeout(now - connection.waiting_since)
            self._backoff.on_response(now)
        delay = self._backoff.next_delay(now, refused)
        self._retry_at = now + delay
        self._settling.on_failure(now, is_reported=self._state != "down")
        if self._state != "down":
            self._publish_state("down", reason, delay)

    def _publish_state(self, state: str, reason: str | None = None, retry_in: float | None = None) -> None:
        """Publish and log a new state, with the frame accounting."""
        self._state = state
        counts = self._slot.counts()
        level = logging.WARNING if state == "down" else logging.INFO
        log.log(level, "stream %s %s: %s, frames: %s", self._stream, state, reason or "no problem", counts)
        agent, lease = self._worker.config.name, self._worker.assignment.lease
        self._events.send(status_event(agent, self._stream, state, reason, retry_in, counts, self._epoch, lease), None)
