"""Reading the ledger for clients: searches have a time limit and delay nobody."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from streamer.events.ledger import Ledger
from streamer.events.ledger.query import SPAN, Filter, LedgerQuery
from streamer.events.ledger.schema import checksum
from streamer.events.schema import encode
from streamer.web import ledger_reader
from streamer.web.ledger_reader import MAX_WAITING_SEARCHES, SEARCHES, LedgerReader, TooManySearches
from streamer.web.monitor.event_follower import EventFollower
from tests.support.sample_events import event

T = TypeVar("T")
EVENTS = 12 * SPAN
RARE = Filter(text="nothing says this")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a ledger that a search needs seconds for: its events are parsed because they hold the text as a key."""
    path = tmp_path_factory.mktemp("l") / "ledger.db"
    with Ledger(path) as ledger:
        ledger.commit([event()])
    body = encode(event())[:-1] + b',"nothing says this":"' + b"x" * 2000 + b'"}'
    rows = ((pos, str(pos), "many", pos, time.time(), checksum(pos, body), body) for pos in range(2, EVENTS + 2))
    with sqlite3.connect(path) as database:
        database.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    database.close()
    return path


def run(path: Path, use: Callable[[LedgerReader], Awaitable[T]]) -> T:
    async def with_reader() -> T:
        query = LedgerQuery(path)
        follower = EventFollower(query)
        reader = LedgerReader(path, follower)
        following = asyncio.create_task(follower.run())
        try:
            return await use(reader)
        finally:
            follower.close()
            await following
            reader.close()
            query.close()

    return asyncio.run(with_reader())


def test_long_search_is_cut_and_delays_nobody(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_reader, "SEARCH_S", 0.5)

    async def search(reader: LedgerReader) -> None:
        searches = [asyncio.create_task(reader.page(None, 10, RARE)) for _ in range(SEARCHES)]
        await asyncio.sleep(0.05)
        assert len((await reader.page(None, 10, Filter())).entries) == 10
        assert not any(one.done() for one in searches), "the page of events waited for the searches"
        for page in await asyncio.gather(*searches):
            assert page.entries == []
            assert page.cut_at is not None
            assert page.cut_at % SPAN in (0, 1)

    run(large, search)


def test_searches_beyond_the_limit_are_refused(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_reader, "SEARCH_S", 0.1)

    async def search(reader: LedgerReader) -> None:
        searches = [asyncio.create_task(reader.page(0, 10, RARE)) for _ in range(SEARCHES + MAX_WAITING_SEARCHES)]
        await asyncio.sleep(0)
        with pytest.raises(TooManySearches):
            await reader.page(0, 10, RARE)
        assert all(page.cut_at for page in await asyncio.gather(*searches))
        assert (await reader.page(0, 10, RARE)).cut_at

    run(large, search)


def test_follower_of_a_rare_event_passes_all_others(large: Path) -> None:
    async def follow(reader: LedgerReader) -> None:
        found = reader.follow(EVENTS - SPAN, RARE, keep_alive=0.1)
        assert await anext(found) is None  # everything was looked at

    run(large, follow)
