"""Push to an RTSP server that accepts RECORD, such as MediaMTX. The view sends its frames to a push process."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import zmq

from streamer.core.errors import WireError
from streamer.core.ipc import check_endpoint, drain, send_or_drop
from streamer.core.redact import Url, require_scheme
from streamer.video.outputs._base import EncodedFrame, H264Settings, OutputContext, Writer

if TYPE_CHECKING:
    from av.video.stream import VideoStream

MAX_QUEUED_FRAMES = 256
"""Frames that wait for a push process. Further ones are dropped; it then continues at the next key frame."""
MAX_MESSAGE_BYTES = 16 << 20
"""Bytes of one message: one H.264 frame and its header."""


class RtspPush(H264Settings):
    """Push to an RTSP server from a process of its own: a receiver that hangs affects no other output."""

    kind: Literal["rtsp_push"] = "rtsp_push"
    url: Annotated[Url, require_scheme("rtsp", "rtsps")]
    """`rtsp://` or `rtsps://`, with user and password if needed; these never appear in logs or events."""

    def writer(self, context: OutputContext) -> Writer:
        return PacketPublisher(context.runtime, self.label)


def packets_endpoint(runtime: Path, label: str) -> str:
    """Return the address on which a view publishes the frames of one push output."""
    return check_endpoint(f"ipc://{runtime}/packets-{label}.sock")


class PacketPublisher:
    """Publishes frames to the push process. Never blocks.

    A message is a JSON header and the H.264 data; a key frame starts with the codec parameters (SPS, PPS).
    """

    def __init__(self, runtime: Path, label: str) -> None:
        self._endpoint = packets_endpoint(runtime, label)
        self._socket: zmq.Socket[bytes] | None = None
        self._parameters = b""
        self._encoder_run = ""
        self._number = 0

    def open(self, template: VideoStream) -> None:
        self._parameters = bytes(template.codec_context.extradata or b"")
        self._encoder_run = secrets.token_hex(4)
        if self._socket is None:
            self._socket = zmq.Context.instance().socket(zmq.PUB)
            self._socket.set(zmq.LINGER, 0)
            self._socket.set(zmq.SNDHWM, MAX_QUEUED_FRAMES)
            self._socket.bind(self._endpoint)

    def write(self, encoded: EncodedFrame) -> None:
        assert self._socket is not None
        numbers = {"number": self._number, "pts": encoded.pts, "dts": encoded.dts}
        header = {"v": 1, "encode": self._encoder_run, "key": encoded.key, **numbers}
        self._number += 1
        data = self._parameters + encoded.data if encoded.key else encoded.data
        send_or_drop(self._socket, [json.dumps(header).encode(), data])

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


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
        self.encoder_run: str | None = None
        """Id of the encoder run that the last frame belongs to. Each run has its own clock and codec parameters."""
        self._expected: tuple[str, int] | None = None

    def receive(self) -> EncodedFrame | None:
        """Return the next frame that is decodable after the previous ones, or None. Raises WireError."""
        for parts in drain(self.socket):
            run, number, encoded = _decode(parts)
            if (run, number) != self._expected and not encoded.key:
                self._expected = None  # frames were lost: not decodable until the next key frame
                continue
            self.encoder_run, self._expected = run, (run, number + 1)
            return encoded
        return None

    def close(self) -> None:
        self.socket.close()


def _decode(parts: list[bytes]) -> tuple[str, int, EncodedFrame]:
    try:
        head, data = parts
        header = json.loads(head)
        if header["v"] != 1:
            raise ValueError("version")
        encoded = EncodedFrame(data, int(header["pts"]), int(header["dts"]), header["key"] is True)
        return str(header["encode"]), int(header["number"]), encoded
    except (ValueError, KeyError, TypeError) as error:
        raise WireError(f"invalid frame message: {error}") from None
