"""Delivery of a target's events from the ledger: order, outages, summaries, kills."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from streamer.bus.event_channel import EventClient
from streamer.core.errors import SinkError, SinkRefused
from streamer.events.ledger import LEDGER_FILE, Ledger
from streamer.events.ledger.dead_letters import request_resend
from streamer.events.ledger.retention import Retention
from streamer.events.notify import Apprise, Message
from streamer.events.notify._secret_url import SecretUrl
from streamer.events.notify.delivery import Notifier, Target
from streamer.events.schema import Event, encode
from tests.support.agents import until
from tests.support.emit_process import EmitProcess, lines
from tests.support.hooks import Endpoint, never, ok
from tests.support.incident_events import incident_event
from tests.support.ntfy import NtfyServer
from tests.support.sample_events import event
from tests.support.sinks import sink_context

UTC = ZoneInfo("UTC")
FEW_S = 60.0
LATE = 3600.0


class Phone:
    """A messenger that keeps what it gets, unless `refusal` is set."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.refusal: Exception | None = None
        self.dies_after = 0
        """Number of the message after which the process ends."""

    def send(self, message: Message) -> None:
        if self.refusal is not None and (message.picture is not None or not isinstance(self.refusal, PictureRefused)):
            raise self.refusal
        self.messages.append(message)
        if len(self.messages) == self.dies_after:
            self.dies_after = 0
            raise Killed

    def close(self) -> None: ...


class PictureRefused(SinkRefused):
    """A refusal of messages with a picture."""


class Delivery:
    """A notifier with a real ledger, driven as emit's thread does."""

    def __init__(self, folder: Path, ledger: Ledger, url: str = "ntfy://host/topic", **fields: Any) -> None:
        settings = Apprise(kind="apprise", url=SecretUrl(url), **fields)
        self.phone, self._ledger, self._folder = Phone(), ledger, folder
        self.target = Target("phone", settings, UTC, lambda _: b"picture")
        self.restart()

    def restart(self) -> None:
        """Begin as a new process does."""
        self.cursor = self._ledger.cursors([self.target.name])[self.target.name]
        self.notifier = Notifier(self.target, self.phone, sink_context(self._folder), self.cursor)

    @property
    def ledger_file(self) -> Path:
        return self._folder / LEDGER_FILE

    def add(self, *events: Event) -> None:
        self._ledger.commit(events)

    def run(self, batch: int = 256) -> None:
        while read := self.cursor.read(batch):
            if selected := [one for one in read if self.target.selects(one[1])]:
                self.notifier.write(selected)
            self.cursor.advance(read[-1][0])

    @property
    def titles(self) -> list[str]:
        return [f"{one.state} {one.topic}" for one in self.phone.messages]


@pytest.fixture
def ledger(tmp_path: Path) -> Any:
    with Ledger(tmp_path / LEDGER_FILE, "home", Retention()) as ledger:
        yield ledger


@pytest.fixture
def delivery(tmp_path: Path, ledger: Ledger) -> Any:
    made = Delivery(tmp_path, ledger)
    yield made
    made.cursor.close()


def test_only_events_for_the_target_are_sent_in_order(delivery: Delivery) -> None:
    delivery.add(event(seq=1), incident_event(1), incident_event(2, notify=("mail",)), incident_event(3, notify=()))
    delivery.add(incident_event(1, "update", order=1), incident_event(4))
    delivery.run()
    assert delivery.titles == ["start incident-1", "update incident-1", "start incident-4"]
    (start, *_) = delivery.phone.messages
    assert (start.title, start.body.splitlines()[0]) == ("ladder at gate", "1 x person at gate")
    assert start.picture == b"picture"


@pytest.mark.parametrize("key", ["time", "started"])
@pytest.mark.parametrize("text", ["yesterday", "0001-01-01T00:00:00Z", "2026-11-25T16:00:00"])
def test_row_with_an_impossible_time_holds_nothing_up(delivery: Delivery, key: str, text: str) -> None:
    odd = json.loads(encode(incident_event(1)))
    (odd if key == "time" else odd["data"])[key] = text
    delivery.notifier.write([(1, json.dumps(odd, separators=(",", ":")).encode()), (2, encode(incident_event(2)))])
    assert delivery.titles == ["start incident-2"]


@pytest.mark.parametrize("batch", [2, 256])
def test_late_events_are_one_summary_across_batches(delivery: Delivery, batch: int) -> None:
    for number in range(1, 8):
        delivery.add(incident_event(number, age=LATE), *(event(seq=10 * number + one) for one in range(3)))
    delivery.add(incident_event(2, "update", age=LATE, order=1), incident_event(20), incident_event(21))
    delivery.run(batch)
    assert delivery.titles == ["late late-event-1-start-0", "start incident-20", "start incident-21"]
    summary = delivery.phone.messages[0]
    assert summary.title == "7 late incidents"
    assert len(summary.body.splitlines()) == 1 + 5 + 1
    assert summary.body.endswith("and 2 more")
    assert delivery.notifier.report() == ("summarised", "8 notifications older than 600 s were sent as one summary")
    assert delivery.notifier.report() is None


