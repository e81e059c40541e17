"""The guarantees of the emit process when it is killed or stopped, and when sinks fail, fill up or hang."""

from __future__ import annotations

import os
import random
import re
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import apsw
import pytest
import zmq

from streamer.bus.event_channel import EventClient, events_endpoint
from streamer.events.ledger import LEDGER_FILE
from streamer.events.ledger.query import LedgerQuery
from tests.support.agents import until
from tests.support.emit_process import EmitProcess, lines, send_events
from tests.support.sample_events import event
from tests.support.small_disk import resize, small_disk

Json = dict[str, Any]


@pytest.fixture
def client(tmp_path: Path) -> Iterator[EventClient]:
    (tmp_path / "run").mkdir()
    with EventClient(tmp_path / "run", "infer") as client:
        yield client


def jsonl(path: Path, **more: Any) -> Json:
    return {"kind": "jsonl", "path": str(path), "name": path.stem, **more}


def wait_for_lines(path: Path, count: int) -> list[Json]:
    return until(lambda: found if len(found := lines(path)) >= count else [], 20, f"{count} lines in {path.name}")


def results(found: Sequence[Json]) -> list[Json]:
    return [one for one in found if one["type"] == "streamer.result.v1"]


def assert_exact(found: Sequence[Json]) -> None:
    """No id twice; the sequences of each source are 1, 2, 3 …"""
    assert len({one["id"] for one in found}) == len(found)
    by_source = defaultdict(list)
    for one in found:
        by_source[one["source"]].append(int(one["sequence"]))
    for sequences in by_source.values():
        assert sequences == list(range(1, len(sequences) + 1))


def test_kill_9_under_load_loses_and_repeats_nothing(tmp_path: Path, client: EventClient) -> None:
    rng, total, made = random.Random(1), 1000, 0
    path = tmp_path / "events.jsonl"
    with EmitProcess(tmp_path, [jsonl(path, max_bytes=150_000, keep=20), {"kind": "zmq"}]) as emit:

        def accept(goal: int) -> Callable[[], bool]:
            def step() -> bool:
                nonlocal made
                while made < total and not client.window_full:
                    client.send(event(("gate", "yard")[made % 2], made), time.monotonic())
                    made += 1
                client.receive()
                client.resend()
                return made - client.unacked >= goal

            return step

        for goal in (100, 350, 600):
            until(accept(goal + rng.randrange(200)), 20, "events accepted")
            emit.kill()
            emit.start()
        until(accept(total), 20, "all events accepted")
        emit.wait_for("ready")
        assert emit.stop() == 0

    old = sorted(tmp_path.glob("events.jsonl.*"), key=lambda one: -int(one.suffix[1:]))
    found = [one for part in (*old, path) for one in lines(part)]
    assert len(old) > 2
    assert_exact(found)
    assert {one["id"] for one in found} == {event(("gate", "yard")[seq % 2], seq).id for seq in range(total)}
    per_stream = [
        [one["data"]["frame"]["seq"] for one in found if one["data"]["stream"] == name] for name in ("gate", "yard")
    ]
    assert per_stream == [list(range(0, total, 2)), list(range(1, total, 2))]


def test_age_is_from_capture_to_first_acceptance(tmp_path: Path, client: EventClient) -> None:
    path = tmp_path / "a.jsonl"
    with EmitProcess(tmp_path, [jsonl(path)]) as emit:
        emit.wait_for("ready")
        emit.kill()
        captured = time.monotonic()
        client.send(event(), captured)
        emit.start()
        emit.wait_for("ready")
        away = time.monotonic() - captured
        assert client.flush(60)
        latest = time.monotonic() - captured
        client.send(event(), captured)  # as if the client had not received the ack
        assert client.flush(60)
        (found,) = wait_for_lines(path, 1)
        assert emit.stop() == 0

    assert away * 1000 <= found["data"]["timing"]["age_ms"] <= latest * 1000
    assert lines(path) == [found]


