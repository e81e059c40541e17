"""Keeps people's verdicts on incidents, as the rules process reads them from the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from streamer.core.errors import WireError
from streamer.events.incident_data import IncidentData
from streamer.events.ledger.query import LedgerQuery
from streamer.events.schema import IncidentEvent, StatusEvent, decode
from streamer.events.verdicts import VerdictFile
from streamer.rules.feedback import judgement_of
from streamer.rules.incident import event_id

if TYPE_CHECKING:
    from streamer.processes.wrong_incidents import WrongIncidents


class Judgements:
    """Stores a verdict with the scores of its incident, which the ledger forgets one day."""

    def __init__(self, state: Path, query: LedgerQuery, wrong: WrongIncidents | None = None) -> None:
        """`state`: the state folder of the agent. `wrong`: gets the incidents that are called wrong."""
        self._file, self._query, self._wrong = VerdictFile(state), query, wrong

    def store(self) -> bool:
        """Return whether all verdicts are on the disk."""
        return self._file.store()

    def on_event(self, event: StatusEvent) -> None:
        """Take a status of the ledger."""
        if event.subject != "rules.feedback" or event.data.command is None:
            return
        command = event.data.command
        incident = self._newest(command.incident or "")
        judgement = judgement_of(command, event.time, incident)
        if judgement is None:
            return
        self._file.add(judgement)
        if self._wrong is not None and incident is not None:
            self._wrong.add(judgement, incident)

    def _newest(self, incident: str) -> IncidentData | None:
        """Return the newest event of an incident. The ids of its events follow from their numbers."""
        newest = found = self._find(event_id(incident, "start", 0))
        while found is not None:
            newest, number = found, found.number + 1
            found = self._find(event_id(incident, "update", number)) or self._find(event_id(incident, "end", number))
        return newest

    def _find(self, event: str) -> IncidentData | None:
        entry = self._query.find(event)
        try:
            found = decode(entry.body) if entry is not None else None
        except WireError:
            return None
        return found.data if isinstance(found, IncidentEvent) else None
