"""Events on a ZeroMQ PUB socket: live, for whoever listens; a slow listener loses the newest, seen by the sequence.

A message is `topic, event JSON`. The topic is `<stream>/<subject>/`: the subject of a result is its task's name, that
of a status event is such as `stream.down`, and the stream of an event that has none is empty. Every part ends in `/`,
so that the subscription `cam1/` does not get `cam10`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Literal

import zmq
from pydantic import AfterValidator

from streamer.bus.endpoint import check_endpoint
from streamer.errors import ConfigError, SinkError
from streamer.settings import Name
from streamer.sinks._base import SinkContext, SinkSettings
from streamer.types import Sink


def _endpoint(text: str) -> str:
    try:
        return check_endpoint(text)
    except ConfigError as error:
        raise ValueError(str(error)) from None


class Zmq(SinkSettings):
    """Live events for other programs: `streamer.subscribe` reads them."""

    kind: Literal["zmq"] = "zmq"
    name: Name = "zmq"
    endpoint: Annotated[str, AfterValidator(_endpoint)] | None = None
    """Where to bind, `ipc://` and a path. Default: `bus.sock` in the runtime directory."""

    def open(self, context: SinkContext) -> Sink:
        return _ZmqSink(self.endpoint or check_endpoint(f"ipc://{context.runtime}/bus.sock"))


def topic(stream: str | None, subject: str) -> bytes:
    return f"{stream or ''}/{subject}/".encode()


class _ZmqSink:
    def __init__(self, endpoint: str) -> None:
        self._context = zmq.Context()  # its own, so that `close` can wait for the last events to leave
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.PUB)
        self._socket.set(zmq.LINGER, 200)
        self._socket.set(zmq.SNDHWM, 1000)
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise ConfigError(f"cannot bind {endpoint}: {error}") from error

    def write(self, events: Sequence[tuple[int, bytes]]) -> None:
        try:
            for _, body in events:
                event = json.loads(body)
                self._socket.send_multipart([topic(event["data"]["stream"], event["subject"]), body], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            raise SinkError(str(error)) from error

    def close(self) -> None:
        self._socket.close()
        self._context.term()