def test_failing_sink_does_not_affect_other_sinks(tmp_path: Path, client: EventClient) -> None:
    bad, good = tmp_path / "volume" / "bad.jsonl", tmp_path / "good.jsonl"
    bad.parent.mkdir()
    with EmitProcess(tmp_path, [jsonl(bad), jsonl(good)]):
        send_events(client, range(10))
        wait_for_lines(bad, 10)
        bad.parent.rename(tmp_path / "gone")
        send_events(client, range(10, 20))

        down = until(lambda: [one for one in lines(good) if one["subject"] == "sink.down"], 20, "sink.down")
        send_events(client, range(20, 30))
        until(lambda: len(results(lines(good))) == 30, 20, "the good sink has all")
        (tmp_path / "gone").rename(bad.parent)
        until(lambda: [one for one in lines(good) if one["subject"] == "sink.up"], 20, "sink.up")
        until(lambda: len(lines(bad)) == len(lines(good)), 20, "the bad sink has all")

    assert down[0]["source"] == "/agents/home/sinks/bad"
    assert "No such file or directory" in down[0]["data"]["reason"]
    assert len(down) == 1
    assert lines(bad) == lines(good)
    assert_exact(lines(bad))


def test_full_disk_of_a_sink_does_not_affect_others(tmp_path: Path, client: EventClient) -> None:
    full, good = tmp_path / "full.jsonl", tmp_path / "good.jsonl"
    full.write_bytes(b'{"id": "of an earlier ledger"}\n' * 100_000)  # larger than the ledger becomes
    limit = full.stat().st_size + 5000
    with EmitProcess(tmp_path, [jsonl(full), jsonl(good)]) as emit:
        before = resource.prlimit(emit.process.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        send_events(client, range(50))
        until(lambda: [one for one in lines(good) if one["subject"] == "sink.down"], 20, "sink.down")
        send_events(client, range(50, 100))
        until(lambda: len(results(lines(good))) == 100, 20, "the good sink has all")
        assert full.stat().st_size <= limit
        assert full.read_bytes().endswith(b"\n")
        resource.prlimit(emit.process.pid, resource.RLIMIT_FSIZE, before)
        until(lambda: len(lines(full)) - 100_000 == len(lines(good)), 20, "the full sink has all")

    assert lines(full)[100_000:] == lines(good)


def test_hanging_sink_does_not_affect_others_or_the_stop(tmp_path: Path, client: EventClient) -> None:
    read_end, write_end = os.pipe()
    path = tmp_path / "a.jsonl"
    with (
        os.fdopen(write_end, "wb") as stuck,
        EmitProcess(tmp_path, [{"kind": "stdout"}, jsonl(path)], stdout=stuck) as emit,
    ):
        send_events(client, range(500))
        wait_for_lines(path, 500)

        started = time.monotonic()
        assert emit.stop() == 0
        assert time.monotonic() - started < 30
    os.close(read_end)


def test_events_are_stored_without_sinks(tmp_path: Path, client: EventClient) -> None:
    with EmitProcess(tmp_path, []) as emit:
        send_events(client, range(20))
        assert emit.stop() == 0

    assert LedgerQuery(tmp_path / "state" / LEDGER_FILE).head() == 20


def test_invalid_messages_are_dropped_and_logged_rarely(tmp_path: Path, client: EventClient) -> None:
    path = tmp_path / "a.jsonl"
    rogue: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    with EmitProcess(tmp_path, [jsonl(path)]) as emit, rogue:
        emit.wait_for("ready")
        rogue.set(zmq.LINGER, 0)
        rogue.connect(events_endpoint(emit.runtime))
        rng = random.Random(1)
        for _ in range(1000):
            rogue.send_multipart([rng.randbytes(rng.randrange(50)) for _ in range(rng.randrange(1, 4))])
        until(lambda: "invalid event message 512 dropped" in emit.log(), 20, "invalid messages counted")
        send_events(client, range(5))
        wait_for_lines(path, 5)

    assert emit.log().count("invalid event message") < 20


def test_result_limit_is_reported_once(tmp_path: Path, client: EventClient) -> None:
    path = tmp_path / "stdout"
    with path.open("wb") as stdout, EmitProcess(tmp_path, [{"kind": "stdout"}], max_events=3, stdout=stdout) as emit:
        send_events(client, range(10))
        emit.wait_for("finished")
        emit.stop()

    assert len(lines(path)) == 3
    assert [one["kind"] for one in emit.reports()] == ["ready", "finished"]


def test_unusable_sink_is_a_config_error(tmp_path: Path) -> None:
    with EmitProcess(tmp_path, [jsonl(tmp_path / "missing" / "a.jsonl")]) as emit:
        assert "no such directory" in emit.wait_for("failed")["reason"]
        assert emit.process.wait(20) == 2


def test_unusable_ledger_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "state" / LEDGER_FILE).mkdir(parents=True)

    with EmitProcess(tmp_path, []) as emit:
        assert "cannot keep the ledger in" in emit.wait_for("failed")["reason"]
        assert emit.process.wait(20) == 2


