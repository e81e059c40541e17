"""Judges whether a connection to an MQTT broker is lost repeatedly because of a second client."""

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
