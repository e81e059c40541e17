"""The state of one H.264 output: reports its changes, and delays the next attempt after a failure."""

from __future__ import annotations

import logging
import time

from streamer.bus.event_channel import EventClient
from streamer.core.backoff import ReconnectBackoff, Settling
from streamer.core.errors import SourceRefused
from streamer.core.reasons import reason_of
from streamer.events.build import output_event

log = logging.getLogger(__name__)

STABLE_S = 10.0
"""An output that worked this long resets the backoff."""


class OutputState:
    """Up, down, or not known yet."""

    def __init__(self, agent: str, label: str, events: EventClient, is_up: bool | None) -> None:
        """`is_up`: the state that is not reported because it is assumed; None reports the first state."""
        self._agent, self._label, self._events, self._is_up = agent, label, events, is_up
        self._backoff = ReconnectBackoff()
        self._settling = Settling()
        self._retry_at = self._up_at = 0.0

    @property
    def may_open(self) -> bool:
        """True once the delay after the last failure is over."""
        return time.monotonic() >= self._retry_at

    def on_success(self) -> None:
        """A frame was written."""
        now = time.monotonic()
        if not self._is_up and self._settling.is_over(now):
            self._is_up, self._up_at = True, now
            log.info("output %s up", self._label)
            self._events.send(output_event(self._agent, self._label, "up"), None)
        elif self._is_up and now - self._up_at > STABLE_S:
            self._backoff.reset()

    def on_failure(self, error: Exception) -> None:
        """The output could not be opened or written and was closed."""
        now = time.monotonic()
        delay = self._backoff.next_delay(now, isinstance(error, SourceRefused))
        self._retry_at = now + delay
        self._settling.on_failure(now, is_reported=self._is_up is not False)
        if self._is_up is not False:
            reason = reason_of(error, f"output {self._label}")  # not str(error), which contains the URL of a push
            log.error("output %s down: %s", self._label, reason)
            self._events.send(output_event(self._agent, self._label, "down", reason, delay), None)
        self._is_up = False
