"""Delivery to one sink: retries, refusals and dead letters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from streamer.core.errors import SinkError
from streamer.events.ledger import LEDGER_FILE, Ledger
from streamer.events.ledger.dead_letters import request_resend
from streamer.events.schema import StatusEvent
from streamer.events.sink_threads import SinkThread
from streamer.types import Sink
from tests.support.agents import until
from tests.support.sample_events import event


class FaultySink:
    """Raises an unexpected error in the first two calls."""

    def __init__(self) -> None:
        self.calls = 0
        self.positions: list[int] = []

    def write(self, events: Sequence[tuple[int, bytes]]) -> None:
        self.calls += 1
        if self.calls <= 2:
            raise KeyError("a bug")
        self.positions += [position for position, _ in events]

    def close(self) -> None:
        pass


def deliver_all(ledger: Ledger, sink: Sink, last: int) -> list[StatusEvent]:
    """Deliver to one sink up to position `last`; return its status events."""
    statuses: list[StatusEvent] = []
    errors: list[Exception] = []
    cursor = ledger.cursors(["a"])["a"]
    thread = SinkThread("home", "a", lambda: sink, cursor, statuses.append, errors.append)
    thread.start()
    until(lambda: cursor.position == last, 20, "all delivered")
    thread.finish()
    thread.join(20)
    assert not thread.is_alive()
    assert not errors
    return statuses


def test_unexpected_sink_error_is_reported_and_retried(tmp_path: Path) -> None:
    sink = FaultySink()
    with Ledger(tmp_path / LEDGER_FILE) as ledger:
        ledger.cursors(["a"])["a"].close()
        ledger.commit([event(seq=seq) for seq in range(3)])
        statuses = deliver_all(ledger, sink, last=3)

    assert [one.subject for one in statuses] == ["sink.down", "sink.up"]
    assert re.fullmatch(r"internal error [0-9a-f]{6}: the log has the details", statuses[0].data.reason or "")
    assert sink.positions == [1, 2, 3]


def test_bad_response_is_not_taken_for_ledger_damage(tmp_path: Path) -> None:
    class Garbled(FaultySink):
        def write(self, events: Sequence[tuple[int, bytes]]) -> None:
            if not self.calls:
                self.calls = 2
                b"\xff".decode()
            super().write(events)

    with Ledger(tmp_path / LEDGER_FILE) as ledger:
        ledger.cursors(["a"])["a"].close()
        ledger.commit([event(seq=1)])
        statuses = deliver_all(ledger, Garbled(), last=1)

    assert [one.subject for one in statuses] == ["sink.down", "sink.up"]


def test_refusals_are_reported_when_no_event_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.events.sink_threads.REFUSED_EVERY_S", 1.0)
    monkeypatch.setattr("streamer.events.sink_threads.IDLE_S", 0.1)
    statuses: list[StatusEvent] = []
    errors: list[Exception] = []
    with Ledger(tmp_path / LEDGER_FILE) as ledger:
        cursor = ledger.cursors(["a"])["a"]

        class Refusing(FaultySink):
            def write(self, events: Sequence[tuple[int, bytes]]) -> None:
                for position, _ in events:
                    cursor.dead_letter(position, "it is bad")

        thread = SinkThread("home", "a", Refusing, cursor, statuses.append, errors.append)
        thread.start()
        for seq in range(3):
            ledger.commit([event(seq=seq)])
            thread.wake()
            until(lambda last=seq + 1: cursor.position == last, 20, "it is refused")  # type: ignore[misc]
        until(lambda: sum(int((one.data.reason or "").split()[0]) for one in statuses) == 3, 20, "all are reported")
        thread.finish()
        thread.join(20)

    assert len(statuses) > 1
    assert errors == []


def test_dead_letters_are_resent_together_with_new_events(tmp_path: Path) -> None:
    """Alone, a dead letter that fails again would block new events."""
    sink = FaultySink()
    sink.calls = 2
    with Ledger(tmp_path / LEDGER_FILE) as ledger:
        cursor = ledger.cursors(["a"])["a"]
        ledger.commit([event(seq=1)])
        cursor.dead_letter(1, "a bug")
        cursor.advance(1)
        cursor.close()
        assert request_resend(tmp_path / LEDGER_FILE, "a") == 1
        ledger.commit([event(seq=2)])
        deliver_all(ledger, sink, last=2)
        assert ledger.cursors(["a"])["a"].to_resend(10) == []

    assert sink.positions == [1, 2]


def test_sink_that_fails_again_and_again_is_reported_ever_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.events.sink_threads.FIRST_RETRY_S", 0.001)
    monkeypatch.setattr("streamer.events.sink_threads.IDLE_S", 0.001)
    monkeypatch.setattr("streamer.core.backoff.FIRST_SETTLING_S", 0.5)

    class Flapping(FaultySink):
        idle_s = 2.0

        def write(self, events: Sequence[tuple[int, bytes]]) -> None:
            self.idle()

        def idle(self) -> None:
            self.calls += 1
            if self.calls % 10 == 0:
                raise SinkError("down")

    statuses: list[StatusEvent] = []
    sink = Flapping()
    with Ledger(tmp_path / LEDGER_FILE) as ledger:
        cursor = ledger.cursors(["a"])["a"]
        thread = SinkThread("home", "a", lambda: sink, cursor, statuses.append, lambda error: None)
        thread.start()
        until(lambda: sink.calls > 500, 20, "it failed 50 times")
        thread.finish()
        thread.join(20)

    assert [one.subject for one in statuses[:3]] == ["sink.down", "sink.up", "sink.down"]
    assert len(statuses) <= 10
