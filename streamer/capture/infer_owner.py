"""The inference process as a capture process sees it. Pure."""

from __future__ import annotations

from collections import deque


class InferOwner:
    """Tracks the id of the inference process, whose frames are counted.

    Only one exists at a time, so a message with a new id proves that the process before it died.
    """

    def __init__(self) -> None:
        self.id: str | None = None
        self.last_message: float | None = None
        """Monotonic second."""
        self.end_acknowledged = False
        """It was sent the response that the source has ended."""
        self._dead: deque[str] = deque(maxlen=64)

    def on_message(self, owner: str, now: float) -> str | None:
        """Record a message of an inference process. Return the id of the dead process it replaces, or None."""
        self.last_message = now
        if owner == self.id:
            return None
        self.id, replaced = owner, self.id
        if replaced is not None:
            self._dead.append(replaced)
            self.end_acknowledged = False
        return replaced

    def is_dead(self, owner: str) -> bool:
        """Return True for a replaced process: its remaining messages were sent before it died."""
        return owner in self._dead
