"""Read the ledger for clients, so that a long search delays neither other clients nor the state of the page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from streamer.events.ledger.query import Entry, Filter, LedgerQuery, Page
from streamer.web.monitor.event_follower import EventFollower

SEARCH_S = 5.0
"""Longest time of one search. What it found until then is returned."""
SEARCHES = 2
"""Searches at once, each in a thread and on a connection of its own."""
MAX_WAITING_SEARCHES = 6
"""Further searches wait for a thread; more than this are refused."""
SLICE_S = 0.2
"""Longest time of one read for a client that follows events, so that others get their turn."""
BATCH = 500
"""Events per read for a client that follows events."""


class TooManySearches(Exception):
    """Raised if all threads are busy and enough searches wait: the client should try again later."""


class LedgerReader:
    """Pages of events, and events as they happen. Belongs to the event loop."""

    def __init__(self, path: Path, follower: EventFollower) -> None:
        self._follower = follower
        self._plain = LedgerQuery(path)
        self._searches = [LedgerQuery(path) for _ in range(SEARCHES)]
        self._free = list(self._searches)
        self._pool = ThreadPoolExecutor(SEARCHES, "search")
        self._open: set[Future[Page]] = set()

    def close(self) -> None:
        """Close all connections. A search that still runs has no result."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for query in (self._plain, *self._searches):
            query.close()

    async def page(self, after: int | None, limit: int, matching: Filter) -> Page:
        """Return the newest events, or the first ones after a position. Raises TooManySearches."""
        if not matching.scans:
            return await asyncio.to_thread(_page, self._plain, after, limit, matching)
        if len(self._open) >= SEARCHES + MAX_WAITING_SEARCHES:
            raise TooManySearches
        search = self._pool.submit(self._search, after, limit, matching)
        self._open.add(search)
        search.add_done_callback(self._open.discard)
        return await asyncio.wrap_future(search)

    async def find(self, event: str) -> Entry | None:
        """Return the event with this id, or None."""
        return await asyncio.to_thread(self._plain.find, event)

    def _search(self, after: int | None, limit: int, matching: Filter) -> Page:
        query = self._free.pop()
        try:
            return _page(query, after, limit, matching)
        finally:
            self._free.append(query)

    async def follow(self, after: int, matching: Filter, keep_alive: float) -> AsyncIterator[Entry | None]:
        """Yield matching events after a position until the follower is closed, and None after `keep_alive` seconds."""
        while not self._follower.closed:
            changed = self._follower.changed
            page = await asyncio.to_thread(self._plain.after, after, BATCH, matching, SLICE_S)
            for entry in page.entries:
                yield entry
            if page.position != after:
                after = page.position
                continue
            try:
                await asyncio.wait_for(changed.wait(), keep_alive)
            except TimeoutError:
                yield None


def _page(query: LedgerQuery, after: int | None, limit: int, matching: Filter) -> Page:
    if after is None:
        return query.newest(limit, matching, SEARCH_S)
    return query.after(after, limit, matching, SEARCH_S)
