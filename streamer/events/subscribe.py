"""Events of a running agent, typed, for other programs: live, and what was missed."""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping

import zmq

from streamer.core.errors import WireError
from streamer.core.ipc import HEADS, check_endpoint, replay_endpoint
from streamer.events.schema import Event, decode

log = logging.getLogger(__name__)

_REMEMBERED = 10_000
"""Events by which a repeated one is known; what emit repeats after a restart is far less."""
_PATIENCE_S = 2.0
"""For an answer to a question for what was missed."""


def subscribe(
    endpoint: str,
    stream: str | None = None,
    task: str | None = None,
    timeout: float | None = None,
    after: Mapping[str, int] | None = None,
) -> Iterator[Event]:
    """Live events of the agent whose zmq sink is at `endpoint` (`ipc://` and a path), each once, for ever.

    `stream` leaves out other streams; `task` leaves out everything but the results of the task with this name. What is
    missed is seen by the sequence and asked for, as far as the ledger still has it. `after` holds the last sequence
    that an earlier run had of each source: it goes on there. An agent that is not there yet or goes away is waited for.
    The iterator has subscribed once this returns. Raises TimeoutError after `timeout` seconds without an event,
    ConfigError for an endpoint that cannot be.
    """
    check_endpoint(endpoint)
    replay = replay_endpoint(endpoint)
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
    socket.set(zmq.LINGER, 0)
    socket.set(zmq.RCVHWM, 10_000)
    socket.set(zmq.RECONNECT_IVL_MAX, 1000)
    socket.set(zmq.SUBSCRIBE, b"" if stream is None else f"{stream}/".encode())
    socket.set(zmq.SUBSCRIBE, HEADS)
    socket.connect(endpoint)
    return _Subscription(socket, _Gaps(replay, stream, after or {}), task, timeout)


class _Subscription(Iterator[Event]):
    # Not a generator: one that was never started would not close its socket.
    def __init__(self, socket: zmq.Socket[bytes], gaps: _Gaps, task: str | None, timeout: float | None) -> None:
        self._socket = socket
        self._gaps = gaps
        self._task = task
        self._timeout = timeout
        self._seen: dict[tuple[str, str], None] = {}
        self._ready: deque[Event] = deque()

    def __next__(self) -> Event:
        until = None if self._timeout is None else time.monotonic() + self._timeout
        while True:
            while self._ready:
                if self._wanted(event := self._ready.popleft()):
                    return event
            patience = None if until is None else max(0, round((until - time.monotonic()) * 1000))
            if not self._socket.poll(patience):
                raise TimeoutError(f"no event for {self._timeout} s")
            parts = self._socket.recv_multipart()
            if parts[0] == HEADS:
                self._ready.extend(self._gaps.told(parts[-1]))
            elif (found := _read(parts[-1])) is not None and not self._gaps.was_had(found):
                self._ready.extend(self._gaps.before(found))
                self._ready.append(found)

    def __del__(self) -> None:
        self._socket.close()
        self._gaps.close()

    def _wanted(self, event: Event) -> bool:
        """Not another task's, and not seen before: by CloudEvents the same source and id are the same event."""
        key = (event.source, event.id)
        if key in self._seen or (self._task is not None and event.subject != self._task):
            return False
        self._seen[key] = None
        if len(self._seen) > _REMEMBERED:
            del self._seen[next(iter(self._seen))]
        return True


class _Gaps:
    """Knows the last sequence of each source, and asks for what is missing."""

    def __init__(self, endpoint: str, stream: str | None, last: Mapping[str, int]) -> None:
        self._endpoint, self._stream = endpoint, stream
        self._had = last
        self._last = dict(last)
        self._heads: dict[str, int] = {}  # as they were told the last time
        self._socket: zmq.Socket[bytes] | None = None
        self._number = 0

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def was_had(self, event: Event) -> bool:
        """An earlier run had it. In a ledger that began anew the same sequence is another event."""
        had = self._had.get(event.source, 0)
        if not event.sequence or int(event.sequence) > had:
            return False
        return bool(self._answer(event.source, had - 1, had + 1))

    def before(self, event: Event) -> list[Event]:
        """What is missing before an event that came."""
        if not event.sequence or not self._is_whole(event.source):
            return []
        sequence = int(event.sequence)
        last = self._last.get(event.source, sequence - 1)
        self._last[event.source] = sequence
        return self._ask(event.source, last, sequence) if sequence > last + 1 else []

    def told(self, body: bytes) -> list[Event]:
        """What is missing by the newest sequences that the agent tells."""
        try:
            heads = {str(source): int(head) for source, head in json.loads(body)["heads"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            log.warning("dropped a message that should tell the newest sequences")
            return []
        missing: list[Event] = []
        # Those of the last time: what is only on its way is not missing.
        for source, head in self._heads.items():
            last = self._last.setdefault(source, head)
            if last < head and self._is_whole(source):
                self._last[source] = head
                missing += self._ask(source, last, head + 1)
        self._heads = heads
        return missing

    def _is_whole(self, source: str) -> bool:
        """All events of this source should come here: those of another one are partly other streams'."""
        return self._stream is None or source.endswith(f"/streams/{self._stream}")

    def _ask(self, source: str, after: int, before: int) -> list[Event]:
        found: list[Event] = []
        while after + 1 < before:
            answer = self._answer(source, after, before)
            if not answer:
                break
            found += answer
            after = int(answer[-1].sequence)
        if after + 1 < before:
            log.warning("events %d to %d of %s are missing", after + 1, before - 1, source)
        return found

    def _answer(self, source: str, after: int, before: int) -> list[Event]:
        """Events between the two; none when they are gone or nobody answers."""
        if self._socket is None:
            self._socket = zmq.Context.instance().socket(zmq.DEALER)
            self._socket.set(zmq.LINGER, 0)
            self._socket.set(zmq.RECONNECT_IVL_MAX, 1000)
            self._socket.connect(self._endpoint)
        self._number += 1
        question = {"v": 1, "id": self._number, "source": source, "after": after, "before": before}
        self._socket.send(json.dumps(question).encode())
        until = time.monotonic() + _PATIENCE_S
        while self._socket.poll(max(0, round((until - time.monotonic()) * 1000))):
            header, *bodies = self._socket.recv_multipart()
            if json.loads(header).get("id") == self._number:
                return [event for body in bodies if (event := _read(body)) is not None]
        return []


def _read(body: bytes) -> Event | None:
    try:
        return decode(body)
    except WireError as error:
        log.warning("dropped a message: %s", error)
        return None
