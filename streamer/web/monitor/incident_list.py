"""The newest incidents of the rules, from the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from streamer.core.errors import WireError
from streamer.events.ledger.query import Filter, LedgerQuery
from streamer.events.schema import IncidentEvent, decode
from streamer.events.sinks import RulesState
from streamer.web.monitor.event_follower import EventFollower

INCIDENTS = Filter(incidents=True)
KEPT = 500
"""Incidents that are kept after their end: those that ended last."""
LOOK_BACK = 2000
"""Incident events read at the start: the newest, whatever other events are between them. Open incidents come on top."""
BATCH = 500
"""Events per read."""


class IncidentList:
    """Reads the ledger in `run`, in a thread and on a connection that no other reader uses."""

    def __init__(self, query: LedgerQuery, follower: EventFollower, rules_state: Callable[[int], RulesState]) -> None:
        """`follower`: wakes this reader when there are new events, and ends it.

        `rules_state`: returns the incidents that are open after the event at a position, however old they are.
        """
        self._query, self._follower, self._rules_state = query, follower, rules_state
        self._thread = ThreadPoolExecutor(1, "incidents")
        self._open: dict[str, IncidentEvent] = {}
        self._over: dict[str, IncidentEvent] = {}  # the one that ended last at the end
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
        state = await loop.run_in_executor(self._thread, self._rules_state, position)
        self._add(entry.body for entry in past.entries)
        self._add(state.open_incidents.values())
        self.position = position
        while not self._follower.closed:
            changed = self._follower.changed
            page = await loop.run_in_executor(self._thread, self._query.after, position, BATCH, INCIDENTS)
            self._add(entry.body for entry in page.entries)
            if page.position == position:
                await changed.wait()
            self.position = position = page.position

    @property
    def open_count(self) -> int:
        return len(self._open)

    def newest_first(self) -> Iterator[IncidentEvent]:
        """Yield the newest event of each incident, the incident that started last first."""
        found = [*self._over.values(), *self._open.values()]
        return iter(sorted(found, key=lambda one: one.data.started, reverse=True))

    def find(self, incident: str) -> IncidentEvent | None:
        """Return the newest event of an incident, None if it is not kept."""
        return self._open.get(incident) or self._over.get(incident)

    def _add(self, bodies: Iterable[bytes]) -> None:
        for body in bodies:
            try:
                event = decode(body)
            except WireError:  # of another version; the follower has logged it
                continue
            if isinstance(event, IncidentEvent):
                self._keep(event)

    def _keep(self, event: IncidentEvent) -> None:
        """Keep the newest event of an incident, without the list of its evidence."""
        data, known = event.data, self.find(event.data.incident)
        if known is not None and known.data.number > data.number:
            return
        short = event.model_copy(update={"data": data.model_copy(update={"evidence": ()})})
        if data.state != "end":
            self._open[data.incident] = short
            return
        self._open.pop(data.incident, None)
        self._over[data.incident] = short
        if len(self._over) > KEPT:
            del self._over[next(iter(self._over))]
