"""A sink that stays connected to a server, delivers in order within a window, and connects again after any error."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import NamedTuple, Protocol

from streamer.core.backoff import Backoff
from streamer.core.errors import ConfigError, SinkError
from streamer.events.sinks._base import SinkProgress
from streamer.events.sinks._settled import SettledEvents
from streamer.events.sinks._suspect import Suspect

CONNECT_S = 5.0
"""Longest time of each step up to a connection."""
FIRST_WAIT_S, MAX_WAIT_S = 0.5, 30.0
"""Delay before a lost connection is replaced: the first, and the longest."""


class Settled(NamedTuple):
    """An event that need not be sent again."""

    position: int
    refusal: str | None = None
    """Why the server will never accept it; None if it has it."""


class Connection(Protocol):
    """An open connection. Every method may raise SinkError; only `close` may be called after that."""

    def deliver(self, events: Sequence[tuple[int, bytes]], window: int) -> Iterator[Settled]:
        """Send the events, at most `window` unacknowledged ones at a time; yield each when it is settled."""

    def check(self) -> None:
        """Find out whether the server still answers, while there are no events."""

    def close(self) -> None:
        """Close it. Never raises and never blocks for longer than a second or two."""


class ConnectedSink:
    """Delivers over one connection. On any error the connection is closed, and the next call opens a new one."""

    idle_s = 2.0

    def __init__(self, connect: Callable[[], Connection], in_flight: int, progress: SinkProgress) -> None:
        self._connect, self._in_flight = connect, in_flight
        self._connection: Connection | None = None
        self._backoff = Backoff(FIRST_WAIT_S, MAX_WAIT_S)
        self._settled = SettledEvents(progress)
        self._suspect = Suspect()

    def write(self, events: Sequence[tuple[int, bytes]]) -> None:
        with self._open_connection() as connection:
            waiting = self._suspect.put_last(self._settled.start(events))
            unsettled = {position: None for position, _ in waiting}
            try:
                for one in connection.deliver(waiting, 1 if self._suspect.losses else self._in_flight):
                    self._settle(one)
                    del unsettled[one.position]
            except SinkError as error:
                self._blame(next(iter(unsettled)), error)
                raise
            self._settled.advance()

    def idle(self) -> None:
        with self._open_connection() as connection:
            connection.check()
        self._backoff.reset()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _settle(self, one: Settled) -> None:
        if one.refusal is None:
            self._settled.add(one.position)
            self._backoff.reset()
        else:
            self._settled.refuse(one.position, one.refusal)
        self._settled.advance()
        self._suspect.on_accepted(one.position)

    def _blame(self, position: int, error: SinkError) -> None:
        """Make the oldest unsettled event a dead letter if it breaks one connection after the other, unlike others."""
        if self._suspect.on_lost(position):
            self._settled.refuse(position, f"{error}, {self._suspect.losses} times, while others were accepted")
            self._suspect = Suspect()

    @contextlib.contextmanager
    def _open_connection(self) -> Iterator[Connection]:
        """Yield the connection, a new one after an error. On any error it is closed."""
        try:
            if self._connection is None:
                self._connection = self._connect()
            yield self._connection
        except SinkError as error:
            self.close()
            delay = self._backoff.next_delay()
            raise SinkError(str(error), delay if error.wait_s is None else error.wait_s) from None
        except BaseException:
            self.close()
            raise


def require_package(kind: str, package: str) -> None:
    """Raise ConfigError when the package of an extra, which has the name of the kind of sink, is not installed."""
    if find_spec(package) is None:
        raise ConfigError(f"`kind: {kind}` needs the package {package}: run `pip install 'florence-streamer[{kind}]'`")
