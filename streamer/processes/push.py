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
from streamer.core.reasons import reason_of
from streamer.processes.assignment import ReportKind
from streamer.processes.worker import Worker
from streamer.video.output_state import OutputState
from streamer.video.outputs.base import EncodedFrame
from streamer.video.outputs.muxer import Muxer
from streamer.video.outputs.rtsp_push import PacketSubscriber, RtspPush
from streamer.video.rtsp_watchdog import ReceiverWatchdog, probe_receiver

log = logging.getLogger(__name__)

TICK_MS = 250
"""Longest sleep of the main thread."""
WATCH_INTERVAL_S = 0.25
RTSP_PORT = 554
"""Default port of RTSP."""


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
        self.muxer = Muxer()
        self.watchdog: ReceiverWatchdog | None = None
        self.encoder_run: int | None = None
        """Encoder run whose parameters the receiver has; see `PacketSubscriber`."""
        self.state = OutputState(worker.config.name, output.label, events, is_up=None)
        self.poller = zmq.Poller()
        for readable in (self.packets.socket, events.socket, worker.stop_fd):
            self.poller.register(readable, zmq.POLLIN)

    def poll_once(self) -> None:
        """Wait for frames and send them."""
        self.worker.heartbeat.beat()
        self.poller.poll(TICK_MS)
        while not self.worker.stopping and (encoded := self.packets.receive()) is not None:
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

    def push(self, encoded: EncodedFrame) -> None:
        try:
            if encoded.key and self.packets.encoder_run != self.encoder_run:
                self.close()  # a new encoder, perhaps another frame size: start a new session
            if not self.muxer.is_open:
                if not encoded.key or not self.state.may_open:
                    return
                self.connect(encoded)
            self.muxer.write(encoded)
            if self.watchdog is None:
                self.watchdog = ReceiverWatchdog()  # libav connects with the first frame
            self.watchdog.send_request(time.monotonic())
        except (av.FFmpegError, OSError) as error:
            self.close()
            self.state.on_failure(error)
        else:
            self.state.on_success()

    def connect(self, encoded: EncodedFrame) -> None:
        """Open a session. `encoded` is a key frame; the session's parameters are read from its SPS and PPS."""
        url = self.output.url.reveal()
        address = urlsplit(url)
        if address.scheme == "rtsp":
            probe_receiver(address.hostname or "", address.port or RTSP_PORT)
            self.worker.heartbeat.beat()
        with av.open(io.BytesIO(encoded.data), format="h264") as header:
            self.muxer.start(url, "rtsp", {"rtsp_transport": "tcp"}, header.streams.video[0], encoded.pts)
        self.encoder_run = self.packets.encoder_run

    def close(self) -> None:
        try:
            self.muxer.close()
        except (av.FFmpegError, OSError) as error:
            log.debug("session end failed: %s", reason_of(error, f"output {self.output.label}"))
        self.watchdog = None
