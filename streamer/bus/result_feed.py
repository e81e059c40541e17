"""Results as soon as they exist, for whoever draws them; the ledger knows nothing of this.

PUB to SUB: who is slow or away misses results and harms nobody. Topics end in `/`: `cam1/` does not get `cam10`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import zmq

from streamer.core.errors import WireError
from streamer.core.ipc import check_endpoint
from streamer.events.schema import ResultEvent, decode, encode

MAX_MESSAGE_BYTES = 8 << 20
"""Bytes of one result."""


def results_endpoint(runtime: Path) -> str:
    return check_endpoint(f"ipc://{runtime}/results.sock")


class ResultPublisher:
    """The inference process's side."""

    def __init__(self, runtime: Path) -> None:
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUB)
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.SNDHWM, 256)
        self._socket.bind(results_endpoint(runtime))

    def publish(self, event: ResultEvent) -> None:
        """Never blocks."""
        with contextlib.suppress(zmq.Again):
            self._socket.send_multipart([f"{event.data.stream}/".encode(), encode(event)], zmq.NOBLOCK)

    def close(self) -> None:
        self._socket.close()


class ResultSubscriber:
    """The results of one stream, also over deaths of the inference process."""

    def __init__(self, runtime: Path, stream: str) -> None:
        self.invalid_messages = 0
        """Messages that were no results; counted and dropped."""
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
        """To poll for reading; then call `receive`."""
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.RCVHWM, 256)
        self.socket.set(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        self.socket.set(zmq.SUBSCRIBE, f"{stream}/".encode())
        self.socket.connect(results_endpoint(runtime))

    def receive(self) -> Iterator[ResultEvent]:
        """Everything that has arrived. Never blocks."""
        while True:
            try:
                parts = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                event = decode(parts[-1])
            except WireError:
                self.invalid_messages += 1
                continue
            if isinstance(event, ResultEvent):
                yield event

    def close(self) -> None:
        self.socket.close()
