"""The guarantees of emit, on the real process: killed, stopped, with sinks that fail, fill up or hang."""

from __future__ import annotations

import os
import random
import resource
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import apsw
import pytest
import zmq

from streamer.bus.event_channel import EventClient, events_endpoint
from streamer.cli.events import resend_dead
from streamer.events.ledger import Ledger
from streamer.events.schema import StatusEvent
from streamer.processes.emit import DeadLetterBox, SinkThread
from streamer.types import Sink
from tests.support.agents import until
from tests.support.emit_process import EmitProcess, lines
from tests.support.sample_events import event

Json = dict[str, Any]


@pytest.fixture
def client(tmp_path: Path) -> Iterator[EventClient]:
    (tmp_path / "run").mkdir()
    with EventClient(tmp_path / "run", "infer") as client:
        yield client


def jsonl(path: Path, **more: Any) -> Json:
    return {"kind": "jsonl", "path": str(path), "name": path.stem, **more}


def send(client: EventClient, seqs: range, stream: str = "gate") -> None:
    """Until all are accepted."""
    for seq in seqs:
        client.send(event(stream, seq), time.monotonic())
    assert client.flush(20)


def wait_for_lines(path: Path, count: int) -> list[Json]:
    return until(lambda: found if len(found := lines(path)) >= count else [], 20, f"{count} lines in {path.name}")


def results(found: Sequence[Json]) -> list[Json]:
    return [one for one in found if one["type"] == "streamer.result.v1"]


def assert_exact(found: Sequence[Json]) -> None:
    """No id twice; each source counts 1, 2, 3 …"""
    assert len({one["id"] for one in found}) == len(found)
    by_source = defaultdict(list)
    for one in found:
        by_source[one["source"]].append(int(one["sequence"]))
    for sequences in by_source.values():
        assert sequences == list(range(1, len(sequences) + 1))


def test_kill_9_under_load_loses_nothing_and_repeats_nothing(tmp_path: Path, client: EventClient) -> None:
    chance, total, made = random.Random(1), 1000, 0
    path = tmp_path / "events.jsonl"
    with EmitProcess(tmp_path, [jsonl(path, max_bytes=150_000, keep=20), {"kind": "zmq"}]) as emit:

        def feed(goal: int) -> Callable[[], bool]:
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
            until(feed(goal + chance.randrange(200)), 20, "events accepted")
            emit.kill()
            emit.start()
        until(feed(total), 20, "all events accepted")
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


def test_age_is_from_capture_to_acceptance_and_stays(tmp_path: Path, client: EventClient) -> None:
    path = tmp_path / "a.jsonl"
    with EmitProcess(tmp_path, [jsonl(path)]) as emit:
        emit.wait_for("ready")
        emit.kill()
        captured = time.monotonic()
        client.send(event(), captured)
        emit.start()
        emit.wait_for("ready")
        away = time.monotonic() - captured
        assert client.flush(20)
        latest = time.monotonic() - captured
        client.send(event(), captured)  # its maker did not hear the ack
        assert client.flush(20)
        (found,) = wait_for_lines(path, 1)
        assert emit.stop() == 0

    assert away * 1000 <= found["data"]["timing"]["age_ms"] <= latest * 1000
    assert lines(path) == [found]


def test_a_sink_that_cannot_write_harms_only_itself(tmp_path: Path, client: EventClient) -> None:
    bad, good = tmp_path / "volume" / "bad.jsonl", tmp_path / "good.jsonl"
    bad.parent.mkdir()
    with EmitProcess(tmp_path, [jsonl(bad), jsonl(good)]):
        send(client, range(10))
        wait_for_lines(bad, 10)
        bad.parent.rename(tmp_path / "gone")
        send(client, range(10, 20))

        down = until(lambda: [one for one in lines(good) if one["subject"] == "sink.down"], 20, "sink.down")
        send(client, range(20, 30))
        until(lambda: len(results(lines(good))) == 30, 20, "the good sink has all")
        (tmp_path / "gone").rename(bad.parent)
        until(lambda: [one for one in lines(good) if one["subject"] == "sink.up"], 20, "sink.up")
        until(lambda: len(lines(bad)) == len(lines(good)), 20, "the bad sink has all")

    assert down[0]["source"] == "/agents/home/sinks/bad"
    assert "No such file or directory" in down[0]["data"]["reason"]
    assert len(down) == 1
    assert lines(bad) == lines(good)
    assert_exact(lines(bad))


