"""Rows of the ledger that are no events, or odd ones: the web process serves the others and keeps running."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streamer.events.ledger import Ledger
from streamer.events.ledger.query import LedgerQuery
from streamer.events.ledger.schema import checksum
from streamer.events.schema import encode
from tests.support.agents import until
from tests.support.capturing import STREAM
from tests.support.web_process import Scene

Body = dict[str, object]
DIGITS = int("9" * 400)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("r")) as scene:
        yield scene


def insert(scene: Scene, body: bytes, crc: int | None = None) -> int:
    """Insert a row as another program could; return its position."""
    scene.ledger.close()
    database = sqlite3.connect(scene.runtime / "ledger.db")
    ((position,),) = database.execute("SELECT ifnull(max(pos), 0) + 1 FROM events")
    row = (position, f"foreign {position}", "foreign", position, time.time())
    with database:
        database.execute(
            "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)",
            (*row, checksum(position, body) if crc is None else crc, body),
        )
    database.close()
    scene.ledger = Ledger(scene.runtime / "ledger.db")
    return int(position)


def events_after(scene: Scene, position: int) -> list[Body]:
    page = scene.web.get(f"/api/events?after={position}&limit=1000").json()
    return [entry["event"] for entry in page["events"]]


def without(key: str) -> Callable[[Body], object]:
    return lambda event: event.pop(key)


ODD: dict[str, Callable[[Body], object]] = {
    "time of no form": lambda event: event.update(time="not a time"),
    "time out of range": lambda event: event.update(time="9999-99-99T99:99:99Z"),
    "time without offset": lambda event: event.update(time="2026-11-25T16:00:00"),
    "time before the calendar": lambda event: event.update(time="0001-01-01T00:00:00+23:59"),
    "time is a number": lambda event: event.update(time=5),
    "no data": without("data"),
    "data is a list": lambda event: event.update(data=[]),
    "no subject": without("subject"),
    "subject is an object": lambda event: event.update(subject={}),
    "unknown type": lambda event: event.update(type="other.v9"),
    "outcome of no kind": lambda event: event["data"].update(outcome=["ok"]),  # type: ignore[attr-defined]
    "400 digits": lambda event: event["data"]["timing"].update(draft=[DIGITS, DIGITS]),  # type: ignore[index]
    "markup": lambda event: event["data"].update(text="<script>", model="\u2028a\r\n\r\nid: 1\n\n"),  # type: ignore[attr-defined]
}


@pytest.mark.parametrize("change", ODD.values(), ids=ODD)
def test_odd_event_stops_nothing(scene: Scene, change: Callable[[Body], object]) -> None:
    event = json.loads(encode(scene.answer(text="odd")))
    change(event)
    position = insert(scene, json.dumps(event).encode())
    assert_goes_on(scene, position)
    assert events_after(scene, position - 1)[0] == event  # it is served all the same


@pytest.mark.parametrize(
    "body",
    [
        b"", b"\0", b"[]", b"5", b'"text"', b"{", b"\xff\xfe", b'{"a": NaN}', b'{"a": Infinity}', b'{"a": "\\ud800"}',
        b'{"a":' * 3000 + b"1" + b"}" * 3000,
    ],
    ids=lambda body: repr(body[:16]),
)  # fmt: skip
def test_row_that_is_no_event_is_passed_over(scene: Scene, body: bytes) -> None:
    position = insert(scene, body)
    assert_goes_on(scene, position)


def test_row_with_a_wrong_checksum_is_passed_over(scene: Scene) -> None:
    position = insert(scene, encode(scene.answer(text="flipped")), crc=1)
    assert_goes_on(scene, position)
    assert "flipped" not in json.dumps(events_after(scene, position - 1))
    log = scene.web.errors.read_text()
    assert "damaged event 1 passed over" in log
    assert "Traceback" not in log
    assert len(log.splitlines()) < 40


def test_line_ends_in_a_body_begin_no_field(scene: Scene) -> None:
    event = json.loads(encode(scene.answer(text="of several lines")))
    position = insert(scene, json.dumps(event, indent=1).replace("\n", "\r\n\n\r").encode() + b"\n\n")
    with scene.web.stream(f"/api/events/live?after={position - 1}") as response:
        assert response.readline() == b"retry: 1000\n"
        assert response.readline() == b"\n"
        lines = [line.strip(b"\n") for line in iter(response.readline, b"\n")]
    assert lines[0] == b"id: %d" % position
    data = b"".join(line.removeprefix(b"data: ") for line in lines[1:])
    assert json.loads(data) == event


def assert_goes_on(scene: Scene, position: int) -> None:
    """Check that an event after this position is served everywhere, by the same process."""
    good = scene.answer(text="after the odd one")
    scene.publish(good)
    until(lambda: newest_caption(scene) == good.id, 5, "the newest answer")
    assert events_after(scene, position)[0]["id"] == good.id
    with scene.web.stream(f"/api/events/live?after={position}") as response:
        lines = iter(response)
        assert next(lines) == b"retry: 1000\n"
        (data,) = [next(line for line in lines if line.startswith(b"data: "))]
    assert json.loads(data[6:])["id"] == good.id
    assert scene.web.get(f"/api/events?text=after&stream={STREAM}").status == 200
    assert scene.web.get("/metrics").status == 200
    assert scene.web.process.poll() is None


def newest_caption(scene: Scene) -> object:
    streams = scene.web.get("/api/streams").json()["streams"]
    latest = streams[0]["tasks"][1]["latest"]
    return latest and latest["id"]


def test_ledger_that_is_no_file_has_no_events(tmp_path: Path) -> None:
    """A pipe with the ledger's name does not block the reader."""
    os.mkfifo(tmp_path / "ledger.db")
    (tmp_path / "folder.db").mkdir()
    for name in ("ledger.db", "folder.db"):
        assert LedgerQuery(tmp_path / name).after(0, 5).entries == []
