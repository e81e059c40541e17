"""Publishes events live on a ZeroMQ PUB socket and replays missed ones. Slow subscribers lose the newest events.

A message is `topic, event JSON`. The topic is `<stream>/<subject>/`: the subject of a result is its task's name, that
of a status event is for example `stream.down`; the stream is empty for events without one. Each part ends in `/`, so
that the subscription `cam1/` does not receive `cam10`.

Every second the topic `#/` carries the newest sequence of each source, so that a subscriber notices a loss even when
no event follows. Missed events are requested at the same endpoint plus `.replay`, DEALER to ROUTER:

    {"v": 1, "id": 7, "source": "/agents/home/streams/gate", "after": 41, "before": 57}
    {"v": 1, "id": 7}, event JSON, event JSON, …      at most 500 that the ledger still holds
"""

from __future__ import annotations

import errno
import json
import logging
import threading
import time
from collections.abc import Sequence
from typing import Annotated, Literal

import apsw
import zmq
from pydantic import AfterValidator

from streamer.core.errors import ConfigError, SinkError
from streamer.core.ipc import LATEST_TOPIC, Listener, check_endpoint, check_socket_files, replay_endpoint, send_or_drop
from streamer.core.logs import RareLog
from streamer.core.settings import Name
from streamer.events.ledger import Replay
from streamer.events.sinks._base import SinkContext, SinkProgress, SinkSettings
from streamer.types import Sink

log = logging.getLogger(__name__)

LATEST_EVERY_S = 1.0
"""Seconds between two messages with the newest sequences."""
POLL_MS = 250
MAX_REPLAYED = 500
"""Maximum number of events in one reply."""
MAX_REQUEST_BYTES = 4096


def _endpoint(text: str) -> str:
    try:
        replay_endpoint(text)
        return check_endpoint(text)
    except ConfigError as error:
        raise ValueError(str(error)) from None


class Zmq(SinkSettings):
    """Live events for other programs, which read them with `streamer.subscribe`."""

    kind: Literal["zmq"] = "zmq"
    name: Name = "zmq"
    endpoint: Annotated[str, AfterValidator(_endpoint)] | None = None
    """Address to bind: `ipc://` and a path. Default: `bus.sock` in the runtime directory."""

    def check(self) -> None:
        if self.endpoint is not None:
            check_socket_files(self.endpoint)

    def open(self, context: SinkContext, progress: SinkProgress) -> Sink:
        endpoint = self.endpoint or check_endpoint(f"ipc://{context.runtime}/bus.sock")
        return _ZmqSink(endpoint, Replay(context.ledger), is_private=self.endpoint is None)


def topic(stream: str | None, subject: str) -> bytes:
    """Return the topic of an event."""
    return f"{stream or ''}/{subject}/".encode()


class _ZmqSink:
    """Publishes in the sink's thread. A second thread serves replay requests and publishes the newest sequences."""

    idle_s = 2.0

    def __init__(self, endpoint: str, replay: Replay, is_private: bool) -> None:
        """`is_private`: the endpoint is in the agent's own runtime folder.

        Raises SinkError while another program uses it, ConfigError if it cannot be bound.
        """
        self._endpoint, self._replay = endpoint, replay
        self._context = zmq.Context()  # its own, so that `close` waits until the last events are sent
        self._lock = threading.Lock()  # of the publisher, which both threads use
        self._publisher: zmq.Socket[bytes] = self._context.socket(zmq.PUB)
        self._publisher.set(zmq.LINGER, 200)
        self._publisher.set(zmq.SNDHWM, 1000)
        self._requests: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        self._requests.set(zmq.LINGER, 0)
        self._requests.set(zmq.MAXMSGSIZE, MAX_REQUEST_BYTES)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._serve_replay, name="replay", daemon=True)
        self._listeners: list[Listener] = []
        self._failures = RareLog(log, "replay failed %s, retrying: %s", noun="time")
        try:
            for socket, address in ((self._publisher, endpoint), (self._requests, replay_endpoint(endpoint))):
                self._listeners.append(Listener(socket, address, is_private))
        except OSError as error:
            self.close()
            if error.errno == errno.EADDRINUSE:  # perhaps by a killed agent's last process, so it is tried again
                raise SinkError(f"cannot bind {endpoint}: {error.strerror}") from error
            raise ConfigError(f"cannot bind {endpoint}: {error.strerror}: choose another path") from error
        self._thread.start()

    def write(self, events: Sequence[tuple[int, bytes]]) -> None:
        self.idle()
        try:
            for _, body in events:
                event = json.loads(body)
                with self._lock:
                    self._publisher.send_multipart(
                        [topic(event["data"]["stream"], event["subject"]), body], zmq.NOBLOCK
                    )
        except zmq.ZMQError as error:
            raise SinkError(f"cannot publish on {self._endpoint}: {(error.strerror or 'no socket').lower()}") from error

    def idle(self) -> None:
        """Raise SinkError while no subscriber can connect."""
        if self._listeners[0].problem is not None:
            raise SinkError(f"{self._endpoint} {self._listeners[0].problem}")

    def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
        for socket in (self._publisher, self._requests):
            socket.close()
        for listener in self._listeners:
            listener.close()
        self._replay.close()
        self._context.term()

    def _serve_replay(self) -> None:
        published_at = 0.0
        while not self._closing.is_set():
            try:
                with self._lock:
                    for listener in self._listeners:
                        listener.check()
                if self._requests.poll(POLL_MS):
                    self._reply(self._requests.recv_multipart())
                if time.monotonic() - published_at >= LATEST_EVERY_S:
                    published_at = time.monotonic()
                    latest = json.dumps({"v": 1, "heads": self._replay.latest()}).encode()
                    with self._lock:
                        self._publisher.send_multipart([LATEST_TOPIC, latest], zmq.NOBLOCK)
            except (zmq.ZMQError, apsw.Error) as error:
                self._failures.add(error)
                self._closing.wait(LATEST_EVERY_S)

    def _reply(self, parts: Sequence[bytes]) -> None:
        try:
            peer, body = parts
            request = json.loads(body)
            number, source = request["id"], str(request["source"])
            after, before = (min(max(int(request[name]), 0), 10**16) for name in ("after", "before"))
            events = self._replay.between(source, after, before, MAX_REPLAYED)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return  # malformed: not JSON, a number like Infinity, a source that is not Unicode
        reply = [peer, json.dumps({"v": 1, "id": number}).encode(), *events]
        send_or_drop(self._requests, reply)  # if dropped, the subscriber requests it again
