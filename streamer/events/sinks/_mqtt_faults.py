"""Judges why a connection to an MQTT broker is lost repeatedly: a second client, or an event that breaks it."""

from __future__ import annotations

from streamer.core.backoff import exponential
from streamer.events.sinks._mqtt_connection import ClosedWithoutReason, SessionTakenOver

FIRST_TAKEN_S, MAX_TAKEN_S = 60.0, 600.0
"""Delay before the next connection after another program took the session: the first, and the longest. Two agents of
one name must not push each other out all the time."""
CLOSED_TIMES = 4
"""Connections in a row that the broker closed without a reason, from which on another program is suspected."""
STABLE_S = 60.0
"""A connection that lived this long makes the next loss count as the first one."""
MAX_ATTEMPTS = 3
"""Lost connections with one event unacknowledged, after which it is sent last; so many more make it a dead letter."""


class Takeovers:
    """Counts the connections that another program with the same client id took, as far as one can know."""

    def __init__(self) -> None:
        self._closed = 0  # in a row without a reason
        self._taken = 0

    def on_lost(self, error: BaseException, lived_s: float, has_cause: bool) -> float | None:
        """Return the seconds to wait when a connection was taken after `lived_s`, None when it was lost otherwise.

        `has_cause`: there is another reason to close it.
        """
        if lived_s > STABLE_S:
            self._closed = 0
        if lived_s > 2 * MAX_TAKEN_S:
            self._taken = 0
        self._closed += isinstance(error, ClosedWithoutReason) and not has_cause
        if not isinstance(error, SessionTakenOver) and self._closed < CLOSED_TIMES:
            return None
        self._taken += 1
        return exponential(FIRST_TAKEN_S, MAX_TAKEN_S, self._taken)


class Suspect:
    """The event that was the oldest unacknowledged one in one lost connection after the other.

    Then it is sent last, to see whether the broker accepts others.
    """

    def __init__(self) -> None:
        self.losses = 0
        self._position: int | None = None
        self._proofs = 0  # losses before which others were accepted
        self._others_accepted = False

    def put_last(self, events: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        return sorted(events, key=lambda one: one[0] == self._position) if self.losses >= MAX_ATTEMPTS else events

    def on_accepted(self, position: int) -> None:
        if position == self._position:
            self._position, self.losses = None, 0
        self._others_accepted = True

    def on_lost(self, position: int) -> bool:
        """Count a lost connection, and return True when the event is to blame."""
        if position != self._position:
            self._position, self.losses, self._proofs = position, 0, 0
        else:
            self._proofs += self._others_accepted
        self.losses += 1
        self._others_accepted = False
        return self._proofs >= MAX_ATTEMPTS
