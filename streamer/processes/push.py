"""The push process of one RTSP output: receives the view's encoded frames and sends them to an RTSP server.

libav makes RTP packets of the frames; the RTSP session is our own, so no call waits longer than a few seconds for the
receiver. A receiver that takes the packets and does nothing with them is noticed by `video/rtsp_watchdog.py`.
"""

from __future__ import annotations

import io
import logging
import time

import av
import zmq

from streamer.bus.event_channel import EventClient
from streamer.core.errors import SourceLost
from streamer.core.reasons import reason_of
from streamer.core.rtsp.publisher import MAX_PACKET_BYTES, RtspPublisher
from streamer.core.rtsp.session import open_session
from streamer.processes.assignment import ReportKind
from streamer.processes.worker import Worker
from streamer.video.output_state import OutputState
from streamer.video.outputs.base import EncodedFrame
from streamer.video.outputs.muxer import Muxer
from streamer.video.outputs.rtsp_push import PacketSubscriber, RtspPush
from streamer.video.rtsp_watchdog import ReceiverWatchdog

log = logging.getLogger(__name__)

TICK_MS = 250
"""Longest sleep of the main thread."""
ANSWER_S = 3.0
"""Longest wait for the receiver's answer to a request."""


def run(worker: Worker) -> None:
    """Push frames until a stop is requested."""
    pushes = [output for output in worker.config.outputs if isinstance(output, RtspPush)]
    (output,) = (output for output in pushes if output.label == worker.target)
    with EventClient(worker.runtime, f"push-{output.label}") as events:
        push = Push(worker, output, events)
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
        self.publisher: RtspPublisher | None = None
        self.watchdog = ReceiverWatchdog()
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
        self.check_receiver()
        self.events.receive()
        self.events.resend()

    def push(self, encoded: EncodedFrame) -> None:
        try:
            if encoded.key and self.packets.encoder_run != self.encoder_run:
                self.close()  # a new encoder, perhaps another frame size: start a new session
            if not self.muxer.is_open:
                if not encoded.key or not self.state.may_open:
                    return
                self.connect(encoded)
            self.muxer.write(encoded)
        except (av.FFmpegError, OSError, SourceLost) as error:
            self.on_failure(error)
        else:
            self.state.on_success()

    def check_receiver(self) -> None:
        """Close the session if the receiver has closed it, or does not work."""
        try:
            if self.publisher is not None:
                self.publisher.receive()
                self.watchdog(self.publisher.client, time.monotonic())
        except SourceLost as error:
            self.on_failure(error)

    def on_failure(self, error: Exception) -> None:
        if self.publisher is not None:
            self.publisher.client.close()  # so that nothing waits for the receiver again
        self.close()
        self.state.on_failure(error)

    def connect(self, encoded: EncodedFrame) -> None:
        """Open a session. `encoded` is a key frame; the session's parameters are read from its SPS and PPS."""
        session = open_session(self.output.url.reveal(), self.output.tls, ANSWER_S, describe=False)
        self.worker.heartbeat.beat()
        self.publisher, self.watchdog = RtspPublisher(session, encoded.data), ReceiverWatchdog()
        with av.open(io.BytesIO(encoded.data), format="h264") as header:
            options = {"packetsize": str(MAX_PACKET_BYTES)}
            self.muxer.start(self.publisher, "rtp", options, header.streams.video[0], encoded.pts)
        self.encoder_run = self.packets.encoder_run

    def close(self) -> None:
        try:
            self.muxer.close()
        except (av.FFmpegError, OSError, SourceLost) as error:
            log.debug("session end failed: %s", reason_of(error, f"output {self.output.label}"))
        if self.publisher is not None:
            self.publisher.close()
            self.publisher = None