def test_summary_of_a_target_that_is_down_is_repeated(delivery: Delivery) -> None:
    delivery.add(incident_event(1, age=LATE), incident_event(2, age=LATE))
    delivery.phone.refusal = SinkError("down")
    with pytest.raises(SinkError) as failed:
        delivery.run()
    assert failed.value.wait_s is not None
    delivery.add(incident_event(3, age=LATE), incident_event(4))
    delivery.phone.refusal = None
    delivery.run()
    assert delivery.titles == ["late late-event-1-start-0", "start incident-4"]
    assert delivery.phone.messages[0].title == "3 late incidents"


def test_refused_message_is_sent_without_its_picture(delivery: Delivery) -> None:
    delivery.phone.refusal = PictureRefused("HTTP 413")
    delivery.add(incident_event(1))
    delivery.run()
    assert [one.picture for one in delivery.phone.messages] == [None]


def test_refused_message_is_a_dead_letter_and_the_next_follows(delivery: Delivery) -> None:
    delivery.phone.refusal = SinkRefused("ntfy: HTTP 400")
    delivery.add(incident_event(1))
    delivery.run()
    delivery.phone.refusal = None
    delivery.add(incident_event(2))
    delivery.run()
    assert delivery.titles == ["start incident-2"]
    assert (delivery.cursor.refused, delivery.cursor.refusal) == (1, "ntfy: HTTP 400")


def test_old_dead_letter_collects_no_delivered_events(delivery: Delivery) -> None:
    delivery.add(incident_event(1, age=LATE), incident_event(2))
    delivery.run()
    delivery.phone.messages.clear()
    delivery.notifier.write([(1, encode(incident_event(1, age=LATE)))])
    assert delivery.titles == ["late late-event-1-start-0"]
    assert delivery.phone.messages[0].title == "1 late incident"


class Killed(BaseException):
    """The end of the process after the service has accepted a message."""


@pytest.mark.parametrize(("url", "title"), [("ntfy://host/topic", ""), ("json://host", "Possible repeat: ")])
def test_only_the_message_in_flight_is_a_possible_repeat(tmp_path: Path, ledger: Ledger, url: str, title: str) -> None:
    made = Delivery(tmp_path, ledger, url)
    made.add(*(incident_event(number) for number in (1, 2, 3)))
    made.phone.dies_after = 2
    with pytest.raises(Killed):
        made.run()
    made.cursor.close()
    made.restart()
    made.run()
    assert made.titles == [f"start incident-{number}" for number in (1, 2, 2, 3)]
    prefixes = [one.title.removesuffix("ladder at gate") for one in made.phone.messages]
    assert prefixes == ["", "", title, ""]
    assert len({one.id for one in made.phone.messages}) == 3
    assert made.notifier.report() == ("repeated", "notifications sent again that may have arrived before: 1")
    assert made.notifier.report() is None
    made.cursor.close()


@pytest.mark.parametrize("in_doubt", [True, False])
def test_message_without_an_answer_is_a_possible_repeat(tmp_path: Path, ledger: Ledger, in_doubt: bool) -> None:
    made = Delivery(tmp_path, ledger, "json://host")
    made.add(incident_event(1), incident_event(2))
    for error in (SinkError("no response", in_doubt=in_doubt), SinkError("connection refused")):
        made.phone.refusal = error
        with pytest.raises(SinkError):
            made.run()
    made.cursor.close()
    made.restart()
    made.phone.refusal = None
    made.run()
    assert [one.title.startswith("Possible repeat") for one in made.phone.messages] == [in_doubt, False]
    made.cursor.close()


def test_dead_letters_that_were_sent_are_not_sent_again(delivery: Delivery) -> None:
    delivery.phone.refusal = SinkRefused("HTTP 400")
    delivery.add(*(incident_event(number) for number in (1, 2, 3)))
    delivery.run()
    request_resend(delivery.ledger_file, delivery.target.name)
    delivery.phone.refusal, delivery.phone.dies_after = None, 2
    with pytest.raises(Killed):
        delivery.notifier.write(delivery.cursor.to_resend(10))
    delivery.cursor.close()
    delivery.restart()
    delivery.notifier.write(delivery.cursor.to_resend(10))
    assert delivery.titles == [f"start incident-{number}" for number in (1, 2, 2, 3)]


