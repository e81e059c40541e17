"""Live results and task lists from the inference processes to views and to the web process, over PUB/SUB.

Subscribers that are slow or disconnected miss results; the ledger has them all. Task lists are never missed for long:
a list is sent on each change and to each new subscriber. One of several processes also reports to a new subscriber that
it is up. Topics end in `/`, so that `cam1/` does not match `cam10/`.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq

from streamer.bus.rpc import device_of, other_target
from streamer.core.errors import WireError
from streamer.core.ipc import CHECK_S, Listener, check_endpoint, drain, receive_valid, send_or_drop
from streamer.core.logs import RareLog
from streamer.events.schema import ResultEvent, decode, encode

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 8 << 20
TASKS = "#tasks/"
"""Prefix of the topics of task lists; no stream name starts with `#`."""
PROCESSES = "#process/"
"""Prefix of the topics of processes."""


@dataclass(frozen=True, slots=True)
class TaskList:
    """The tasks of one stream as they are now."""

    stream: str
    tasks: list[dict[str, Any]]
    """Plain data, as in the config."""
    process: str | None = None
    """Target of the device, as of `device_of`, that serves the stream, if there are several."""


@dataclass(frozen=True, slots=True)
class ProcessUp:
    """One of several inference processes is up."""

    process: str
    """Its target."""


Item = ResultEvent | TaskList | ProcessUp
"""A message of the feed."""


def results_endpoint(runtime: Path, target: str | None = None) -> str:
    """Return the feed's address in the runtime folder. Raises ConfigError if the path is too long for a socket.

    `target`: number of the inference process, None where there is only one.
    """
    return check_endpoint(f"ipc://{runtime}/results{f'-{target}' if target else ''}.sock")


class ResultPublisher:
    """An inference process's end. Never blocks. Poll `socket` for reading, then call `greet_subscribers`."""

    def __init__(
        self, runtime: Path, tasks: Mapping[str, Sequence[Mapping[str, Any]]], target: str | None = None
    ) -> None:
        """`tasks`: the task list of each stream that it serves, plain data as in the config."""
        self._tasks, self._target = dict(tasks), device_of(target)
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.XPUB)
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.SNDHWM, 256)
        self.socket.set(zmq.XPUB_VERBOSE, 1)  # report a subscription even if another subscriber has the same one
        self._listener = Listener(self.socket, results_endpoint(runtime, target))

    def publish(self, event: ResultEvent) -> None:
        """Send one result to the subscribers of its stream."""
        send_or_drop(self.socket, [f"{event.data.stream}/".encode(), encode(event)])

    def publish_tasks(self, stream: str, tasks: Sequence[Mapping[str, Any]]) -> None:
        """Send a stream's new task list, now and to later subscribers."""
        self._tasks[stream] = tasks
        self._send_tasks(stream)

    def forget(self, stream: str) -> None:
        """Another process serves the stream now."""
        self._tasks.pop(stream, None)

    def greet_subscribers(self) -> None:
        """Send what new subscribers asked for beside results. Call at least once a second."""
        self._listener.check()
        for message, *_ in drain(self.socket):
            is_subscription, topic = message[:1] == b"\x01", message[1:]
            for stream in self._tasks if is_subscription else ():
                if _tasks_topic(stream).startswith(topic):
                    self._send_tasks(stream)
            if is_subscription and topic == PROCESSES.encode() and self._target is not None:
                send_or_drop(self.socket, [f"{PROCESSES}{self._target}/".encode(), b""])

    def _send_tasks(self, stream: str) -> None:
        body = {"process": self._target, "tasks": self._tasks[stream]}
        send_or_drop(self.socket, [_tasks_topic(stream), json.dumps(body).encode()])

    def close(self) -> None:
        self.socket.close()
        self._listener.close()


class ResultSubscriber:
    """The consumer's end. Survives restarts of the inference processes."""

    def __init__(self, runtime: Path, stream: str | None, targets: Sequence[str | None] = (None,)) -> None:
        """`stream`: receive its results and its task list. None: receive all task lists and processes, no results.

        `targets`: the inference processes, any of which may serve the stream. Those that a swap of the model starts
        beside them are found by their sockets.
        """
        every, own = [TASKS.encode(), PROCESSES.encode()], [f"{stream}/".encode(), _tasks_topic(stream or "")]
        topics = every if stream is None else own
        self._invalid_messages = RareLog(log, "invalid feed message %d dropped: %s")
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
        """Poll for reading, then call `receive`."""
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.RCVHWM, 256)
        self.socket.set(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        for topic in topics:
            self.socket.set(zmq.SUBSCRIBE, topic)
        for target in targets:
            self.socket.connect(results_endpoint(runtime, target))
        self._others = [results_endpoint(runtime, other_target(target)) for target in targets]
        self._connected: set[str] = set()
        """Those of `_others` that exist."""
        self._look_at = 0.0
        """Monotonic second."""

    def receive(self) -> Iterator[Item]:
        """Yield what has arrived. Never blocks."""
        if (now := time.monotonic()) >= self._look_at:
            self._look_at = now + CHECK_S
            self._follow_swaps()
        return receive_valid(self.socket, _decode, self._invalid_messages)

    def _follow_swaps(self) -> None:
        """Connect to the second processes that have started, and forget those that have ended."""
        existing = {one for one in self._others if Path(one.removeprefix("ipc://")).exists()}
        for endpoint in existing - self._connected:
            self.socket.connect(endpoint)
        for endpoint in self._connected - existing:
            self.socket.disconnect(endpoint)
        self._connected = existing

    def close(self) -> None:
        self.socket.close()


def _tasks_topic(stream: str) -> bytes:
    return f"{TASKS}{stream}/".encode()


def _decode(message: list[bytes]) -> Item:
    if len(message) != 2:
        raise WireError(f"{len(message)} parts instead of 2")
    topic, body = message
    if topic.startswith(PROCESSES.encode()):
        return ProcessUp(topic[len(PROCESSES) : -1].decode(errors="replace"))
    if not topic.startswith(TASKS.encode()):
        event = decode(body)
        if not isinstance(event, ResultEvent):
            raise WireError("not a result")
        return event
    try:
        found = json.loads(body)
        return TaskList(topic[len(TASKS) : -1].decode(), found["tasks"], found["process"])
    except (ValueError, TypeError, KeyError):
        raise WireError("not a task list") from None