def test_a_full_disk_harms_only_its_sink(tmp_path: Path, client: EventClient) -> None:
    full, good = tmp_path / "full.jsonl", tmp_path / "good.jsonl"
    full.write_bytes(b'{"id": "of an earlier ledger"}\n' * 100_000)  # larger than the ledger will be
    limit = full.stat().st_size + 5000
    with EmitProcess(tmp_path, [jsonl(full), jsonl(good)]) as emit:
        before = resource.prlimit(emit.process.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        send(client, range(50))
        until(lambda: [one for one in lines(good) if one["subject"] == "sink.down"], 20, "sink.down")
        send(client, range(50, 100))
        until(lambda: len(results(lines(good))) == 100, 20, "the good sink has all")
        assert full.stat().st_size <= limit
        assert full.read_bytes().endswith(b"\n")
        resource.prlimit(emit.process.pid, resource.RLIMIT_FSIZE, before)
        until(lambda: len(lines(full)) - 100_000 == len(lines(good)), 20, "the full sink has all")

    assert lines(full)[100_000:] == lines(good)


def test_a_sink_that_hangs_harms_only_itself(tmp_path: Path, client: EventClient) -> None:
    reader, writer = os.pipe()
    path = tmp_path / "a.jsonl"
    with (
        os.fdopen(writer, "wb") as stuck,
        EmitProcess(tmp_path, [{"kind": "stdout"}, jsonl(path)], stdout=stuck) as emit,
    ):
        send(client, range(500))
        wait_for_lines(path, 500)

        started = time.monotonic()
        assert emit.stop() == 0
        assert time.monotonic() - started < 8
    os.close(reader)


def test_without_sinks_the_ledger_is_kept(tmp_path: Path, client: EventClient) -> None:
    with EmitProcess(tmp_path, []) as emit:
        send(client, range(20))
        assert emit.stop() == 0

    with Ledger(tmp_path / "state" / "ledger.db") as ledger:
        assert ledger.head == 20


def test_garbage_does_no_harm(tmp_path: Path, client: EventClient) -> None:
    path = tmp_path / "a.jsonl"
    rogue: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    with EmitProcess(tmp_path, [jsonl(path)]) as emit, rogue:
        emit.wait_for("ready")
        rogue.set(zmq.LINGER, 0)
        rogue.connect(events_endpoint(emit.runtime))
        chance = random.Random(1)
        for _ in range(1000):
            rogue.send_multipart([chance.randbytes(chance.randrange(50)) for _ in range(chance.randrange(1, 4))])
        until(lambda: "dropped message 512" in emit.log(), 20, "garbage counted")
        send(client, range(5))
        wait_for_lines(path, 5)

    assert emit.log().count("dropped message") < 20


def test_limit_of_events_is_reported_once(tmp_path: Path, client: EventClient) -> None:
    path = tmp_path / "stdout"
    with path.open("wb") as stdout, EmitProcess(tmp_path, [{"kind": "stdout"}], max_events=3, stdout=stdout) as emit:
        send(client, range(10))
        emit.wait_for("finished")
        emit.stop()

    assert len(lines(path)) == 3
    assert [one["kind"] for one in emit.reports()] == ["ready", "finished"]


def test_sink_that_cannot_be_is_a_config_error(tmp_path: Path) -> None:
    with EmitProcess(tmp_path, [jsonl(tmp_path / "missing" / "a.jsonl")]) as emit:
        assert "no such directory" in emit.wait_for("failed")["reason"]
        assert emit.process.wait(20) == 2


def test_ledger_that_cannot_be_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "state" / "ledger.db").mkdir(parents=True)

    with EmitProcess(tmp_path, []) as emit:
        assert "cannot keep the ledger in" in emit.wait_for("failed")["reason"]
        assert emit.process.wait(20) == 2


class FaultySink:
    """Raises what no sink should, the first two times."""

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


def run_feed(ledger: Ledger, sink: Sink) -> list[StatusEvent]:
    """Feed one sink from the ledger until it is through; what was told."""
    told: list[StatusEvent] = []
    failed: list[Exception] = []
    reader = ledger.readers(["a"])["a"]
    feed = SinkThread("home", "a", sink, reader, DeadLetterBox(reader), told.append, failed.append)
    feed.start()
    until(lambda: reader.position == ledger.head, 20, "all delivered")
    feed.finish()
    feed.join(20)
    assert not feed.is_alive()
    assert not failed
    return told


def test_a_bug_in_a_sink_is_told_and_tried_again(tmp_path: Path) -> None:
    sink = FaultySink()
    with Ledger(tmp_path / "ledger.db") as ledger:
        ledger.readers(["a"])["a"].close()
        ledger.commit([event(seq=seq) for seq in range(3)])
        told = run_feed(ledger, sink)

    assert [(one.subject, one.data.reason) for one in told] == [("sink.down", "KeyError: 'a bug'"), ("sink.up", None)]
    assert sink.positions == [1, 2, 3]


