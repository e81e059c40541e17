"""The pusher of one RTSP output: takes the view's encoded pictures and sends them to a server that records or relays.

Writing to a receiver that is frozen blocks inside libav for ever, once the kernel's buffers are full, and nothing there
ends it. So this process does nothing else. A second thread looks whether the receiver still works (`flow.py`) and tells
the parent when it does not; the first one gives signs of life. In both cases the process is replaced.
"""

from __future__ import annotations

import io
import logging
import threading
import time
from urllib.parse import urlsplit

import av
import zmq

from streamer.bus.event_channel import EventClient
from streamer.core.backoff import ReconnectBackoff
from streamer.core.errors import WireError
from streamer.events.build import output_event
from streamer.processes.worker import Worker
from streamer.video.outputs import EncodedFrame, RtspPush
from streamer.video.outputs.muxer import Muxer
from streamer.video.outputs.rtsp_push import PacketReader
from streamer.video.rtsp_watchdog import ReceiverWatchdog, probe_receiver

log = logging.getLogger(__name__)

TICK_MS = 250
WATCH_S = 0.25
RTSP_PORT = 554
STEADY_S = 10.0
"""A connection that held for so long makes up for the failures before it."""


def run(worker: Worker) -> None:
    """Push until asked to stop."""
    (output,) = (one for one in worker.config.outputs if isinstance(one, RtspPush) and one.label == worker.stream)
    with EventClient(worker.runtime, f"push-{output.label}") as events:
        push = Push(worker, output, events)
        threading.Thread(target=push.watch, name="receiver", daemon=True).start()
        worker.report("ready")
        while not worker.stopping:
            push.poll_once()
        push.close()
        push.reader.close()


class Push:
    """One output, connected or not."""

    def __init__(self, worker: Worker, output: RtspPush, events: EventClient) -> None:
        self.worker, self.output, self.events = worker, output, events
        self.reader = PacketReader(worker.runtime, output.label)
        self.muxer: Muxer | None = None
        self.watchdog: ReceiverWatchdog | None = None
        self.encode: str | None = None
        """Which of the view's encodes the receiver was told of."""
        self.begin = 0
        self.connected = 0.0
        self.backoff = ReconnectBackoff()
        self.state: str | None = None
        self.retry_at = 0.0
        self.poller = zmq.Poller()
        for readable in (self.reader.socket, events.socket, worker.stop_fd):
            self.poller.register(readable, zmq.POLLIN)

    def poll_once(self) -> None:
        """Wait for pictures and hand them on."""
        self.worker.heartbeat.beat()
        self.poller.poll(TICK_MS)
        while not self.worker.stopping and (coded := self.next()) is not None:
            self.worker.heartbeat.beat()
            self.push(coded)
        self.events.receive()
        self.events.resend()

    def watch(self) -> None:
        """Tell the parent when the receiver is stuck; in a thread of its own, for the other one may be too."""
        while True:
            time.sleep(WATCH_S)
            flow = self.watchdog
            if flow is not None and (reason := flow.stuck(time.monotonic())) is not None:
                self.worker.report("stuck", reason=reason)

    def next(self) -> EncodedFrame | None:
        try:
            return self.reader.receive()
        except WireError as error:
            log.warning("dropped: %s", error)
            return None

    def push(self, coded: EncodedFrame) -> None:
        now = time.monotonic()
        try:
            if coded.key and self.reader.encode != self.encode:
                self.close()  # the view began anew, perhaps in another size: so does the session
            if self.muxer is None:
                if not coded.key or now < self.retry_at:
                    return
                self.connect(coded)
            assert self.muxer is not None
            self.muxer.mux(coded, self.begin)
            if self.watchdog is None:
                self.watchdog = ReceiverWatchdog()  # libav has connected with the first picture
            self.watchdog.ask(now)
        except (av.FFmpegError, OSError) as error:
            self.lost(error)
            return
        if self.state != "up":
            log.info("connected")
            self.publish_state("up")
        if now - self.connected > STEADY_S:
            self.backoff.reset()

    def connect(self, coded: EncodedFrame) -> None:
        """A key picture begins with its parameters: all that the receiver is told beforehand is read from it."""
        address = urlsplit(self.output.url.reveal())
        if address.scheme == "rtsp":
            probe_receiver(address.hostname or "", address.port or RTSP_PORT)
            self.worker.heartbeat.beat()
        with av.open(io.BytesIO(coded.data), format="h264") as header:
            self.muxer = Muxer(self.output.url.reveal(), "rtsp", {"rtsp_transport": "tcp"}, header.streams.video[0])
        self.encode, self.begin, self.connected = self.reader.encode, coded.dts, time.monotonic()

    def lost(self, error: Exception) -> None:
        self.close()
        wait = self.backoff.next_delay(time.monotonic(), isinstance(error, av.HTTPUnauthorizedError))
        self.retry_at = time.monotonic() + wait
        if self.state != "down":
            # Not str(error): that holds the URL.
            reason = getattr(error, "strerror", None) or type(error).__name__
            log.warning("lost the receiver: %s", reason)
            self.publish_state("down", reason, wait)

    def publish_state(self, state: str, reason: str | None = None, retry_in: float | None = None) -> None:
        self.state = state
        self.events.send(output_event(self.worker.config.name, self.output.label, state, reason, retry_in), None)

    def close(self) -> None:
        if self.muxer is not None:
            muxer, self.muxer = self.muxer, None
            try:
                muxer.close()
            except (av.FFmpegError, OSError) as error:
                log.debug("the receiver was gone before the goodbye: %s", type(error).__name__)
            self.watchdog = None
