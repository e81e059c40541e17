"""The push process of one RTSP output: receives the view's encoded frames and sends them to an RTSP server.

Once the kernel's buffers are full, writing to a frozen receiver blocks inside libav without limit, so this process does
nothing else. The parent restarts it when the main thread's heartbeat stops, or when a second thread reports that the
receiver is stuck (`video/rtsp_watchdog.py`).
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
from streamer.processes.assignment import ReportKind
from streamer.processes.worker import Worker
from streamer.video.outputs import EncodedFrame, RtspPush
from streamer.video.outputs.muxer import Muxer
from streamer.video.outputs.rtsp_push import PacketSubscriber
from streamer.video.rtsp_watchdog import ReceiverWatchdog, probe_receiver

log = logging.getLogger(__name__)

TICK_MS = 250
"""Longest sleep of the main thread."""
WATCH_INTERVAL_S = 0.25
RTSP_PORT = 554
"""Default port of RTSP."""
STABLE_S = 10.0
"""A connection that lasted this long resets the backoff."""


def run(worker: Worker) -> None:
    """Push frames until a stop is requested."""
    pushes = [output for output in worker.config.outputs if isinstance(output, RtspPush)]
    (output,) = (output for output in pushes if output.label == worker.target)
    with EventClient(worker.runtime, f"push-{output.label}") as events:
        push = Push(worker, output, events)
        threading.Thread(target=push.watch, name="receiver", daemon=True).start()
        worker.report(ReportKind.READY)
        while not worker.stopping:
            push.poll_once()
        push.close()
        push.packets.close()


class Push:
    """One push output, connected or not."""

    def __init__(self, worker: Worker, output: RtspPush, events: EventClient) -> None:
        self.worker, self.output, self.events = worker, output, events
        self.packets = PacketSubscriber(worker.runtime, output.label)
        self.muxer: Muxer | None = None
        self.watchdog: ReceiverWatchdog | None = None
        self.encoder_run: str | None = None
        """Encoder run whose parameters the receiver has; see `PacketSubscriber`."""
        self.start_pts = 0
        self.connected_at = 0.0
        self.backoff = ReconnectBackoff()
        self.state: str | None = None
        self.retry_at = 0.0
        self.poller = zmq.Poller()
        for readable in (self.packets.socket, events.socket, worker.stop_fd):
            self.poller.register(readable, zmq.POLLIN)

    def poll_once(self) -> None:
        """Wait for frames and send them."""
        self.worker.heartbeat.beat()
        self.poller.poll(TICK_MS)
        while not self.worker.stopping and (encoded := self.receive()) is not None:
            self.worker.heartbeat.beat()
            self.push(encoded)
        self.events.receive()
        self.events.resend()

    def watch(self) -> None:
        """Report a stuck receiver to the parent. Runs in its own thread: the main one may be blocked in libav."""
        while True:
            time.sleep(WATCH_INTERVAL_S)
            watchdog = self.watchdog
            if watchdog is not None and (reason := watchdog.stuck_reason(time.monotonic())) is not None:
                self.worker.report(ReportKind.STUCK, reason)

    def receive(self) -> EncodedFrame | None:
        try:
            return self.packets.receive()
        except WireError as error:
            log.warning("frame dropped: %s", error)
            return None

    def push(self, encoded: EncodedFrame) -> None:
        now = time.monotonic()
        try:
            if encoded.key and self.packets.encoder_run != self.encoder_run:
                self.close()  # a new encoder, perhaps another frame size: start a new session
            if self.muxer is None:
                if not encoded.key or now < self.retry_at:
                    return
                self.connect(encoded)
            assert self.muxer is not None
            self.muxer.mux(encoded, self.start_pts)
            if self.watchdog is None:
                self.watchdog = ReceiverWatchdog()  # libav connects with the first frame
            self.watchdog.send_request(now)
        except (av.FFmpegError, OSError) as error:
            self.on_failure(error)
            return
        if self.state != "up":
            log.info("output %s up", self.output.label)
            self.publish_state("up")
        if now - self.connected_at > STABLE_S:
            self.backoff.reset()

    def connect(self, encoded: EncodedFrame) -> None:
        """Open a session. `encoded` is a key frame; the session's parameters are read from its SPS and PPS."""
        address = urlsplit(self.output.url.reveal())
        if address.scheme == "rtsp":
            probe_receiver(address.hostname or "", address.port or RTSP_PORT)
            self.worker.heartbeat.beat()
        with av.open(io.BytesIO(encoded.data), format="h264") as header:
            self.muxer = Muxer(self.output.url.reveal(), "rtsp", {"rtsp_transport": "tcp"}, header.streams.video[0])
        self.encoder_run, self.start_pts = self.packets.encoder_run, encoded.dts
        self.connected_at = time.monotonic()

    def on_failure(self, error: Exception) -> None:
        self.close()
        delay = self.backoff.next_delay(time.monotonic(), isinstance(error, av.HTTPUnauthorizedError))
        self.retry_at = time.monotonic() + delay
        if self.state != "down":
            # Not str(error), which contains the URL.
            reason = getattr(error, "strerror", None) or type(error).__name__
            log.warning("output %s down: %s", self.output.label, reason)
            self.publish_state("down", reason, delay)

    def publish_state(self, state: str, reason: str | None = None, retry_in: float | None = None) -> None:
        self.state = state
        self.events.send(output_event(self.worker.config.name, self.output.label, state, reason, retry_in), None)

    def close(self) -> None:
        if self.muxer is not None:
            muxer, self.muxer = self.muxer, None
            try:
                muxer.close()
            except (av.FFmpegError, OSError) as error:
                log.debug("session end failed: %s", type(error).__name__)
            self.watchdog = None
