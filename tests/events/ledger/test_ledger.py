"""The ledger, on a real disk and with real kills."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import apsw
import pytest

from streamer.events.ledger import BROKEN, Ledger, Retention, SinkCursor
from streamer.events.schema import decode, encode, numbered
from tests.support.sample_events import event


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def bodies(reader: SinkCursor, limit: int = 1000) -> list[Any]:
    return [json.loads(body) for _, body in reader.read(limit)]


def numbers(events: Sequence[Any], stream: str) -> list[int]:
    return [int(one["sequence"]) for one in events if one["data"]["stream"] == stream]


def test_every_source_counts_for_itself(path: Path) -> None:
    with Ledger(path) as ledger:
        reader = ledger.readers(["a"])["a"]
        ledger.commit([event("gate", 0), event("yard", 0), event("gate", 1)])
        ledger.commit([event("gate", 2), event("yard", 1)])

        found = bodies(reader)
        assert numbers(found, "gate") == [1, 2, 3]
        assert numbers(found, "yard") == [1, 2]
        assert found[0]["sequence"] == "0000000000000001"
        assert [position for position, _ in reader.read(10)] == [1, 2, 3, 4, 5]
        reader.close()


def test_what_is_stored_is_the_event(path: Path) -> None:
    with Ledger(path) as ledger:
        reader = ledger.readers(["a"])["a"]
        ledger.commit([event()])
        ((_, body),) = reader.read(1)
        reader.close()

    assert decode(body) == event().model_copy(update={"sequence": "0000000000000001"})


def test_a_repeated_event_is_stored_once(path: Path) -> None:
    with Ledger(path) as ledger:
        assert ledger.commit([event(seq=0), event(seq=0)]) == 1
        assert ledger.commit([event(seq=0), event(seq=1)]) == 1
        assert ledger.head == 2


def test_numbers_and_places_go_on_after_a_restart(path: Path) -> None:
    with Ledger(path) as ledger:
        reader = ledger.readers(["a"])["a"]
        ledger.commit([event(seq=seq) for seq in range(3)])
        reader.advance(2)
        reader.close()
    with Ledger(path) as ledger:
        reader = ledger.readers(["a"])["a"]
        ledger.commit([event(seq=1), event(seq=3)])

        assert numbers(bodies(reader), "gate") == [3, 4]
        assert reader.find(event(seq=3).id) == 4
        assert reader.find("unknown") is None
        reader.close()


def test_a_new_sink_starts_now_and_a_removed_one_is_forgotten(path: Path) -> None:
    with Ledger(path) as ledger:
        old = ledger.readers(["old"])["old"]
        ledger.commit([event(seq=0)])
        old.close()
        for reader in ledger.readers(["old", "new"]).values():
            assert reader.position == {"old": 0, "new": 1}[reader._sink]
            reader.close()
        (again,) = ledger.readers(["new"]).values()
        again.close()
        back = ledger.readers(["old", "new"])["old"]
        assert back.position == 1
        back.close()


def test_the_oldest_make_room_and_what_a_sink_missed_is_counted(path: Path) -> None:
    keep = Retention(max_bytes=1 << 20)
    with Ledger(path, "home", keep) as ledger:
        slow, quick = ledger.readers(["slow", "quick"]).values()
        ledger.commit([event("quiet", 0)])
        for start in range(0, 3000, 100):
            ledger.commit([event(seq=seq) for seq in range(start, start + 100)])
            quick.advance(ledger.head)
        left = [json.loads(body) for _, body in slow.read(100_000)]
        slow.close()
        quick.close()
        found = ledger._db.execute("SELECT count(*) FROM words WHERE words MATCH 'person'").fetchall()
        kept = ledger._db.execute("SELECT count(*) FROM events WHERE source LIKE '%gate'").fetchall()

    assert path.stat().st_size < 2 << 20
    assert found == kept
    results = [one for one in left if one["subject"] == "people"]
    first = int(results[0]["sequence"])
    assert [int(one["sequence"]) for one in results] == list(range(first, 3001))
    with Ledger(path, "home", keep) as ledger:  # what was not told yet is told by the next process
        reader = ledger.readers(["slow", "quick"])["slow"]
        ledger.commit([event("quiet", 1)])
        after = bodies(reader, 100_000)
        assert numbers(after, "quiet") == [2]
        told = [one["data"]["lost"] for one in after if one["subject"] == "sink.lost"]
        reader.close()
    # The first loss was told at once, and that is itself gone; the ranges meet.
    begin, end = (int(one) for one in told[-1]["sequences"]["/agents/home/streams/gate"])
    assert (begin, end) == (512, first - 1)
    assert told[-1]["events"] == end - begin + 1 + 1


def test_old_events_are_deleted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    with Ledger(path, "home", Retention(keep="1h")) as ledger:
        ledger.readers([])
        for hours, seqs in ((3, range(10)), (2, range(10, 20)), (0, range(20, 30))):
            monkeypatch.setattr("streamer.events.ledger.writer.time.time", lambda hours=hours: now - hours * 3600)
            ledger.commit([event(seq=seq) for seq in seqs])
        ledger.commit([])
        kept = [json.loads(cast(bytes, body)) for (body,) in ledger._db.execute("SELECT body FROM events ORDER BY pos")]

    assert numbers(kept, "gate") == list(range(21, 31))


def test_dead_letters_are_kept_and_sent_again(path: Path) -> None:
    with Ledger(path) as ledger:
        reader = ledger.readers(["hook"])["hook"]
        ledger.commit([event(seq=seq) for seq in range(3)])
        reader.dead_letter(2, "HTTP 422")
        reader.advance(3)
        assert reader.to_resend(10) == []
        ledger._db.execute("UPDATE dead SET resend = 1")
        (again,) = reader.to_resend(10)
        assert again[0] == 2
        reader.dead_letter(2, "HTTP 400")  # it refuses it again
        reader.resent([again])
        assert ledger._db.execute("SELECT pos, reason, resend FROM dead").fetchall() == [(2, "HTTP 400", 0)]
        ledger._db.execute("UPDATE dead SET resend = 1")
        reader.resent([again])
        assert ledger._db.execute("SELECT count(*) FROM dead").fetchall() == [(0,)]
        reader.close()


def test_a_sink_stores_its_place_while_events_come_in(path: Path) -> None:
    with Ledger(path) as ledger:
        reader = ledger.readers(["a"])["a"]
        seen: list[int] = []

        def follow() -> None:
            while len(seen) < 200:
                for position, _ in reader.read(3):
                    seen.append(position)
                    reader.advance(position)

        thread = threading.Thread(target=follow)
        thread.start()
        for seq in range(200):
            ledger.commit([event(seq=seq)])
        thread.join(30)
        reader.close()

        assert seen == list(range(1, 201))


def test_a_failed_commit_leaves_no_trace(path: Path) -> None:
    with Ledger(path) as ledger:
        reader = ledger.readers(["a"])["a"]
        ledger._db.pragma("max_page_count", ledger._db.pragma("page_count"))
        with pytest.raises(apsw.FullError):
            ledger.commit([event(seq=seq) for seq in range(100)])
        assert reader.read(1) == []
        ledger._db.pragma("max_page_count", 1_000_000)

        ledger.commit([event(seq=7)])
        assert numbers(bodies(reader), "gate") == [1]
        reader.close()


@pytest.mark.parametrize("damage", [b"this is no database, but longer than its header" * 100, b"SQLite format 3\0" * 9])
def test_a_file_that_is_no_ledger_is_set_aside(path: Path, damage: bytes) -> None:
    path.write_bytes(damage)

    with Ledger(path) as ledger:
        reader = ledger.readers(["a"])["a"]
        ledger.commit([event()])
        assert [one["subject"] for one in bodies(reader)] == ["ledger.salvaged", "people"]
        reader.close()

    (aside,) = path.parent.glob("ledger.db.broken-*")
    assert aside.read_bytes() == damage


def test_a_ledger_of_an_earlier_version_is_taken_over(path: Path) -> None:
    with apsw.Connection(str(path)) as db:
        db.execute(
            "CREATE TABLE events (pos INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, source TEXT NOT NULL,"
            " sequence INTEGER NOT NULL, body BLOB NOT NULL);"
            "CREATE TABLE source (source TEXT PRIMARY KEY, sequence INTEGER NOT NULL) WITHOUT ROWID;"
            "CREATE TABLE cursor (sink TEXT PRIMARY KEY, pos INTEGER NOT NULL) WITHOUT ROWID;"
        )
        for position in range(1, 21):
            one = numbered(event(seq=position), position)
            row = (position, one.id, one.source, position, encode(one))
            db.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?)", row)
        db.execute("INSERT INTO source VALUES (?, 20)", (event().source,))
        db.execute("INSERT INTO cursor VALUES ('a', 15)")

    with Ledger(path) as ledger:
        reader = ledger.readers(["a"])["a"]
        ledger.commit([event(seq=20), event(seq=21)])
        assert numbers(bodies(reader), "gate") == [16, 17, 18, 19, 20, 21]
        reader.close()


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with its log beside it, as kill -9 leaves them; one sink has read half of it."""
    folder = tmp_path_factory.mktemp("healthy")
    ledger = Ledger(folder / "live.db", "home")
    reader = ledger.readers(["a", "b"])["a"]
    for start in range(0, 2000, 50):
        ledger.commit([event(seq=seq) for seq in range(start, start + 50)])
        reader.advance(start // 2)
    for end in ("", "-wal"):
        shutil.copy(folder / f"live.db{end}", folder / f"ledger.db{end}")
    return folder


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_ledger_starts_soon_and_keeps_what_is_readable(healthy: Path, path: Path, seed: int) -> None:
    chance = random.Random(seed)
    for end in ("", "-wal"):
        shutil.copy(healthy / f"ledger.db{end}", path.with_name(f"ledger.db{end}"))
    target = path if seed % 4 else path.with_name("ledger.db-wal")
    content = bytearray(target.read_bytes())
    if seed % 4 == 0 and seed % 8 == 0:
        del content[chance.randrange(len(content)) :]  # the log is cut
    else:
        for _ in range(chance.choice((1, 20))):
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    target.write_bytes(content)

    lives = []
    for _ in range(3):
        started = time.monotonic()
        try:
            with Ledger(path, "home") as ledger:
                readers = ledger.readers(["a", "b"])
                lives.append(time.monotonic() - started)
                try:
                    found = {name: bodies(reader, 100_000) for name, reader in readers.items()}
                    ledger.commit([event(seq=10_000 + len(lives))])
                finally:
                    for reader in readers.values():
                        reader.close()
        except BROKEN:
            continue
        break
    else:
        raise AssertionError("it never recovers")

    assert len(lives) <= 2
    assert max(lives) < 2
    results = [one for one in found["b"] if one["subject"] == "people"]
    sequences = [int(one["sequence"]) for one in results]
    assert sequences == sorted(set(sequences))
    if seed % 4:  # of a log that is cut or damaged SQLite takes what comes before
        assert len(results) >= 2000 - 20 * 10 or len(lives) == 0


_WRITER = """
import sys
from pathlib import Path
from streamer.events.ledger import Ledger
from tests.support.sample_events import event

with Ledger(Path(sys.argv[1])) as ledger:
    ledger.readers(["a"])
    for start in range(0, 1_000_000, 5):
        ledger.commit([event(seq=seq) for seq in range(start, start + 5)])
        print(start + 5, flush=True)
"""


def test_kill_9_loses_nothing_that_was_committed(path: Path) -> None:
    accepted = 0
    for round_ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        with writer.stdout as lines:
            for _ in range(20 + 7 * round_):
                accepted = max(accepted, int(lines.readline()))
            os.kill(writer.pid, signal.SIGKILL)
            accepted = max([accepted, *map(int, lines.read().splitlines())])
        writer.wait()

        with Ledger(path) as ledger:
            reader = ledger.readers(["a"])["a"]
            found = bodies(reader, 1_000_000)
            reader.close()
        assert len(found) >= accepted
        assert numbers(found, "gate") == list(range(1, len(found) + 1))
        assert len({one["id"] for one in found}) == len(found)
