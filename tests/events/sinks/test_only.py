"""`only: [incidents]` in each kind of sink: none of them is lost, and no sink waits for what it does not get."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import apsw

from streamer.bus.event_channel import EventClient
from streamer.events.ledger import LEDGER_FILE
from streamer.events.schema import Event
from tests.support import hooks
from tests.support.agents import until
from tests.support.broker import Broker, Listener
from tests.support.emit_process import EmitProcess, lines
from tests.support.hooks import Endpoint
from tests.support.sample_events import event, incident

FEW_S, START_S = 60.0, 60.0


def test_filtered_sinks_lose_and_hold_up_nothing(tmp_path: Path) -> None:
    file, output = tmp_path / "events.jsonl", tmp_path / "output"
    with (
        Broker(tmp_path) as broker,
        Listener(broker.port) as listener,
        Endpoint() as endpoint,
        output.open("wb") as out,
    ):
        sinks: list[dict[str, Any]] = [
            {"kind": "jsonl", "path": str(file)},
            {"kind": "stdout"},
            {"kind": "mqtt", "url": broker.url},
            {"kind": "webhook", "url": endpoint.url, "in_flight": 1},  # else two may change places
        ]
        with EmitProcess(tmp_path, [{**one, "only": ["incidents"]} for one in sinks], stdout=out) as emit:

            def received() -> dict[str, list[str]]:
                published = [json.loads(one.body) for one in listener.messages if b'"specversion"' in one.body]
                found = {"jsonl": lines(file), "stdout": lines(output), "mqtt": published, "webhook": endpoint.accepted}
                assert {one["type"] for events in found.values() for one in events} <= {"streamer.incident.v1"}
                return {name: list(dict.fromkeys(one["id"] for one in events)) for name, events in found.items()}

            def send(events: list[Event]) -> None:
                with EventClient(emit.runtime, "infer") as client:
                    for one in events:
                        client.send(one, None)
                    assert client.flush(START_S)

            def behind() -> dict[str, int]:
                """Return the events after the position of each sink that has not passed all."""
                return {name: count for name, count in _behind(tmp_path / "state" / LEDGER_FILE) if count}

            send([event(seq=number) for number in range(300)])
            until(lambda: not behind(), FEW_S, "all sinks pass over what they do not get")
            assert set(map(tuple, received().values())) == {()}
            broker.stop()
            endpoint.behaviour = hooks.status(500)
            send([event(seq=number) for number in range(300, 600)])
            until(lambda: not behind(), FEW_S, "a receiver that is down holds up no event that it does not get")
            first, last = incident("start", 0), incident("end", 1)
            send([first, *(event(seq=number) for number in range(600, 700)), last])
            until(lambda: behind().keys() <= {"mqtt", "webhook"}, FEW_S, "the others have all")
            waiting = behind()  # beside the events above `sink.down` can wait
            assert waiting.keys() == {"mqtt", "webhook"}
            assert min(waiting.values()) >= 102, "they wait at the first incident"
            emit.kill()
            emit.start()
            broker.start()
            endpoint.behaviour = hooks.ok
            until(lambda: not behind(), START_S, "everything is delivered")
            ids = [first.id, last.id]
            until(lambda: all(found == ids for found in received().values()), START_S, "in each sink, in order")
            assert len(lines(file)) == 2, "exactly once"


def _behind(ledger: Path) -> list[tuple[str, int]]:
    db = apsw.Connection(str(ledger), flags=apsw.SQLITE_OPEN_READONLY)
    db.set_busy_timeout(60_000)
    try:
        query = "SELECT sink, (SELECT count(*) FROM events WHERE events.pos > cursor.pos) FROM cursor"
        return [(str(sink), int(str(count))) for sink, count in db.execute(query).fetchall()]
    finally:
        db.close()
