"""Delivers the incident events of one target from the ledger, in order, one notification per event.

The rules have decided which events a target gets, so this keeps no state but the position in the ledger and a mark of
the event that is being sent. Events older than `max_age` become one summary, wherever they are in the ledger up to the
first newer one.

A message is in doubt if its sending began and its outcome is unknown, because the process was killed or no answer came.
It is sent again with the same id. Where a message does not replace the earlier one, its title says so.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import tzinfo
from itertools import takewhile

from streamer.core.backoff import exponential
from streamer.core.errors import ConfigError, SinkError, SinkRefused, WireError
from streamer.events.ledger.query import LedgerQuery
from streamer.events.notify._base import Message, Messenger, TargetSettings
from streamer.events.notify.text import marked_as_repeat, message_of, summary_of
from streamer.events.part import unix_time
from streamer.events.schema import IncidentEvent, decode
from streamer.events.sinks import SinkContext, SinkProgress
from streamer.events.sinks._base import PREFIXES
from streamer.events.sinks._settled import SettledEvents
from streamer.types import Sink

FIRST_WAIT_S, MAX_WAIT_S = 1.0, 60.0
"""Delay after a failure: the first, and the longest."""
READ_AHEAD = 1000
"""Events per read while late ones are collected."""
_HAS_TARGETS = b'"notify":['

Pictures = Callable[[IncidentEvent], bytes | None]


@dataclass(frozen=True)
class Target:
    """One target as a receiver of the ledger's events, beside the sinks."""

    key: str
    """Name in the config."""
    settings: TargetSettings
    zone: tzinfo
    """Time zone of the times in texts."""
    pictures: Pictures = lambda event: None
    """Returns the picture of an incident event."""

    @property
    def name(self) -> str:
        return f"notify.{self.key}"

    def selects(self, body: bytes) -> bool:
        return body.startswith(PREFIXES["incidents"]) and _HAS_TARGETS in body

    def open(self, context: SinkContext, progress: SinkProgress) -> Sink:
        try:
            messenger = self.settings.open(context.ledger.parent)
        except ConfigError as error:
            raise ConfigError(f"notify.{self.key}: {error}") from None
        return Notifier(self, messenger, context, progress)


class Notifier:
    """Sends the notifications of a target."""

    def __init__(self, target: Target, messenger: Messenger, context: SinkContext, progress: SinkProgress) -> None:
        self._target, self._messenger, self._progress = target, messenger, progress
        self._ledger = context.ledger
        self._settled = SettledEvents(progress)
        self._failures = 0  # in a row
        self._summarised = self._repeated = 0
        self._in_doubt = progress.in_doubt  # position of the first event of the message

    def write(self, events: Sequence[tuple[int, bytes]]) -> None:
        waiting = self._settled.start(events)
        while waiting:
            position, body = waiting[0]
            event, taken, sent = self._mine(body), 1, [position]
            if event is None:
                sent = []
            elif self._is_late(event):
                taken, sent = self._summarise(waiting, events[-1][0])
            else:
                picture = self._target.pictures(event) if self._target.settings.picture else None
                self._send(message_of(event, self._target.zone, picture), sent)
            for settled, _ in waiting[:taken]:
                self._settled.add(settled)
            self._settled.advance()
            if sent:  # after the position: a kill in between leaves nothing in doubt
                self._progress.settle(sent)
            del waiting[:taken]

    def report(self) -> tuple[str, str] | None:
        if self._summarised:
            number, self._summarised = self._summarised, 0
            limit = self._target.settings.max_age
            return "summarised", f"{number} notifications older than {limit:g} s were sent as one summary"
        if self._repeated:
            number, self._repeated = self._repeated, 0
            return "repeated", f"notifications sent again that may have arrived before: {number}"
        return None

    def close(self) -> None:
        self._messenger.close()

    def _mine(self, body: bytes) -> IncidentEvent | None:
        """Return the event if the target gets it."""
        with suppress(WireError):
            event = decode(body)
            if isinstance(event, IncidentEvent) and self._target.key in event.data.notify:
                return event
        return None

    def _is_late(self, event: IncidentEvent) -> bool:
        with suppress(ValueError, OverflowError):
            return time.time() - unix_time(event.time) > self._target.settings.max_age
        return True

    def _is_late_or_other(self, body: bytes) -> bool:
        event = self._mine(body)
        return event is None or self._is_late(event)

    def _read_ahead(self, position: int) -> Iterator[tuple[int, bytes]]:
        """Yield the late events of the target after `position`, up to the first newer one."""
        with closing(LedgerQuery(self._ledger)) as query:
            while True:
                page = query.after(position, READ_AHEAD)
                for entry in page.entries:
                    event = self._mine(entry.body) if self._target.selects(entry.body) else None
                    if event is not None and not self._is_late(event):
                        return
                    if event is not None:
                        yield entry.position, entry.body
                if len(page.entries) < READ_AHEAD:
                    return
                position = page.position

    def _summarise(self, waiting: Sequence[tuple[int, bytes]], last: int) -> tuple[int, list[int]]:
        """Send one message for the late events at the beginning of `waiting`.

        Return how many of `waiting` are done, and the positions that the message covers. If all are late, it covers the
        late events after the batch too, which ends at position `last`.
        """
        late = list(takewhile(lambda one: self._is_late_or_other(one[1]), waiting))
        ahead = list(self._read_ahead(max(last, self._progress.position))) if len(late) == len(waiting) else []
        mine = [(position, event) for position, body in (*late, *ahead) if (event := self._mine(body)) is not None]
        positions = [position for position, _ in mine]
        self._send(summary_of([event for _, event in mine], self._target.zone), positions)
        self._summarised += len(mine)
        if ahead:
            self._progress.advance(ahead[-1][0])
        return len(late), positions

    def _send(self, message: Message, positions: Sequence[int]) -> None:
        """Send a message for the events at `positions`. A refused one is sent without its picture, then given up."""
        is_repeat = self._in_doubt in positions
        if is_repeat and not self._target.settings.replaces:
            message = marked_as_repeat(message)
        self._progress.begin(positions[0])
        try:
            try:
                self._messenger.send(message)
            except SinkRefused:
                if message.picture is None:
                    raise
                self._messenger.send(replace(message, picture=None))
        except SinkRefused as error:
            for position in positions:
                self._progress.dead_letter(position, str(error))
        except SinkError as error:
            self._failures += 1
            if error.in_doubt and not is_repeat:
                self._in_doubt = positions[0]
            elif not is_repeat:  # it has certainly not arrived
                self._progress.settle()
            delay = exponential(FIRST_WAIT_S, MAX_WAIT_S, self._failures) * random.uniform(0.5, 1.0)
            raise SinkError(str(error), max(delay, error.wait_s or 0.0)) from None
        self._failures, self._in_doubt = 0, None
        self._repeated += is_repeat
