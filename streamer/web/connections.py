"""Limits of open connections, so that a flood of strangers shuts out nobody who has the token.

A connection waits, or it serves an allowed request. Both kinds have their own limits. A connection that waits is never
refused: above a limit, the oldest one of the client with most of them is closed. A client with the token sends its
request at once, so its connection waits for a moment only.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from streamer.config.web import Network
from streamer.core.logs import RareLog
from streamer.web.forwarded import client_key, is_in, parse_address

log = logging.getLogger(__name__)

MAX_WAITING, MAX_WAITING_OF_CLIENT = 128, 32
"""Connections that wait for a request, in all and by address. Trusted proxies are exempt from the latter."""
MAX_SERVED, MAX_SERVED_OF_CLIENT = 256, 128
"""Allowed requests at once, in all and by client: page, live video and followed events hold one each."""

CONNECTION = "connection"
"""Key of a request's `Connection` in the state of its ASGI scope."""


class Transport(Protocol):
    def abort(self) -> None: ...


class TooManyRequests(Exception):
    """Raised if a client, or all together, have as many open requests as allowed."""


@dataclass(slots=True, eq=False)
class Connection:
    """An open connection."""

    transport: Transport
    peer: str
    """Address of the other end, which may be a proxy."""
    since: float = field(default_factory=time.monotonic)
    """Monotonic second since which it waits."""
    was_allowed: bool = False
    """It has already served an allowed request."""
    is_open: bool = True


class Connections:
    """The open connections of the server. Belongs to the event loop."""

    def __init__(self, trusted: Sequence[Network]) -> None:
        self.refused: Counter[str] = Counter()
        """Number of closed connections and refused requests since the start, by cause."""
        self._trusted = trusted
        self._waiting: dict[Connection, str] = {}
        self._served: Counter[str] = Counter()
        self._closed_log = RareLog(
            log, "%s without a request closed, too many are open: last client %s", noun="connection"
        )
        self._refused_log = RareLog(log, "%s refused, too many are open: last client %s", noun="request")

    def opened(self, connection: Connection) -> None:
        """Add a new connection, which waits for its first request. Closes another one above a limit."""
        key = client_key(connection.peer)
        counts = Counter(self._waiting.values())
        is_proxy = (address := parse_address(connection.peer)) is not None and is_in(address, self._trusted)
        if counts[key] >= MAX_WAITING_OF_CLIENT and not is_proxy:
            self._close_oldest(key)
        elif len(self._waiting) >= MAX_WAITING:
            self._close_oldest(counts.most_common(1)[0][0])
        self._waiting[connection] = key

    def closed(self, connection: Connection) -> None:
        connection.is_open = False
        self._waiting.pop(connection, None)

    @contextmanager
    def serving(self, connection: Connection, client: str) -> Iterator[None]:
        """Count a connection as serving an allowed request of a client. Raises TooManyRequests."""
        if self._served[client] >= MAX_SERVED_OF_CLIENT or self._served.total() >= MAX_SERVED:
            self.refused["request"] += 1
            self._refused_log.add(client)
            raise TooManyRequests
        key = self._waiting.pop(connection, None)
        self._served[client] += 1
        try:
            yield
        finally:
            self._served[client] -= 1
            if not self._served[client]:
                del self._served[client]
            if key is not None and connection.is_open:
                connection.since, connection.was_allowed = time.monotonic(), True
                self._waiting[connection] = key

    def _close_oldest(self, key: str) -> None:
        """Close the oldest waiting connection of this address, one that never had an allowed request if possible."""
        candidates = [one for one, its in self._waiting.items() if its == key]
        one = min(candidates, key=lambda one: (one.was_allowed, one.since))
        del self._waiting[one]
        self.refused["connection"] += 1
        self._closed_log.add(key)
        one.transport.abort()
