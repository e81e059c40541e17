"""RTSP to any server that accepts RECORD (MediaMTX, a recorder); the view hands its pictures to a pushing process."""

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

AHEAD = 256
"""Pictures that may wait for a pusher; a frozen one misses the newest, and goes on with the next key picture."""
MAX_MESSAGE_BYTES = 16 << 20


class RtspPush(H264Settings):
    """Pushes to an RTSP server, from a process of its own: a receiver that hangs harms nobody else."""

    kind: Literal["rtsp_push"] = "rtsp_push"
    url: Annotated[Url, require_scheme("rtsp", "rtsps")]
    """`rtsp://` or `rtsps://`; user and password stand in it and never reach a log or event."""

    def writer(self, context: OutputContext) -> Writer:
        return PacketFeed(context.runtime, self.label)


def packets_endpoint(runtime: Path, label: str) -> str:
    return check_endpoint(f"ipc://{runtime}/packets-{label}.sock")


class PacketFeed:
    """The view's side. Never blocks. Messages: a JSON header, the picture; a key picture begins with its parameters."""

    def __init__(self, runtime: Path, label: str) -> None:
        self._endpoint = packets_endpoint(runtime, label)
        self._socket: zmq.Socket[bytes] | None = None
        self._parameters = b""
        self._encode = ""
        self._number = 0

    def open(self, template: VideoStream) -> None:
        self._parameters = bytes(template.codec_context.extradata or b"")
        self._encode = secrets.token_hex(4)
        if self._socket is None:
            self._socket = zmq.Context.instance().socket(zmq.PUB)
            self._socket.set(zmq.LINGER, 0)
            self._socket.set(zmq.SNDHWM, AHEAD)
            self._socket.bind(self._endpoint)

    def write(self, coded: EncodedFrame) -> None:
        assert self._socket is not None
        numbers = {"number": self._number, "pts": coded.pts, "dts": coded.dts}
        header = {"v": 1, "encode": self._encode, "key": coded.key, **numbers}
        self._number += 1
        data = self._parameters + coded.data if coded.key else coded.data
        send_or_drop(self._socket, [json.dumps(header).encode(), data])

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class PacketReader:
    """The pusher's side."""

    def __init__(self, runtime: Path, label: str) -> None:
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
        """To poll for reading; then call `receive`."""
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.RCVHWM, AHEAD)
        self.socket.set(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        self.socket.set(zmq.SUBSCRIBE, b"")
        self.socket.connect(packets_endpoint(runtime, label))
        self.encode: str | None = None
        """Names the encode that the last picture is part of: another one has a clock and parameters of its own."""
        self._expected: tuple[str, int] | None = None

    def receive(self) -> EncodedFrame | None:
        """The next picture that can be decoded after those before it; None when there is none now. Raises WireError."""
        for parts in drain(self.socket):
            encode, number, coded = _decode(parts)
            if (encode, number) != self._expected and not coded.key:
                self._expected = None  # some were lost: nothing can be shown before the next key picture
                continue
            self.encode, self._expected = encode, (encode, number + 1)
            return coded
        return None

    def close(self) -> None:
        self.socket.close()


def _decode(parts: list[bytes]) -> tuple[str, int, EncodedFrame]:
    try:
        head, data = parts
        header = json.loads(head)
        if header["v"] != 1:
            raise ValueError("version")
        coded = EncodedFrame(data, int(header["pts"]), int(header["dts"]), header["key"] is True)
        return str(header["encode"]), int(header["number"]), coded
    except (ValueError, KeyError, TypeError) as error:
        raise WireError(f"not a picture: {error}") from None
