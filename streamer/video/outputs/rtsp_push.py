"""Push to an RTSP server that accepts RECORD, such as MediaMTX. The view sends its frames to a push process."""

from __future__ import annotations

import logging
import secrets
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

import zmq
from pydantic import model_validator

from streamer.core.errors import WireError
from streamer.core.ipc import Listener, check_endpoint, receive_valid, send_or_drop
from streamer.core.logs import RareLog
from streamer.core.redact import Url, require_scheme
from streamer.core.tls import Tls, require_tls_scheme
from streamer.video.outputs.base import EncodedFrame, H264Settings, Writer

if TYPE_CHECKING:
    from av.video.stream import VideoStream

log = logging.getLogger(__name__)

MAX_QUEUED_FRAMES = 256
"""Frames that wait for a push process. Further ones are dropped; it then continues at the next key frame."""
MAX_MESSAGE_BYTES = 16 << 20
"""Bytes of one message: one H.264 frame and its header."""
_HEADER = struct.Struct("QQQ?")
"""Encoder run, number of the frame, its time, and whether it is a key frame."""


class RtspPush(H264Settings):
    """Push to an RTSP server from a process of its own: a receiver that hangs affects no other output."""

    kind: Literal["rtsp_push"] = "rtsp_push"
    url: Annotated[Url, require_scheme("rtsp", "rtsps")]
    """`rtsp://` or `rtsps://`, with user and password if needed; these never appear in logs or events."""
    tls: Tls = Tls()
    """Checks of the certificate of an `rtsps://` server."""

    @model_validator(mode="after")
    def _tls_is_used(self) -> Self:
        require_tls_scheme(self.tls, self.url.scheme)
        return self

    def check(self) -> None:
        super().check()
        self.tls.tls_context()

    def writer(self, runtime: Path) -> Writer:
        return PacketPublisher(runtime, self.label)


def packets_endpoint(runtime: Path, label: str) -> str:
    """Return the address on which a view publishes the frames of one push output."""
    return check_endpoint(f"ipc://{runtime}/packets-{label}.sock")


class PacketPublisher:
    """Publishes frames to the push process. Never blocks.

    A message is a header and the H.264 data; a key frame starts with the codec parameters (SPS, PPS).
    """

    def __init__(self, runtime: Path, label: str) -> None:
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUB)
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.SNDHWM, MAX_QUEUED_FRAMES)
        self._listener = Listener(self._socket, packets_endpoint(runtime, label))
        self._number = 0

    def open(self, template: VideoStream) -> None:
        self._parameters = bytes(template.codec_context.extradata or b"")
        self._encoder_run = secrets.randbits(63)

    def write(self, encoded: EncodedFrame) -> None:
        self._listener.check()
        header = _HEADER.pack(self._encoder_run, self._number, encoded.pts, encoded.key)
        self._number += 1
        send_or_drop(self._socket, [header, self._parameters + encoded.data if encoded.key else encoded.data])

    def close(self) -> None:
        self._socket.close()
        self._listener.close()


class PacketSubscriber:
    """Receives frames in the push process."""

    def __init__(self, runtime: Path, label: str) -> None:
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
        """To poll for reading; then call `receive`."""
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.RCVHWM, MAX_QUEUED_FRAMES)
        self.socket.set(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        self.socket.set(zmq.SUBSCRIBE, b"")
        self.socket.connect(packets_endpoint(runtime, label))
        self.encoder_run: int | None = None
        """Id of the encoder run that the last frame belongs to. Each run has its own clock and codec parameters."""
        self._expected: tuple[int, int] | None = None
        self._invalid_messages = RareLog(log, "invalid video message %d dropped: %s")

    def receive(self) -> EncodedFrame | None:
        """Return the next frame that is decodable after the previous ones, or None."""
        for run, number, pts, key, data in receive_valid(self.socket, _decode, self._invalid_messages):
            if (run, number) == self._expected or key:
                self.encoder_run, self._expected = run, (run, number + 1)
                return EncodedFrame(data, pts, key)
            self._expected = None  # frames were lost: not decodable until the next key frame
        return None

    def close(self) -> None:
        self.socket.close()


def _decode(parts: list[bytes]) -> tuple[int, int, int, bool, bytes]:
    """Return encoder run, number, time, whether it is a key frame, and the data. Raises WireError."""
    if len(parts) != 2 or len(parts[0]) != _HEADER.size:
        raise WireError("not a header and a frame")
    run, number, pts, key = _HEADER.unpack(parts[0])
    return run, number, pts, key, parts[1]
