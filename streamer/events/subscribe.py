"""Subscribes other programs to the events of a running agent: live, typed, and with missed events replayed."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import zmq

from streamer.core.errors import WireError
from streamer.core.ipc import LATEST_TOPIC, check_endpoint, replay_endpoint
from streamer.core.logs import RareLog
from streamer.events.schema import Event, decode

log = logging.getLogger(__name__)
_invalid_messages = RareLog(log, "invalid message %d dropped: %s")
_losses = RareLog(log, "events lost %s, the last time events %d to %d of %s", noun="time")

_SEEN_IDS = 10_000
"""Ids kept to drop repeated events; emit repeats far fewer after a restart."""
_REPLAY_TIMEOUT_S = 2.0
"""Maximum seconds to wait for a reply with missed events."""
_MAX_MESSAGE_BYTES = 8 << 20
"""Bytes per message part, as emit accepts them. ZeroMQ ends the connection to a peer that sends a larger one."""
_SILENCE_S = 5.0
"""Seconds without a message, of which the agent sends one each second, after which the socket connects again."""
_MAX_SEQUENCE = 10**16 - 1
"""Largest sequence of an event: 16 digits."""


def subscribe(
    endpoint: str,
    stream: str | None = None,
    task: str | None = None,
    timeout: float | None = None,
    after: Mapping[str, int] | None = None,
) -> Iterator[Event]:
    """Return an endless iterator over the live events of an agent, each once.

    `endpoint` is that of the agent's zmq sink, `ipc://` and a path. `stream` selects one stream, `task` the results of
    the task with this name. Gaps in the sequence are filled with what the ledger still holds. `after` holds the last
    sequence that an earlier run received by source, and continues from there. The iterator waits for an agent that is
    not running. It has subscribed once this function returns. Raises TimeoutError after `timeout` seconds without an
    event, ConfigError for an invalid endpoint.
    """
    check_endpoint(endpoint)
    replay = replay_endpoint(endpoint)
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
    socket.set(zmq.LINGER, 0)
    socket.set(zmq.RCVHWM, 10_000)
    socket.set(zmq.MAXMSGSIZE, _MAX_MESSAGE_BYTES)
    socket.set(zmq.RECONNECT_IVL_MAX, 1000)
    socket.set(zmq.SUBSCRIBE, b"" if stream is None else f"{stream}/".encode())
    socket.set(zmq.SUBSCRIBE, LATEST_TOPIC)
    socket.connect(endpoint)
    return _Subscription(socket, endpoint, _Gaps(replay, stream, after or {}), task, timeout)


class _Subscription(Iterator[Event]):
    # Not a generator: a generator that was never started would not close its socket.
    def __init__(
        self, socket: zmq.Socket[bytes], endpoint: str, gaps: _Gaps, task: str | None, timeout: float | None
    ) -> None:
        self._socket, self._endpoint = socket, endpoint
        self._gaps = gaps
        self._task = task
        self._timeout = timeout
        self._seen: dict[tuple[str, str], None] = {}
        self._ready: deque[Event] = deque()

    def __next__(self) -> Event:
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        while True:
            while self._ready:
                if self._is_new(event := self._ready.popleft()):
                    return event
            left = _SILENCE_S if deadline is None else min(_SILENCE_S, deadline - time.monotonic())
            if not self._socket.poll(max(0, math.ceil(left * 1000))):
                if deadline is not None and time.monotonic() >= deadline:
                    raise TimeoutError(f"no event for {self._timeout} s")
                self._connect_again()
                continue
            parts = self._socket.recv_multipart()
            if parts[0] == LATEST_TOPIC:
                self._ready.extend(self._gaps.on_latest(parts[-1]))
            elif (received := _read(parts[-1])) is not None and not self._gaps.is_of_earlier_run(received):
                self._ready.extend(self._gaps.in_order(received))
            if not self._ready and deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"no event for {self._timeout} s")

    def _connect_again(self) -> None:
        """ZeroMQ does it by itself, except after a message that was too large."""
        with contextlib.suppress(zmq.ZMQError):
            self._socket.disconnect(self._endpoint)
        self._socket.connect(self._endpoint)

    def __del__(self) -> None:
        self._socket.close()
        self._gaps.close()

    def _is_new(self, event: Event) -> bool:
        """Return True if the event is of the task and not seen before: source and id identify a CloudEvent."""
        key = (event.source, event.id)
        if key in self._seen or (self._task is not None and event.subject != self._task):
            return False
        self._seen[key] = None
        if len(self._seen) > _SEEN_IDS:
            del self._seen[next(iter(self._seen))]
        return True


class _Gaps:
    """Tracks the last sequence of each source and requests missing events."""

    def __init__(self, endpoint: str, stream: str | None, last: Mapping[str, int]) -> None:
        self._endpoint, self._stream = endpoint, stream
        self._earlier_run = last
        self._last = dict(last)
        self._latest: dict[str, int] = {}  # of the previous message with the newest sequences
        self._socket: zmq.Socket[bytes] | None = None
        self._request_id = 0

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def is_of_earlier_run(self, event: Event) -> bool:
        """Return True if an earlier run received it. In a new ledger the same sequence is a different event."""
        last = self._earlier_run.get(event.source, 0)
        if not event.sequence or int(event.sequence) > last:
            return False
        return bool(self._request(event.source, last - 1, last + 1))

    def in_order(self, event: Event) -> list[Event]:
        """Return the events missing before one that was received, and that one.

        Where the agent does not say what is missing, it is asked again by `on_latest`, also for this event.
        """
        if not event.sequence or not self._is_complete(event.source):
            return [event]
        sequence = int(event.sequence)
        self._last.setdefault(event.source, sequence - 1)
        missing = self._fetch(event.source, sequence)
        if self._last[event.source] < sequence - 1:
            return missing
        self._last[event.source] = sequence
        return [*missing, event]

    def on_latest(self, body: bytes) -> list[Event]:
        """Return the events that are missing according to the agent's newest sequences."""
        try:
            latest = {source: _sequence(number) for source, number in json.loads(body)["heads"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            _invalid_messages.add("not the newest sequences")
            return []
        missing: list[Event] = []
        # The previous message counts: events of the present one may still be in transit.
        for source, sequence in self._latest.items():
            self._last.setdefault(source, sequence)
            if self._is_complete(source):
                missing += self._fetch(source, sequence + 1)
                if self._last[source] < sequence:
                    break  # the agent does not answer
        self._latest = latest
        return missing

    def _is_complete(self, source: str) -> bool:
        """Return True if the subscription includes all events of this source."""
        return self._stream is None or source.endswith(f"/streams/{self._stream}")

    def _fetch(self, source: str, before: int) -> list[Event]:
        """Return the events after the last one and before a sequence, in as many requests as it takes."""
        events: list[Event] = []
        while (after := self._last[source]) + 1 < before:
            if (page := self._request(source, after, before)) is None:
                break
            if not page:
                _losses.add(after + 1, before - 1, source)
            events += page
            self._last[source] = int(page[-1].sequence) if page else before - 1
        return events

    def _request(self, source: str, after: int, before: int) -> list[Event] | None:
        """Return one reply's events, `after` < sequence < `before`, without deleted ones; None if no reply arrives."""
        if self._socket is None:
            self._socket = zmq.Context.instance().socket(zmq.DEALER)
            self._socket.set(zmq.LINGER, 0)
            self._socket.set(zmq.MAXMSGSIZE, _MAX_MESSAGE_BYTES)
            self._socket.set(zmq.RECONNECT_IVL_MAX, 1000)
            self._socket.connect(self._endpoint)
        self._request_id += 1
        request = {"v": 1, "id": self._request_id, "source": source, "after": after, "before": before}
        self._socket.send(json.dumps(request).encode())
        deadline = time.monotonic() + _REPLAY_TIMEOUT_S
        while (left := deadline - time.monotonic()) > 0 and self._socket.poll(math.ceil(left * 1000)):
            header, *bodies = self._socket.recv_multipart()
            if _request_id(header) == self._request_id:
                events = [event for body in bodies if (event := _read(body)) is not None and event.source == source]
                return [event for event in events if event.sequence and after < int(event.sequence) < before]
        self.close()  # the next request connects again
        return None


def _sequence(number: Any) -> int:
    """Return a source's newest sequence. Raises ValueError for a number that no ledger counts to."""
    sequence = int(number)
    if not 0 <= sequence <= _MAX_SEQUENCE:
        raise ValueError("not a sequence")
    return sequence


def _request_id(header: bytes) -> Any:
    """Return the id of the request that a reply answers, None for an invalid header."""
    try:
        return json.loads(header)["id"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _read(body: bytes) -> Event | None:
    try:
        return decode(body)
    except WireError as error:
        _invalid_messages.add(error)
        return None
