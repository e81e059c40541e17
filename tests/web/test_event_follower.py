"""States that the page and the metrics derive from events."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from streamer.events.build import schedule_event, worker_event
from streamer.events.ledger.query import LedgerQuery
from streamer.types import Priority
from streamer.web.monitor.event_follower import EventFollower


def test_stretch_is_that_of_all_processes(tmp_path: Path) -> None:
    follower = EventFollower(LedgerQuery(tmp_path / "ledger.db"))

    def report(worker: str | None, stretch: Mapping[str, Mapping[Priority, float]]) -> None:
        follower._record_status(schedule_event("home", stretch, None, worker=worker), is_new=True)

    report("infer:0", {"gate": {"low": 2.0}})
    report("infer:1", {"yard": {"low": 3.0}})
    assert follower.stretch == {"gate": {"low": 2.0}, "yard": {"low": 3.0}}
    report("infer:1", {})
    assert follower.stretch == {"gate": {"low": 2.0}}
    follower._record_status(worker_event("home", "infer:1", "restarted"), is_new=True)
    assert follower.stretch == {"gate": {"low": 2.0}}
    follower._record_status(worker_event("home", "infer:0", "restarted"), is_new=True)
    assert follower.stretch == {}
    report(None, {"gate": {"low": 2.0}})
    follower._record_status(worker_event("home", "infer", "restarted"), is_new=True)
    assert follower.stretch == {}
    follower.close()
