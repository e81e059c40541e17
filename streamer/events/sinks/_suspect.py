"""Finds the event on which a receiver breaks again and again, so that it does not hold up all others."""

from __future__ import annotations

MAX_ATTEMPTS = 3
"""Lost connections with one event unacknowledged, after which it is sent last; so many more make it a dead letter."""


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
