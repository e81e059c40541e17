"""The newest incidents of the rules, from the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from streamer.core.errors import WireError
from streamer.events.ledger.query import Entry, Filter, LedgerQuery
from streamer.events.schema import IncidentEvent, decode
from streamer.web.monitor.event_follower import EventFollower

INCIDENTS = Filter(incidents=True)
KEPT = 500
"""Incidents that are kept: the newest, and older ones only while they are open."""
LOOK_BACK = 2000
"""Incident events read at the start: the newest, whatever other events are between them."""
BATCH = 500
"""Events per read."""


class IncidentList:
    """Reads the ledger in `run`, in a thread and on a connection that no other reader uses."""

    def __init__(self, query: LedgerQuery, follower: EventFollower) -> None:
        """`follower`: wakes this reader when there are new events, and ends it."""
        self._query, self._follower = query, follower
        self._thread = ThreadPoolExecutor(1, "incidents")
        self._newest: dict[str, IncidentEvent] = {}
        self.position: int | None = None
        """Position up to which the incidents are known; None while the past is searched."""

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._query.close()

    async def run(self) -> None:
        """Read the past incidents, then the new ones until the follower is closed."""
        loop = asyncio.get_running_loop()
        past = await loop.run_in_executor(self._thread, self._query.newest, LOOK_BACK, INCIDENTS)
        position = past.position
        self._add(past.entries)
        self.position = position
        while not self._follower.closed:
            changed = self._follower.changed
            page = await loop.run_in_executor(self._thread, self._query.after, position, BATCH, INCIDENTS)
            self._add(page.entries)
            if page.position == position:
                await changed.wait()
            self.position = position = page.position

    @property
    def open_count(self) -> int:
        return sum(one.data.state != "end" for one in self._newest.values())

    def newest_first(self) -> Iterator[IncidentEvent]:
        """Yield the newest event of each incident, the incident that started last first."""
        return iter(sorted(self._newest.values(), key=lambda one: one.data.started, reverse=True))

    def find(self, incident: str) -> IncidentEvent | None:
        """Return the newest event of an incident, None if it is not kept."""
        return self._newest.get(incident)

    def _add(self, entries: list[Entry]) -> None:
        for entry in entries:
            try:
                event = decode(entry.body)
            except WireError:  # of another version; the follower has logged it
                continue
            if isinstance(event, IncidentEvent):
                self._keep(event)

    def _keep(self, event: IncidentEvent) -> None:
        """Keep the newest event of an incident, without the list of its evidence."""
        data, known = event.data, self._newest.get(event.data.incident)
        if known is not None and known.data.number > data.number:
            return
        self._newest[data.incident] = event.model_copy(update={"data": data.model_copy(update={"evidence": ()})})
        if len(self._newest) > 2 * KEPT:
            for number, old in enumerate(list(self.newest_first())):
                if number >= KEPT and old.data.state == "end":
                    del self._newest[old.data.incident]