def test_picture_is_left_out_by_option(tmp_path: Path, ledger: Ledger) -> None:
    made = Delivery(tmp_path, ledger, picture=False)
    made.add(incident_event(1))
    made.run()
    made.cursor.close()
    assert [one.picture for one in made.phone.messages] == [None]


def emit_config(url: str, **fields: Any) -> dict[str, Any]:
    return {"notify": {"phone": {"kind": "apprise", "url": url, "timeout": "10s", **fields}}}


def send(client: EventClient, *events: Event) -> None:
    for one in events:
        client.send(one, None)
    assert client.flush(FEW_S)


def test_target_that_was_down_gets_all_in_order_with_one_summary(tmp_path: Path) -> None:
    """The ntfy server refuses, then works; the JSON Lines sink beside it gets everything at once."""
    sink = {"kind": "jsonl", "path": str(tmp_path / "events.jsonl")}
    with NtfyServer() as ntfy:
        ntfy.status = lambda: 503
        with EmitProcess(tmp_path, [sink], config=emit_config(ntfy.url)) as emit:
            emit.wait_for("ready")
            with EventClient(emit.runtime, "rules") as client:
                send(client, *(incident_event(number, age=LATE) for number in range(1, 30)))
                send(client, *(incident_event(number) for number in range(30, 33)))
                until(lambda: len(incidents(tmp_path)) == 32, FEW_S, "the other sink has all")
                until(lambda: subjects(tmp_path).count("sink.down") == 1, FEW_S, "the target is down")
                assert ntfy.published == []
                ntfy.status = lambda: 200
                until(lambda: len(ntfy.published) == 4, FEW_S, "a summary and three notifications")
                until(lambda: "sink.summarised" in subjects(tmp_path), FEW_S, "the number is reported")
            assert emit.stop() == 0
    summary, *fresh = ntfy.published
    assert summary.title == "29 late incidents"
    assert [one.message.splitlines()[0] for one in fresh] == [f"{number} x person at gate" for number in (30, 31, 32)]
    assert "alarms" not in emit.log()


def incidents(folder: Path) -> list[dict[str, Any]]:
    return [one for one in lines(folder / "events.jsonl") if one["type"] == "streamer.incident.v1"]


def subjects(folder: Path) -> list[str]:
    return [one["subject"] for one in lines(folder / "events.jsonl")]


def test_killed_emit_repeats_what_ntfy_replaces(tmp_path: Path) -> None:
    """The server shows each message and never answers. Emit is killed, repeats the message, and still ends in time."""
    with NtfyServer() as ntfy:
        ntfy.hang.set()
        config = emit_config(ntfy.url, timeout="1m")
        with EmitProcess(tmp_path, [], config=config) as emit:
            emit.wait_for("ready")
            with EventClient(emit.runtime, "rules") as client:
                send(client, incident_event(1))
                until(lambda: len(ntfy.published) == 1, FEW_S, "the notification is shown")
            emit.kill()
        with EmitProcess(tmp_path, [], config=config) as emit:
            until(lambda: len(ntfy.published) == 2, FEW_S, "the notification is repeated")
            started = time.monotonic()
            assert emit.stop() == 0
            assert time.monotonic() - started < 30, "it does not wait for the minute of the target"
    assert [one.sequence for one in ntfy.shown] == ["incident-1"]


def test_killed_emit_marks_a_repeat_and_reports_it(tmp_path: Path) -> None:
    """The receiver takes the message and answers late. Emit is killed before the answer."""
    sink = {"kind": "jsonl", "path": str(tmp_path / "events.jsonl")}
    with Endpoint() as receiver:
        config = emit_config(receiver.url.replace("http://", "json://"), timeout="1m")
        receiver.behaviour = never
        with EmitProcess(tmp_path, [sink], config=config) as emit:
            emit.wait_for("ready")
            with EventClient(emit.runtime, "rules") as client:
                send(client, incident_event(1), incident_event(2))
                until(lambda: len(receiver.requests) == 1, FEW_S, "the message has arrived")
            emit.kill()
        receiver.behaviour = ok
        with EmitProcess(tmp_path, [sink], config=config) as emit:
            until(lambda: len(receiver.requests) == 3, FEW_S, "the message is repeated, the next one follows")
            until(lambda: "sink.repeated" in subjects(tmp_path), FEW_S, "the repeat is reported")
            assert emit.stop() == 0
    ids = [headers["webhook-id"] for headers, _ in receiver.requests]
    titles = [json.loads(body)["title"] for _, body in receiver.requests]
    assert ids == ["event-1-start-0", "event-1-start-0", "event-2-start-0"]
    assert titles == ["ladder at gate", "Possible repeat: ladder at gate", "ladder at gate"]
