"""Incidents of which the ledger holds events behind the stored state: the agent was killed before the next store.

The rules read the events behind the state again. An incident whose rule is gone or has changed does not begin again
then, so only its events tell that it is open.
"""

from __future__ import annotations

from dataclasses import dataclass

from streamer.core.errors import WireError
from streamer.events.incident_data import IncidentData
from streamer.events.ledger.query import Filter, LedgerQuery
from streamer.events.part import unix_time
from streamer.events.schema import IncidentEvent, decode
from streamer.rules.incident import Evidence, Incident, Key

BATCH = 500
"""Events per read."""


@dataclass(frozen=True, slots=True)
class Published:
    """An incident as its newest event shows it."""

    key: Key
    rule_hash: str
    incident: Incident
    at: float
    """Unix second of that event."""
    is_over: bool = False

    def updated_by(self, later: Published | None) -> Published:
        """Return the newer one of two; its incident has the alerts of both."""
        if later is None or later.incident.number <= self.incident.number:
            return self
        later.incident.told = {**self.incident.told, **later.incident.told}
        return later


def published_behind(query: LedgerQuery, position: int) -> dict[str, Published]:
    """Return the incidents with events behind a position of the ledger, by their ids."""
    found: dict[str, Published] = {}
    while True:
        page = query.after(position, BATCH, Filter(incidents=True))
        for entry in page.entries:
            try:
                event = decode(entry.body)
            except WireError:
                continue
            if isinstance(event, IncidentEvent):
                newest, name = _published(event), event.data.incident
                found[name] = found[name].updated_by(newest) if name in found else newest
        position = page.position
        if len(page.entries) < BATCH:
            return found


def _published(event: IncidentEvent) -> Published:
    data = event.data
    key = (data.rule, data.stream)
    return Published(key, data.rule_hash, _incident(data), unix_time(event.time), is_over=data.state == "end")


def _incident(data: IncidentData) -> Incident:
    started, best = unix_time(data.started), data.best
    return Incident(
        data.incident,
        started,
        since=started,
        severity=data.severity,
        best=Evidence(best.event, best.epoch, best.seq, best.label, best.score, best.box, snapshot=best.snapshot),
        start_score=data.start_score,
        count=data.count,
        answers=data.answers,
        number=data.number + 1,
        why=data.why,
        acknowledged=data.acknowledged,
        told={} if data.silent else dict.fromkeys(data.notify, data.severity),
    )
