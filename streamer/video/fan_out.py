"""Sends a view's images to its outputs: one H.264 encoder shared by all, and JPEG while a client is connected.

A failing output is reported, closed, and opened again after a delay. The other outputs are not affected.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

import cv2
import zmq

from streamer.bus.event_channel import EventClient
from streamer.core.backoff import ReconnectBackoff
from streamer.core.ipc import drain
from streamer.events.build import output_event
from streamer.types import Image
from streamer.video.encoder import Encoder
from streamer.video.outputs import EncodedFrame, H264Settings, OutputContext, OutputSettings, Writer
from streamer.video.outputs.mjpeg import jpeg_endpoint

log = logging.getLogger(__name__)

JPEG_OPTIONS = [cv2.IMWRITE_JPEG_QUALITY, 80]
MAX_QUEUED_JPEGS = 4
"""Images that wait for a slow subscriber; further ones are dropped."""


class FanOut:
    """All outputs of one view."""

    def __init__(
        self, agent: str, outputs: Iterable[OutputSettings], context: OutputContext, events: EventClient
    ) -> None:
        """`outputs`: the outputs of this view."""
        encoded = [output for output in outputs if isinstance(output, H264Settings)]
        self._codec = encoded[0].encoder if encoded else H264Settings.DEFAULT_ENCODER
        self._encoder: Encoder | None = None
        self._outputs = [
            _Output(agent, output.label, writer, events)
            for output in encoded
            if (writer := output.writer(context)) is not None
        ]
        self._jpegs = JpegPublisher(context)
        self.socket = self._jpegs.socket
        """To poll for reading; then call `has_viewers`."""

    def has_viewers(self) -> bool:
        """Return whether anything takes images now. H.264 outputs always do."""
        self._jpegs.receive()
        return bool(self._outputs) or self._jpegs.has_subscribers

    def write(self, image: Image, at: float, fps: float) -> None:
        """Send one image of any even size, shown at second `at`. A new size starts a new encoder and new outputs.

        Raises ConfigError when the encoder cannot be opened.
        """
        if self._outputs:
            self._write_h264(image, at, fps)
        self._jpegs.send(image)

    def close(self) -> None:
        for output in self._outputs:
            output.close()
        if self._encoder is not None:
            self._encoder.close()
        self._jpegs.close()

    def _write_h264(self, image: Image, at: float, fps: float) -> None:
        height, width = image.shape[:2]
        if self._encoder is None or self._encoder.size != (width, height):
            if self._encoder is not None:
                self._encoder.close()
            self._encoder = Encoder(self._codec, width, height, fps)
        for encoded in self._encoder.encode(image, at):
            for output in self._outputs:
                output.write(encoded, self._encoder)


class _Output:
    """One H.264 output and its state."""

    def __init__(self, agent: str, label: str, writer: Writer, events: EventClient) -> None:
        self._agent, self._label, self._writer, self._events = agent, label, writer, events
        self._backoff = ReconnectBackoff()
        self._encoder: Encoder | None = None
        """The encoder that the writer was opened for; None while it is closed."""
        self._is_down = False
        self._retry_at = 0.0

    def write(self, encoded: EncodedFrame, encoder: Encoder) -> None:
        try:
            if self._encoder is not encoder:
                if not encoded.key or time.monotonic() < self._retry_at:
                    return
                self._writer.open(encoder.template)
                self._encoder = encoder
            self._writer.write(encoded)
        except OSError as error:  # PyAV's disk errors are OSErrors too
            self._on_failure(error)
        else:
            self._on_success()

    def close(self) -> None:
        self._encoder = None
        try:
            self._writer.close()
        except OSError as error:
            log.warning("output %s: close failed: %s", self._label, error)

    def _on_failure(self, error: OSError) -> None:
        self.close()
        delay = self._backoff.next_delay(time.monotonic())
        self._retry_at = time.monotonic() + delay
        if not self._is_down:
            reason = error.strerror or str(error)
            log.error("output %s down: %s", self._label, reason)
            self._events.send(output_event(self._agent, self._label, "down", reason, delay), None)
        self._is_down = True

    def _on_success(self) -> None:
        if self._is_down:
            log.info("output %s up", self._label)
            self._events.send(output_event(self._agent, self._label, "up"), None)
            self._backoff.reset()
        self._is_down = False


class JpegPublisher:
    """Publishes JPEG images while there are subscribers. A slow subscriber misses images."""

    def __init__(self, context: OutputContext) -> None:
        self.has_subscribers = False
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.XPUB)
        """To poll for reading; then call `receive`."""
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.SNDHWM, MAX_QUEUED_JPEGS)
        self.socket.bind(jpeg_endpoint(context.runtime, context.view))

    def receive(self) -> None:
        """Update `has_subscribers`: XPUB reports the first subscription and the end of the last one."""
        for parts in drain(self.socket):
            self.has_subscribers = parts[0][:1] == b"\x01"

    def send(self, image: Image) -> None:
        if self.has_subscribers:
            _, data = cv2.imencode(".jpg", image, JPEG_OPTIONS)
            self.socket.send_multipart([b"jpeg", data.tobytes()])

    def close(self) -> None:
        self.socket.close()
