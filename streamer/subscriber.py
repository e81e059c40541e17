"""Events of a running agent, typed, for other programs."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import zmq

from streamer.bus.endpoint import check_endpoint
from streamer.errors import WireError
from streamer.events import Event, decode

log = logging.getLogger(__name__)

_REMEMBERED = 10_000
"""Events by which a repeated one is known; what emit repeats after a restart is far less."""


def subscribe(
    endpoint: str, stream: str | None = None, task: str | None = None, timeout: float | None = None
) -> Iterator[Event]:
    """Live events of the agent whose zmq sink is at `endpoint` (`ipc://` and a path), each once, for ever.

    `stream` leaves out other streams; `task` leaves out everything but the results of the task with this name. An
    agent that is not there yet or goes away is waited for. The iterator has subscribed once this returns. Raises
    TimeoutError after `timeout` seconds without an event, ConfigError for an endpoint that cannot be.
    """
    check_endpoint(endpoint)
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
    socket.set(zmq.LINGER, 0)
    socket.set(zmq.RCVHWM, 10_000)
    socket.set(zmq.RECONNECT_IVL_MAX, 1000)
    socket.set(zmq.SUBSCRIBE, b"" if stream is None else f"{stream}/".encode())
    socket.connect(endpoint)
    return _Subscription(socket, task, timeout)


class _Subscription(Iterator[Event]):
    # Not a generator: one that was never started would not close its socket.
    def __init__(self, socket: zmq.Socket[bytes], task: str | None, timeout: float | None) -> None:
        self._socket = socket
        self._task = task
        self._timeout = timeout
        self._seen: dict[tuple[str, str], None] = {}

    def __next__(self) -> Event:
        until = None if self._timeout is None else time.monotonic() + self._timeout
        while True:
            patience = None if until is None else max(0, round((until - time.monotonic()) * 1000))
            if not self._socket.poll(patience):
                raise TimeoutError(f"no event for {self._timeout} s")
            event = _read(self._socket.recv_multipart())
            if event is not None and self._wanted(event):
                return event

    def __del__(self) -> None:
        self._socket.close()

    def _wanted(self, event: Event) -> bool:
        """Not another task's, and not seen before: by CloudEvents the same source and id are the same event."""
        key = (event.source, event.id)
        if key in self._seen or (self._task is not None and event.subject != self._task):
            return False
        self._seen[key] = None
        if len(self._seen) > _REMEMBERED:
            del self._seen[next(iter(self._seen))]
        return True


def _read(parts: list[bytes]) -> Event | None:
    try:
        return decode(parts[-1])
    except WireError as error:
        log.warning("dropped a message: %s", error)
        return None
