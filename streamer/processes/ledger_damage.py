"""Reports that a process cannot read the ledger, and has emit replace the damaged file."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from streamer.events.build import rules_event
from streamer.events.ledger.query import Page
from streamer.events.ledger.recovery import damage_mark
from streamer.events.schema import StatusEvent

log = logging.getLogger(__name__)

CONFIRM_S = 1.0
"""Seconds for which all reads must fail: a file that emit replaces at this moment is whole afterwards."""
MARK_EVERY_S = 60.0
"""Shortest time between two requests to replace the file: each one deletes old events."""


class LedgerDamage:
    """The state of the ledger as the rules see it. Call `observe` after each read."""

    def __init__(self, agent: str, ledger: Path, send: Callable[[StatusEvent], None]) -> None:
        self._agent, self._ledger, self._send = agent, ledger, send
        self._since: float | None = None  # monotonic second of the first read that failed
        self._is_reported = False
        self._marked_at = -MARK_EVERY_S

    def observe(self, page: Page, now: float) -> None:
        """Take the result of a read. `now`: monotonic second."""
        if not page.is_damaged:
            self._since = None
            if self._is_reported:
                self._is_reported = False
                self._send(rules_event(self._agent, "up"))
                log.info("ledger can be read again, rules go on")
            return
        self._since = now if self._since is None else self._since
        if now < self._since + CONFIRM_S:
            return
        if not self._is_reported:
            self._is_reported = True
            reason = f"the ledger is damaged: no event after position {page.position} can be read"
            self._send(rules_event(self._agent, "down", reason))
            log.error("rules stopped: %s", reason)
        if now >= self._marked_at + MARK_EVERY_S:
            self._marked_at = now
            with suppress(OSError):  # a disk that fails; tried again
                damage_mark(self._ledger).touch()
