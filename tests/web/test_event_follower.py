"""States that the page and the metrics derive from events."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from streamer.events.build import schedule_event, worker_event
from streamer.events.ledger.query import LedgerQuery
from streamer.events.result_data import EventParent
from streamer.types import Priority
from streamer.web.monitor.event_follower import MAX_OBJECTS, EventFollower
from tests.support.sample_events import event


def test_stretch_is_that_of_all_processes(tmp_path: Path) -> None:
    follower = EventFollower(LedgerQuery(tmp_path / "ledger.db"))

    def report(worker: str | None, stretch: Mapping[str, Mapping[Priority, float]]) -> None:
        follower._record_status(schedule_event("home", stretch, None, worker=worker), 0.0, is_new=True)

    report("infer:0", {"gate": {"low": 2.0}})
    report("infer:1", {"yard": {"low": 3.0}})
    assert follower.stretch == {"gate": {"low": 2.0}, "yard": {"low": 3.0}}
    report("infer:1", {})
    assert follower.stretch == {"gate": {"low": 2.0}}
    follower._record_status(worker_event("home", "infer:1", "restarted"), 0.0, is_new=True)
    assert follower.stretch == {"gate": {"low": 2.0}}
    follower._record_status(worker_event("home", "infer:0", "restarted"), 0.0, is_new=True)
    assert follower.stretch == {}
    report("infer:0", {"gate": {"low": 2.0}})
    report("infer:0b", {})
    assert follower.stretch == {}, "the process with another model serves the streams of the first one"
    report(None, {"gate": {"low": 2.0}})
    follower._record_status(worker_event("home", "infer", "restarted"), 0.0, is_new=True)
    assert follower.stretch == {}
    follower.close()


def test_newest_description_of_each_object_is_kept(tmp_path: Path) -> None:
    follower = EventFollower(LedgerQuery(tmp_path / "ledger.db"))

    def describe(track: int | None, text: str, epoch: int = 1) -> None:
        parent = EventParent(id="e", label="person", track=track)
        plain = event("gate", name="who")
        assert plain.data.result is not None
        body = plain.data.result.model_copy(update={"text": text})
        update = {"parent": parent, "result": body, "epoch": epoch, "region": (0.1, 0.2, 0.3, 0.6)}
        whole = plain.model_copy(update={"data": plain.data.model_copy(update=update)})
        follower._record_result(whole, 0.0, is_new=True)

    def texts() -> dict[int, Any]:
        return {track: one.data.result and one.data.result.text for track, one in follower.objects["gate"].items()}

    for track, text in ((1, "a man"), (2, "a girl"), (None, "a dog"), (1, "a man with a hat")):
        describe(track, text)
    assert list(texts().items()) == [(2, "a girl"), (1, "a man with a hat")]
    describe(1, "a cat", epoch=2)
    describe(2, "a late answer", epoch=1)
    assert texts() == {1: "a cat"}
    for track in range(100):
        describe(track, "a bird", epoch=2)
    assert list(texts()) == list(range(100 - MAX_OBJECTS, 100))
    follower.close()


def test_unchanged_result_keeps_the_answer(tmp_path: Path) -> None:
    follower = EventFollower(LedgerQuery(tmp_path / "ledger.db"))
    answer = event("gate", name="people")
    follower._record_result(answer, 0.0, is_new=True)
    later = answer.data.model_copy(update={"outcome": "unchanged", "result": None})
    follower._record_result(answer.model_copy(update={"data": later}), 1.0, is_new=True)
    newest = follower.results["gate", "people"]["data"]
    assert newest["outcome"] == "unchanged"
    assert newest["result"]["boxes"][0]["label"] == "person"
    follower.close()