def test_what_a_receiver_sends_is_no_damage_of_the_ledger(tmp_path: Path) -> None:
    class Garbled(FaultySink):
        def write(self, events: Sequence[tuple[int, bytes]]) -> None:
            if not self.calls:
                self.calls = 2
                b"\xff".decode()
            super().write(events)

    with Ledger(tmp_path / "ledger.db") as ledger:
        ledger.readers(["a"])["a"].close()
        ledger.commit([event(seq=1)])
        told = run_feed(ledger, Garbled())

    assert [one.subject for one in told] == ["sink.down", "sink.up"]


def test_refusals_are_told_also_when_nothing_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.processes.emit.REFUSED_EVERY_S", 1.0)
    monkeypatch.setattr("streamer.processes.emit.LOOK_S", 0.1)
    told: list[StatusEvent] = []
    failed: list[Exception] = []
    with Ledger(tmp_path / "ledger.db") as ledger:
        reader = ledger.readers(["a"])["a"]
        box = DeadLetterBox(reader)

        class Refusing(FaultySink):
            def write(self, events: Sequence[tuple[int, bytes]]) -> None:
                for position, _ in events:
                    box.put(position, "it is bad")

        feed = SinkThread("home", "a", Refusing(), reader, box, told.append, failed.append)
        feed.start()
        for seq in range(3):
            ledger.commit([event(seq=seq)])
            feed.wake()
            until(lambda: reader.position == ledger.head, 20, "it is refused")
        until(lambda: sum(int((one.data.reason or "").split()[0]) for one in told) == 3, 20, "all are told")
        feed.finish()
        feed.join(20)

    assert (len(told) > 1, failed) == (True, [])


def test_a_dead_letter_that_still_cannot_be_taken_holds_up_nothing(tmp_path: Path) -> None:
    """It is tried again together with what is new, so that a sink can tell one bad event from a bad receiver."""
    sink = FaultySink()
    sink.calls = 2
    with Ledger(tmp_path / "ledger.db") as ledger:
        reader = ledger.readers(["a"])["a"]
        ledger.commit([event(seq=1)])
        reader.dead_letter(1, "a bug")
        reader.advance(1)
        reader.close()
        assert resend_dead(tmp_path / "ledger.db", "a") == 1
        ledger.commit([event(seq=2)])
        run_feed(ledger, sink)
        assert ledger.readers(["a"])["a"].to_resend(10) == []

    assert sink.positions == [1, 2]


def test_a_damaged_ledger_is_replaced_and_nothing_readable_is_lost(tmp_path: Path, client: EventClient) -> None:
    path, ledger = tmp_path / "a.jsonl", tmp_path / "state" / "ledger.db"
    with EmitProcess(tmp_path, [jsonl(path), {"kind": "zmq"}]) as emit:
        send(client, range(300))
        wait_for_lines(path, 300)
        assert emit.stop() == 0
        content = bytearray(ledger.read_bytes())
        middle = content.index(event(seq=200).id.encode(), content.index(b"specversion"))
        content[middle - 2000 : middle + 2000] = bytes(4000)
        ledger.write_bytes(content)
        path.unlink()  # so that it is behind, and has to read all of it again
        with apsw.Connection(str(ledger)) as db:
            db.execute("UPDATE cursor SET pos = 0 WHERE sink = 'a'")
        for _ in range(2):  # the damage is met when it is read; the next start salvages
            emit.start()
            with suppress(AssertionError):
                until(lambda: emit.process.poll() is not None or len(results(lines(path))) > 280, 10, "either")
            emit.kill()
        found = lines(path)

    salvaged = [one for one in found if one["subject"] == "ledger.salvaged"]
    missed = [one["data"]["lost"]["events"] for one in found if one["subject"] == "sink.lost"]
    assert len(salvaged) == len(missed) == 1
    assert len({one["id"] for one in results(found)}) + missed[0] == 300
    assert 0 < missed[0] < 20


def test_a_full_disk_accepts_nothing_and_recovers(tmp_path: Path, client: EventClient) -> None:
    state, path = tmp_path / "state", tmp_path / "a.jsonl"
    with small_disk(state, "8m"), EmitProcess(tmp_path, [jsonl(path)]) as emit:
        send(client, range(50))
        ballast = state / "of-another-program"
        fill(ballast)
        for seq in range(50, 250):
            client.send(event(seq=seq), time.monotonic())
        until(lambda: client.flush(0.1) or "the disk of the ledger is full" in emit.log(), 20, "full")
        time.sleep(1.5)  # it goes on trying
        assert emit.process.poll() is None
        ballast.unlink()
        freed = time.monotonic()
        assert client.flush(5)
        assert time.monotonic() - freed < 5
        wait_for_lines(path, 250)
        emit.stop()
        with apsw.Connection(str(state / "ledger.db")) as db:
            assert db.pragma("integrity_check") == "ok"

    assert_exact(results(lines(path)))
    assert len(results(lines(path))) == 250


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(path: Path) -> None:
    """All that is left of a disk."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
