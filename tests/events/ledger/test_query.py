"""Reading the ledger by position."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

from streamer.events.ledger import Ledger
from streamer.events.ledger.cursor import advance_reader
from streamer.events.ledger.query import SPAN, Filter, LedgerQuery, Page
from streamer.events.ledger.retention import Retention
from tests.support.sample_events import event, incident


def test_query_reads_a_new_ledger_from_its_start(tmp_path: Path) -> None:
    query = LedgerQuery(tmp_path / "ledger.db")
    assert query.after(7, 10) == Page([], 0)
    for count in (5, 2):
        with Ledger(tmp_path / "ledger.db") as ledger:
            ledger.commit([event(seq=seq) for seq in range(count)])
        page = query.after(5 if count == 2 else 0, 10)
        assert [entry.position for entry in page.entries] == list(range(1, count + 1))
        for file in tmp_path.glob("ledger.db*"):
            file.unlink()
    assert query.newest(3, Filter(text="x")) == Page([], 0)
    query.close()


def test_search_is_cut_and_continues(tmp_path: Path) -> None:
    """A search without time left looks at one span and says where it stopped."""
    with Ledger(tmp_path / "ledger.db") as ledger:
        ledger.commit([event(seq=seq) for seq in range(SPAN)])
        ledger.commit([event(seq=seq, name="other") for seq in range(SPAN)])
    query, rare = LedgerQuery(tmp_path / "ledger.db"), Filter(task="people", text="person")
    assert query.newest(3, rare, seconds=0) == Page([], 2 * SPAN, SPAN)
    assert [entry.position for entry in query.newest(3, rare).entries] == [SPAN - 2, SPAN - 1, SPAN]
    nothing = Filter(text="nothing says this")
    assert query.after(0, 3, nothing, seconds=0) == Page([], SPAN, SPAN)
    assert query.after(SPAN, 3, nothing, seconds=0) == Page([], 2 * SPAN)
    assert query.after(0, 3, nothing) == Page([], 2 * SPAN)
    query.close()


def test_incidents_are_found_among_many_other_events(tmp_path: Path) -> None:
    """Also in a file made before their positions were kept, and after old events were deleted."""
    with Ledger(tmp_path / "ledger.db", "home", Retention(keep=1.0)) as ledger:
        ledger.cursors([], ["rules"])  # which keeps events from being deleted
        ledger.commit([event(seq=0), incident("start", 0)])
        ledger._db.execute("DROP TABLE incident")
    incidents = Filter(incidents=True)
    with closing(LedgerQuery(tmp_path / "ledger.db")) as query:
        assert query.newest(3, incidents) == Page([], 0), "the ledger is not open for writing yet"
        with Ledger(tmp_path / "ledger.db", "home", Retention(keep=1.0)) as ledger:
            ledger.cursors([], ["rules"])
            ledger.commit([incident("update", 1), *(event(seq=seq) for seq in range(1, 30)), incident("end", 2)])
            assert [entry.position for entry in query.newest(3, incidents).entries] == [3, 33]
            assert [entry.position for entry in query.newest(1, incidents).entries] == [33]
            assert [entry.position for entry in query.after(3, 3, incidents).entries] == [33]
            assert query.after(33, 3, incidents) == Page([], 33)
            advance_reader(tmp_path / "ledger.db", "rules", 20)
            ledger._delete_oldest(33, time.time() + 100)
            assert ledger._db.execute("SELECT pos FROM incident").fetchall() == [(33,)]


def test_page_is_full_despite_damaged_events(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db") as ledger:
        ledger.commit([event(seq=seq) for seq in range(6)])
        ledger._db.execute("UPDATE events SET crc = crc + 1 WHERE pos IN (2, 3, 6)")
    with closing(LedgerQuery(tmp_path / "ledger.db")) as query:
        assert [entry.position for entry in query.after(0, 3).entries] == [1, 4, 5]
        assert [entry.position for entry in query.newest(3).entries] == [1, 4, 5]
        assert [entry.position for entry in query.after(1, 1).entries] == [4]
        assert query.after(5, 3) == Page([], 6)
        assert query.newest(1).entries[0].position == 5
