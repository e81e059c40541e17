"""The pusher of one RTSP output: takes the view's encoded pictures and sends them to a server that records or relays.

Writing to a receiver that is frozen blocks inside libav for ever, once the kernel's buffers are full, and nothing there
ends it. So this process does nothing else. It looks whether the receiver's side takes what is sent, and tells its
parent every second that it is not stuck: when it is, or no longer says so, it is killed and comes back.
"""

from __future__ import annotations

import fcntl
import io
import logging
import os
import socket
import stat
import struct
import termios
import time

import av
import zmq

from streamer.bus.delivery import EventClient
from streamer.errors import WireError
from streamer.events import output_event
from streamer.outputs import Coded, RtspPush
from streamer.outputs._mux import Muxer
from streamer.outputs.rtsp_push import PacketReader
from streamer.redact import redact
from streamer.retry import Backoff
from streamer.worker import Worker

log = logging.getLogger(__name__)

TICK_MS = 250
PROGRESS_S = 1.0
STILL_S = 4.0
_BYTES_ACKED = 120
"""Of struct tcp_info, where tcpi_bytes_acked stands."""
STEADY_S = 10.0
"""A connection that held for so long makes up for the failures before it."""


def run(worker: Worker) -> None:
    """Push until asked to stop."""
    (output,) = (one for one in worker.agent.outputs if isinstance(one, RtspPush) and one.label == worker.stream)
    with EventClient(worker.runtime, f"push-{output.label}") as events:
        push = Push(worker, output, events)
        worker.report("ready")
        push.live()
        while not worker.stopping:
            push.turn()
        push.close()
        push.reader.close()


class Flow:
    """The one TCP connection of this process, which libav made and hides: whether its other end takes what is sent."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._taken = -1
        self._since = time.monotonic()

    @classmethod
    def find(cls) -> Flow | None:
        """None when it does not go over TCP, or is closed already."""
        for name in os.listdir("/proc/self/fd"):
            try:
                if stat.S_ISSOCK(os.stat(int(name)).st_mode):
                    connection = socket.socket(fileno=os.dup(int(name)))
                    if connection.family in (socket.AF_INET, socket.AF_INET6):
                        return cls(connection)
                    connection.close()
            except OSError:
                continue  # closed since it was listed
        return None

    def stands_still(self, now: float) -> bool:
        """Something waits to be taken, and nothing was for `STILL_S`."""
        info = self._connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
        waiting = struct.unpack("i", fcntl.ioctl(self._connection, termios.TIOCOUTQ, b"\0" * 4))[0]
        (taken,) = struct.unpack_from("Q", info, _BYTES_ACKED)
        if not waiting or taken != self._taken:
            self._taken, self._since = taken, now
        return now - self._since > STILL_S


class Push:
    """One output, connected or not."""

    def __init__(self, worker: Worker, output: RtspPush, events: EventClient) -> None:
        self.worker, self.output, self.events = worker, output, events
        self.reader = PacketReader(worker.runtime, output.label)
        self.muxer: Muxer | None = None
        self.flow: Flow | None = None
        self.begin = 0
        self.connected = 0.0
        self.backoff = Backoff()
        self.state: str | None = None
        self.retry_at = 0.0
        self.progress_at = 0.0
        self.poller = zmq.Poller()
        for readable in (self.reader.socket, events.socket, worker.stop_fd):
            self.poller.register(readable, zmq.POLLIN)

    def turn(self) -> None:
        """Wait for pictures and hand them on."""
        self.poller.poll(TICK_MS)
        while not self.worker.stopping and (coded := self.next()) is not None:
            self.push(coded)
            self.live()
        self.live()
        self.events.receive()
        self.events.resend()

    def live(self) -> None:
        """Tell the parent that this process is not stuck."""
        now = time.monotonic()
        if now < self.progress_at:
            return
        self.progress_at = now + PROGRESS_S
        if self.flow is not None and self.flow.stands_still(now):
            self.worker.report("stuck", reason=f"the receiver has taken nothing for {STILL_S:g} s")
        self.worker.report("progress")

    def next(self) -> Coded | None:
        try:
            return self.reader.receive()
        except WireError as error:
            log.warning("dropped: %s", error)
            return None

    def push(self, coded: Coded) -> None:
        now = time.monotonic()
        try:
            if self.muxer is None:
                if not coded.key or now < self.retry_at:
                    return
                self.connect(coded)
            assert self.muxer is not None
            self.muxer.mux(coded, self.begin)
        except (av.FFmpegError, OSError) as error:
            self.lost(error)
            return
        if self.flow is None:
            self.flow = Flow.find()  # libav connects with the first picture
        if self.state != "up":
            log.info("connected")
            self.tell("up")
        if now - self.connected > STEADY_S:
            self.backoff.worked()

    def connect(self, coded: Coded) -> None:
        """A key picture begins with its parameters: all that the receiver is told beforehand is read from it."""
        with av.open(io.BytesIO(coded.data), format="h264") as header:
            self.muxer = Muxer(self.output.url.reveal(), "rtsp", {"rtsp_transport": "tcp"}, header.streams.video[0])
        self.begin, self.connected = coded.dts, time.monotonic()

    def lost(self, error: Exception) -> None:
        self.close()
        wait = self.backoff.failed(time.monotonic(), isinstance(error, av.HTTPUnauthorizedError))
        self.retry_at = time.monotonic() + wait
        if self.state != "down":
            # Not str(error): that holds the URL.
            reason = redact(getattr(error, "strerror", None) or type(error).__name__)
            log.warning("lost the receiver: %s", reason)
            self.tell("down", reason, wait)

    def tell(self, state: str, reason: str | None = None, retry_in: float | None = None) -> None:
        self.state = state
        self.events.send(output_event(self.worker.agent.agent, self.output.label, state, reason, retry_in), None)

    def close(self) -> None:
        if self.muxer is not None:
            muxer, self.muxer, self.flow = self.muxer, None, None
            try:
                muxer.close()
            except (av.FFmpegError, OSError) as error:
                log.debug("the receiver was gone before the goodbye: %s", type(error).__name__)
