"""Live results for the views, which bypass emit and the ledger.

PUB to SUB: a slow or absent subscriber misses results and blocks nobody. Topics end in `/`, so that `cam1/` does not
match `cam10/`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import zmq

from streamer.core.errors import WireError
from streamer.core.ipc import check_endpoint, drain, send_or_drop
from streamer.core.logs import RareLog
from streamer.events.schema import ResultEvent, decode, encode

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 8 << 20
"""Bytes per message part. ZeroMQ disconnects a peer that sends a larger one."""


def results_endpoint(runtime: Path) -> str:
    """Return the address of the ResultPublisher."""
    return check_endpoint(f"ipc://{runtime}/results.sock")


class ResultPublisher:
    """The sending side, in the inference process."""

    def __init__(self, runtime: Path) -> None:
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUB)
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.SNDHWM, 256)
        self._socket.bind(results_endpoint(runtime))

    def publish(self, event: ResultEvent) -> None:
        """Send a result to the subscribers of its stream. Never blocks."""
        send_or_drop(self._socket, [f"{event.data.stream}/".encode(), encode(event)])

    def close(self) -> None:
        self._socket.close()


class ResultSubscriber:
    """The receiving side: results of one stream. Reconnects when the inference process is restarted."""

    def __init__(self, runtime: Path, stream: str) -> None:
        self._invalid_messages = RareLog(log, "invalid result message %d dropped: %s")
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
        """To poll for reading; then call `receive`."""
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.RCVHWM, 256)
        self.socket.set(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        self.socket.set(zmq.SUBSCRIBE, f"{stream}/".encode())
        self.socket.connect(results_endpoint(runtime))

    def receive(self) -> Iterator[ResultEvent]:
        """Yield the results that have arrived. Never blocks."""
        for parts in drain(self.socket):
            try:
                event = decode(parts[-1])
            except WireError as error:
                self._invalid_messages.add(error)
                continue
            if isinstance(event, ResultEvent):
                yield event

    def close(self) -> None:
        self.socket.close()
