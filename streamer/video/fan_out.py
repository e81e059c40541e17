"""Sends a view's images to its outputs: one H.264 encoder shared by all, and JPEG while a client is connected.

A failing output is reported, closed, and opened again after a delay. The other outputs are not affected. An encoder
that fails, for example because the picture is too large for it, is a failure of all H.264 outputs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import av
import cv2
import zmq

from streamer.bus.event_channel import EventClient
from streamer.core.backoff import Backoff
from streamer.core.errors import OutputError
from streamer.core.ipc import Listener, drain
from streamer.core.logs import RareLog
from streamer.core.reasons import reason_of
from streamer.types import Image
from streamer.video.encoder import Encoder
from streamer.video.output_state import OutputState
from streamer.video.outputs.base import EncodedFrame, H264Settings, OutputSettings, ViewId, Writer
from streamer.video.outputs.mjpeg import jpeg_endpoint

log = logging.getLogger(__name__)

JPEG_OPTIONS = [cv2.IMWRITE_JPEG_QUALITY, 80]
SIZE_CHANGE_S = 1.0, 30.0
"""Seconds between two changes of the picture size, at first and at most: each change starts a new file or playlist."""
STABLE_S = 10.0
"""A size that lasts this long resets the seconds between two changes."""
MAX_QUEUED_JPEGS = 4
"""Images that wait for a slow subscriber; further ones are dropped."""


class FanOut:
    """All outputs of one view."""

    def __init__(self, agent: str, outputs: Sequence[OutputSettings], runtime: Path, events: EventClient) -> None:
        """`outputs`: the outputs of this view, at least one."""
        encoded = [output for output in outputs if isinstance(output, H264Settings)]
        self._codec = encoded[0].encoder if encoded else H264Settings.DEFAULT_ENCODER
        self._encoder: Encoder | None = None
        self._size_backoff = Backoff(*SIZE_CHANGE_S)
        self._size_changed_at = self._may_change_size_at = 0.0
        self._left_out = RareLog(log, "pictures left out because their size changes too often: %d")
        self._outputs = [
            _Output(output.label, writer, OutputState(agent, output.label, events, is_up=True))
            for output in encoded
            if (writer := output.writer(runtime)) is not None
        ]
        self._jpegs = JpegPublisher(runtime, outputs[0].view)
        self.socket = self._jpegs.socket
        """To poll for reading; then call `has_viewers`."""

    def has_viewers(self) -> bool:
        """Return whether anything takes images now. H.264 outputs always do."""
        self._jpegs.receive()
        return bool(self._outputs) or self._jpegs.has_subscribers

    def write(self, image: Image, at: float, fps: float) -> None:
        """Send one image of any even size, shown at second `at`. A new size starts a new encoder and new outputs."""
        if self._outputs:
            self._write_h264(image, at, fps)
        self._jpegs.send(image)

    def close(self) -> None:
        for output in self._outputs:
            output.close()
        self._close_encoder()
        self._jpegs.close()

    def _write_h264(self, image: Image, at: float, fps: float) -> None:
        if not any(output.takes_frames for output in self._outputs):
            return
        if not self._takes_size(image):
            self._left_out.add()
            return
        try:
            encoder = self._encoder_for(image, fps)
            frames = encoder.encode(image, at)
        except OutputError as error:
            self._close_encoder()
            for output in self._outputs:
                output.fail(error)
            return
        for encoded in frames:
            for output in self._outputs:
                output.write(encoded, encoder)

    def _takes_size(self, image: Image) -> bool:
        """Return whether an image of this size may be encoded now. Each change makes the next one wait longer."""
        height, width = image.shape[:2]
        if self._encoder is None or self._encoder.size == (width, height):
            return True
        now = time.monotonic()
        if now < self._may_change_size_at:
            return False
        if now - self._size_changed_at > STABLE_S:
            self._size_backoff.reset()
        self._size_changed_at, self._may_change_size_at = now, now + self._size_backoff.next_delay()
        return True

    def _encoder_for(self, image: Image, fps: float) -> Encoder:
        """Return the encoder of the image's size. Raises OutputError."""
        height, width = image.shape[:2]
        if self._encoder is None or self._encoder.size != (width, height):
            self._close_encoder()
            self._encoder = Encoder(self._codec, width, height, fps)
        return self._encoder

    def _close_encoder(self) -> None:
        if self._encoder is not None:
            self._encoder.close()
            self._encoder = None


class _Output:
    """One H.264 output."""

    def __init__(self, label: str, writer: Writer, state: OutputState) -> None:
        self._label, self._writer, self._state = label, writer, state
        self._encoder: Encoder | None = None
        """The encoder that the writer was opened for; None while it is closed."""

    @property
    def takes_frames(self) -> bool:
        """True while it is open, or closed and may be opened."""
        return self._encoder is not None or self._state.may_open

    def write(self, encoded: EncodedFrame, encoder: Encoder) -> None:
        try:
            if self._encoder is not encoder:
                if not encoded.key or not self._state.may_open:
                    return
                self._writer.open(encoder.template)
                self._encoder = encoder
            self._writer.write(encoded)
        except (av.FFmpegError, OSError, ValueError) as error:
            self.fail(error)
        else:
            self._state.on_success()

    def fail(self, error: Exception) -> None:
        """Close it until its delay is over, and report it as down."""
        self.close()
        self._state.on_failure(error)

    def close(self) -> None:
        self._encoder = None
        try:
            self._writer.close()
        except (av.FFmpegError, OSError) as error:
            log.warning("output %s: close failed: %s", self._label, reason_of(error, f"output {self._label}"))


class JpegPublisher:
    """Publishes JPEG images while there are subscribers. A slow subscriber misses images."""

    def __init__(self, runtime: Path, view: ViewId) -> None:
        self.has_subscribers = False
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.XPUB)
        """To poll for reading; then call `receive`."""
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.SNDHWM, MAX_QUEUED_JPEGS)
        self._listener = Listener(self.socket, jpeg_endpoint(runtime, view))

    def receive(self) -> None:
        """Update `has_subscribers`: XPUB reports the first subscription and the end of the last one."""
        self._listener.check()
        for parts in drain(self.socket):
            if parts[0][:1] in (b"\0", b"\1"):  # other messages are not from a subscription
                self.has_subscribers = parts[0][:1] == b"\1"

    def send(self, image: Image) -> None:
        if self.has_subscribers:
            _, data = cv2.imencode(".jpg", image, JPEG_OPTIONS)
            self.socket.send_multipart([b"jpeg", data.tobytes()])

    def close(self) -> None:
        self.socket.close()
        self._listener.close()
