"""The socket of the rules process: checks commands, and answers once their events are in the ledger and in effect."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from streamer.bus.commands import RULES, ShowRules, parse
from streamer.bus.rpc import Request, RpcServer, rules_socket
from streamer.bus.rules_client import STORED_S
from streamer.core.errors import ConfigError, WireError
from streamer.core.reasons import reason_of
from streamer.events.incident_data import IncidentData
from streamer.events.ledger.query import LedgerQuery
from streamer.events.schema import IncidentEvent, StatusEvent, decode
from streamer.rules.commands import check, overview
from streamer.rules.engine import Engine
from streamer.rules.incident import event_id

log = logging.getLogger(__name__)

MAX_PENDING = 64
"""Commands that may wait for the ledger; a further one is refused."""


class _Pending(NamedTuple):
    request: Request
    done: str
    deadline: float
    """Monotonic second."""


class RulesCommands:
    """Commands that have arrived, and those whose events are not in the ledger yet."""

    def __init__(self, runtime: Path, query: LedgerQuery, send_event: Callable[[StatusEvent], None]) -> None:
        self._query, self._send_event = query, send_event
        self._server = RpcServer(rules_socket(runtime))
        self.socket = self._server.socket
        """To poll for reading; then call `poll_once`."""
        self._pending: dict[str, _Pending] = {}  # by the id of the event

    def close(self) -> None:
        self._server.close()

    def poll_once(self, engine: Engine) -> None:
        """Check the commands that have arrived, and fail those that the ledger does not take in time."""
        for request in self._server.receive():
            try:
                self._handle(request, engine)
            except Exception as error:  # whatever a caller sends, the rules run on and the caller gets an answer
                self._server.reply_error(request, reason_of(error, "rules"))
        now = time.monotonic()
        for key in [key for key, pending in self._pending.items() if now > pending.deadline]:
            reason = (
                f"the ledger has not stored the command within {STORED_S:g} s: emit is restarting or the disk is full"
            )
            self._server.reply(self._pending.pop(key).request, failed=f"{reason}. The command takes effect afterwards")

    def on_event(self, event: str) -> None:
        """Take the id of an event that the engine has read from the ledger: its command is in effect."""
        if pending := self._pending.pop(event, None):
            self._server.reply(pending.request, done=pending.done)

    def _handle(self, request: Request, engine: Engine) -> None:
        command = parse(RULES, request.message)
        if isinstance(command, ShowRules):
            self._server.reply(request, **overview(engine, time.time()))
            return
        if len(self._pending) >= MAX_PENDING:
            raise ConfigError(f"{MAX_PENDING} commands wait for the ledger already: try again later")
        checked = check(command, engine, self._find, time.time())
        self._pending[checked.event.id] = _Pending(request, checked.done, time.monotonic() + STORED_S)
        self._send_event(checked.event)
        log.info("command of %s: %s", command.by, checked.done)

    def _find(self, incident: str) -> IncidentData | None:
        entry = self._query.find(event_id(incident, "start", 0))
        try:
            event = decode(entry.body) if entry is not None else None
        except WireError:
            return None
        return event.data if isinstance(event, IncidentEvent) else None
