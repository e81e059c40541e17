"""Events on a ZeroMQ PUB socket: live, for whoever listens; a slow listener loses the newest, seen by the sequence.

A message is `topic, event JSON`. The topic is `<stream>/<subject>/`: the subject of a result is its task's name, that
of a status event is such as `stream.down`, and the stream of an event that has none is empty. Every part ends in `/`,
so that the subscription `cam1/` does not get `cam10`.

Every second the topic `#/` tells the newest sequence of each source, so that a loss is seen also when nothing follows
it. What was missed is asked for beside it, DEALER to ROUTER, at the endpoint with `.replay` at its end:

    {"v": 1, "id": 7, "source": "/agents/home/streams/gate", "after": 41, "before": 57}
    {"v": 1, "id": 7}, event JSON, event JSON, …      at most 500, as far as the ledger still has them
"""

from __future__ import annotations

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
from streamer.core.ipc import HEADS, check_endpoint, replay_endpoint, send_or_drop
from streamer.core.settings import Name
from streamer.events.ledger import Replay
from streamer.events.sinks._base import SinkContext, SinkSettings
from streamer.types import Sink

log = logging.getLogger(__name__)

HEADS_S = 1.0
TICK_MS = 250
MAX_AT_ONCE = 500
MAX_REQUEST_BYTES = 4096


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
        endpoint = self.endpoint or check_endpoint(f"ipc://{context.runtime}/bus.sock")
        return _ZmqSink(endpoint, None if context.ledger is None else Replay(context.ledger))


def topic(stream: str | None, subject: str) -> bytes:
    return f"{stream or ''}/{subject}/".encode()


class _ZmqSink:
    """Publishes from emit's thread; a thread of its own answers who missed something and tells the newest sequences."""

    def __init__(self, endpoint: str, replay: Replay | None) -> None:
        self._replay = replay
        self._context = zmq.Context()  # its own, so that `close` can wait for the last events to leave
        self._lock = threading.Lock()  # of the publishing socket, which two threads use
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.PUB)
        self._socket.set(zmq.LINGER, 200)
        self._socket.set(zmq.SNDHWM, 1000)
        self._asked: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        self._asked.set(zmq.LINGER, 0)
        self._asked.set(zmq.MAXMSGSIZE, MAX_REQUEST_BYTES)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="replay", daemon=True)
        try:
            self._socket.bind(endpoint)
            if replay is not None:
                self._asked.bind(replay_endpoint(endpoint))
                self._thread.start()
        except zmq.ZMQError as error:
            self.close()
            raise ConfigError(f"cannot bind {endpoint}: {error}") from error

    def write(self, events: Sequence[tuple[int, bytes]]) -> None:
        try:
            for _, body in events:
                event = json.loads(body)
                with self._lock:
                    self._socket.send_multipart([topic(event["data"]["stream"], event["subject"]), body], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            raise SinkError(str(error)) from error

    def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
        for socket in (self._socket, self._asked):
            socket.close()
        if self._replay is not None:
            self._replay.close()
        self._context.term()

    def _serve(self) -> None:
        assert self._replay is not None
        told = 0.0
        while not self._closing.is_set():
            try:
                if self._asked.poll(TICK_MS):
                    self._answer(self._asked.recv_multipart(), self._replay)
                if time.monotonic() - told >= HEADS_S:
                    told = time.monotonic()
                    heads = json.dumps({"v": 1, "heads": self._replay.heads()}).encode()
                    with self._lock:
                        self._socket.send_multipart([HEADS, heads], zmq.NOBLOCK)
            except (zmq.ZMQError, apsw.Error) as error:
                log.warning("nothing is replayed now: %s", error)
                self._closing.wait(HEADS_S)

    def _answer(self, parts: Sequence[bytes], replay: Replay) -> None:
        try:
            peer, question = parts
            asked = json.loads(question)
            number, source = asked["id"], str(asked["source"])
            after, before = (min(max(int(asked[name]), 0), 10**16) for name in ("after", "before"))
            events = replay.between(source, after, before, MAX_AT_ONCE)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return  # no question: not JSON, a number like Infinity, a source that is no Unicode
        answer = [peer, json.dumps({"v": 1, "id": number}).encode(), *events]
        send_or_drop(self._asked, answer)  # if dropped, the subscriber asks again