def test_damaged_ledger_is_replaced_with_readable_events(tmp_path: Path, client: EventClient) -> None:
    path, ledger = tmp_path / "a.jsonl", tmp_path / "state" / LEDGER_FILE
    with EmitProcess(tmp_path, [jsonl(path), {"kind": "zmq"}]) as emit:
        send_events(client, range(300))
        wait_for_lines(path, 300)
        assert emit.stop() == 0
        content = bytearray(ledger.read_bytes())
        middle = content.index(event(seq=200).id.encode(), content.index(b"specversion"))
        content[middle - 2000 : middle + 2000] = bytes(4000)
        ledger.write_bytes(content)
        path.unlink()  # so that the sink reads everything again
        with apsw.Connection(str(ledger)) as db:
            db.execute("UPDATE cursor SET pos = 0 WHERE sink = 'a'")
        for _ in range(2):  # the damage is found when it is read; the next start recovers
            emit.start()
            with suppress(AssertionError):
                until(lambda: emit.process.poll() is not None or len(results(lines(path))) > 280, 60, "either")
            emit.kill()
        found = lines(path)
        assert "Traceback" not in emit.log()

    recovered = [one for one in found if one["subject"] == "ledger.salvaged"]
    missed = [one["data"]["lost"]["events"] for one in found if one["subject"] == "sink.lost"]
    assert len(recovered) == len(missed) == 1
    assert len({one["id"] for one in results(found)}) + missed[0] == 300
    assert 0 < missed[0] < 20


def test_full_disk_pauses_acceptance_and_recovers(tmp_path: Path, client: EventClient) -> None:
    state, path = tmp_path / "state", tmp_path / "a.jsonl"
    with small_disk(state, "8m"), EmitProcess(tmp_path, [jsonl(path)]) as emit:
        send_events(client, range(50))
        ballast = state / "of-another-program"
        fill(ballast)
        for seq in range(50, 250):
            client.send(event(seq=seq), time.monotonic())
        until(lambda: client.flush(0.1) or "the disk of the ledger is full" in emit.log(), 20, "full")
        time.sleep(1.5)  # absence: the process does not end while it retries for 1.5 s
        assert emit.process.poll() is None
        ballast.unlink()
        assert client.flush(60)
        wait_for_lines(path, 250)
        emit.stop()
        with apsw.Connection(str(state / LEDGER_FILE)) as db:
            assert db.pragma("integrity_check") == "ok"

    assert_exact(results(lines(path)))
    assert len(results(lines(path))) == 250


def fill(path: Path) -> None:
    """Use all space of a disk."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def test_ledger_without_room_is_a_reason_in_words_until_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "state", "32k") as disk, EmitProcess(tmp_path, []) as emit:
        reason = emit.wait_for("crashed")["reason"]
        assert re.fullmatch(rf"the disk of the ledger fails or is full: {disk}, 0\.0 MB free", reason)
        emit.kill()
        assert "Traceback" not in emit.log()
        resize(disk, "40m")
        emit.start()
        emit.wait_for("ready")
        emit.stop()
