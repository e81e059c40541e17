"""Where a view's pictures go: one H.264 encode shared by all that take it, and JPEG while somebody watches.

An output that fails says so, is left alone for a while and opened again; the others never notice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

import cv2
import zmq

from streamer.bus.event_channel import EventClient
from streamer.core.backoff import ReconnectBackoff
from streamer.events.build import output_event
from streamer.types import Image
from streamer.video.encoder import Encoder
from streamer.video.outputs import EncodedFrame, H264Settings, OutputContext, OutputSettings, Writer
from streamer.video.outputs.mjpeg import jpeg_endpoint

log = logging.getLogger(__name__)

JPEG = [cv2.IMWRITE_JPEG_QUALITY, 80]
MAX_QUEUED_JPEGS = 4


class FanOut:
    """The outputs of one view that take H.264."""

    def __init__(
        self, agent: str, outputs: Iterable[OutputSettings], context: OutputContext, events: EventClient
    ) -> None:
        """`outputs`: of this view; those that take no H.264 are ignored."""
        encoded = [output for output in outputs if isinstance(output, H264Settings)]
        self._codec = encoded[0].encoder if encoded else H264Settings.DEFAULT_ENCODER
        self._encoder: Encoder | None = None
        self._outputs = [
            _Output(agent, output.label, writer, events)
            for output in encoded
            if (writer := output.writer(context)) is not None
        ]

    @property
    def any(self) -> bool:
        """Somebody takes pictures, always."""
        return bool(self._outputs)

    def write(self, image: Image, at: float, rate: float) -> None:
        """One picture of second `at`, of any even size: with another one a new encode begins, and every output with it.

        Raises ConfigError when it cannot be encoded.
        """
        if not self._outputs:
            return
        height, width = image.shape[:2]
        if self._encoder is None or self._encoder.size != (width, height):
            if self._encoder is not None:
                self._encoder.close()
            self._encoder = Encoder(self._codec, width, height, rate)
        for coded in self._encoder.encode(image, at):
            for branch in self._outputs:
                branch.write(coded, self._encoder)

    def close(self) -> None:
        for branch in self._outputs:
            branch.close()
        if self._encoder is not None:
            self._encoder.close()


class _Output:
    """One output, and what became of it."""

    def __init__(self, agent: str, label: str, writer: Writer, events: EventClient) -> None:
        self._agent, self._label, self._writer, self._events = agent, label, writer, events
        self._backoff = ReconnectBackoff()
        self._encoder: Encoder | None = None
        """Whose pictures it was opened for."""
        self._failed = False
        self._retry_at = 0.0

    def write(self, coded: EncodedFrame, encoder: Encoder) -> None:
        try:
            if self._encoder is not encoder:
                if not coded.key or time.monotonic() < self._retry_at:
                    return
                self._writer.open(encoder.template)
                self._encoder = encoder
            self._writer.write(coded)
        except OSError as error:  # PyAV's errors from the disk are OSErrors too
            self._fail(error)
        else:
            self._works()

    def close(self) -> None:
        self._encoder = None
        try:
            self._writer.close()
        except OSError as error:
            log.warning("output %s did not end well: %s", self._label, error)

    def _fail(self, error: OSError) -> None:
        self.close()
        wait = self._backoff.next_delay(time.monotonic())
        self._retry_at = time.monotonic() + wait
        if not self._failed:
            reason = error.strerror or str(error)
            log.error("output %s failed: %s", self._label, reason)
            self._events.send(output_event(self._agent, self._label, "down", reason, wait), None)
        self._failed = True

    def _works(self) -> None:
        if self._failed:
            log.info("output %s works again", self._label)
            self._events.send(output_event(self._agent, self._label, "up"), None)
            self._backoff.reset()
        self._failed = False


class JpegPublisher:
    """JPEG pictures for whoever subscribes; a subscriber that is slow misses some."""

    def __init__(self, context: OutputContext) -> None:
        self.watched = False
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.XPUB)
        """To poll for reading; then call `listen`."""
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.SNDHWM, MAX_QUEUED_JPEGS)
        self.socket.bind(jpeg_endpoint(context.runtime, context.view))

    def listen(self) -> None:
        """Whether there are subscribers: XPUB tells of the first and of the end of the last."""
        while self.socket.poll(0):
            self.watched = self.socket.recv()[:1] == b"\x01"

    def send(self, image: Image) -> None:
        if self.watched:
            _, data = cv2.imencode(".jpg", image, JPEG)
            self.socket.send_multipart([b"jpeg", data.tobytes()])

    def close(self) -> None:
        self.socket.close()
