"""Reading the ledger by position."""

from __future__ import annotations

from pathlib import Path

from streamer.events.ledger import Ledger
from streamer.events.ledger.query import Filter, LedgerQuery
from tests.support.sample_events import event


def test_query_reads_a_new_ledger_from_its_start(tmp_path: Path) -> None:
    query = LedgerQuery(tmp_path / "ledger.db")
    assert query.after(7, 10) == ([], 0)
    for count in (5, 2):
        with Ledger(tmp_path / "ledger.db") as ledger:
            ledger.commit([event(seq=seq) for seq in range(count)])
        page = query.after(5 if count == 2 else 0, 10)
        assert [entry.position for entry in page.entries] == list(range(1, count + 1))
        for file in tmp_path.glob("ledger.db*"):
            file.unlink()
    assert query.newest(3, Filter(text="x")) == ([], 0)
    query.close()
