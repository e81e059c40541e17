"""The ledger, on a real disk and with real kills of its writer."""

from __future__ import annotations

import json
import os
import random
import re
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

from streamer.events.ledger import BROKEN, Ledger, Replay, Retention, SinkCursor
from streamer.events.ledger.dead_letters import list_dead_letters, request_resend
from streamer.events.ledger.query import LedgerQuery
from streamer.events.schema import decode, encode, numbered
from tests.support.sample_events import event


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def bodies(cursor: SinkCursor, limit: int = 1000) -> list[Any]:
    return [json.loads(body) for _, body in cursor.read(limit)]


def numbers(events: Sequence[Any], stream: str) -> list[int]:
    return [int(one["sequence"]) for one in events if one["data"]["stream"] == stream]


def test_each_source_has_its_own_sequence(path: Path) -> None:
    with Ledger(path) as ledger:
        cursor = ledger.cursors(["a"])["a"]
        ledger.commit([event("gate", 0), event("yard", 0), event("gate", 1)])
        ledger.commit([event("gate", 2), event("yard", 1)])

        found = bodies(cursor)
        assert numbers(found, "gate") == [1, 2, 3]
        assert numbers(found, "yard") == [1, 2]
        assert found[0]["sequence"] == "0000000000000001"
        assert [position for position, _ in cursor.read(10)] == [1, 2, 3, 4, 5]
        cursor.close()


def test_stored_body_is_the_encoded_event(path: Path) -> None:
    with Ledger(path) as ledger:
        cursor = ledger.cursors(["a"])["a"]
        ledger.commit([event()])
        ((_, body),) = cursor.read(1)
        cursor.close()

    assert decode(body) == event().model_copy(update={"sequence": "0000000000000001"})


def test_repeated_event_is_stored_once(path: Path) -> None:
    with Ledger(path) as ledger:
        assert ledger.commit([event(seq=0), event(seq=0)]) == 1
        assert ledger.commit([event(seq=0), event(seq=1)]) == 1
        assert LedgerQuery(path).head() == 2


def test_event_that_was_deleted_is_not_stored_again(path: Path) -> None:
    """Its sender has not got the acknowledgement, and the size limit has deleted it meanwhile."""
    with Ledger(path, retention=Retention(max_bytes=1 << 20)) as ledger:
        late = [event(seq=seq) for seq in range(50)]
        ledger.commit(late)
        seq = 50
        while _holds(path, late[-1].id):
            ledger.commit([event(seq=number) for number in range(seq, seq + 200)])
            seq += 200
        assert ledger.commit(late) == 0
    with Ledger(path, retention=Retention(max_bytes=1 << 20)) as ledger:
        assert ledger.commit(late) == 0, "also after a restart"
        assert ledger.commit([event(seq=seq)]) == 1


def _holds(path: Path, event_id: str) -> bool:
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return bool(db.execute("SELECT count(*) FROM events WHERE id = ?", (event_id,)).fetchone()[0])  # type: ignore[index]
    finally:
        db.close()


def test_file_without_the_added_tables_is_used_as_it_is(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.cursors(["a"])["a"].close()
        ledger.commit([event(seq=1)])
    db = apsw.Connection(str(path))
    db.execute("DROP TABLE sending; DROP TABLE deleted")
    db.close()
    with Ledger(path) as ledger:
        assert ledger.commit([event(seq=1), event(seq=2)]) == 1
        cursor = ledger.cursors(["a"])["a"]
        assert cursor.in_doubt is None
        assert len(bodies(cursor)) == 2
        cursor.close()
    assert not list(path.parent.glob("*.broken-*"))


def test_event_in_delivery_is_in_doubt_after_a_kill(path: Path) -> None:
    with Ledger(path) as ledger:
        cursor = ledger.cursors(["a"])["a"]
        ledger.commit([event(seq=seq) for seq in range(3)])
        doubts = [cursor.in_doubt]
        cursor.begin(1)
        cursor.close()
        cursor = ledger.cursors(["a"])["a"]
        doubts.append(cursor.in_doubt)
        cursor.advance(1)
        doubts.append(cursor.in_doubt)
        assert doubts == [None, 1, None], "the position is behind it"

        cursor.settle([1])
        cursor.dead_letter(1, "HTTP 422")
        request_resend(path, "a")
        assert [position for position, _ in cursor.to_resend(10)] == [1]
        cursor.begin(1)
        doubts = [cursor.in_doubt]
        cursor.settle([1])
        assert [*doubts, cursor.in_doubt, cursor.to_resend(10)] == [1, None, []]
        cursor.close()


def test_sequences_and_cursors_continue_after_restart(path: Path) -> None:
    with Ledger(path) as ledger:
        cursor = ledger.cursors(["a"])["a"]
        ledger.commit([event(seq=seq) for seq in range(3)])
        cursor.advance(2)
        cursor.close()
    with Ledger(path) as ledger:
        cursor = ledger.cursors(["a"])["a"]
        ledger.commit([event(seq=1), event(seq=3)])

        assert numbers(bodies(cursor), "gate") == [3, 4]
        assert cursor.find(event(seq=3).id) == 4
        assert cursor.find("unknown") is None
        cursor.close()


def test_new_sink_starts_at_newest_event_removed_is_deleted(path: Path) -> None:
    with Ledger(path) as ledger:
        old = ledger.cursors(["old"])["old"]
        ledger.commit([event(seq=0)])
        old.close()
        for cursor in ledger.cursors(["old", "new"]).values():
            assert cursor.position == {"old": 0, "new": 1}[cursor._sink]
            cursor.close()
        (again,) = ledger.cursors(["new"]).values()
        again.close()
        back = ledger.cursors(["old", "new"])["old"]
        assert back.position == 1
        back.close()


def test_size_limit_deletes_oldest_and_counts_losses(path: Path) -> None:
    keep = Retention(max_bytes=1 << 20)
    with Ledger(path, "home", keep) as ledger:
        slow, quick = ledger.cursors(["slow", "quick"]).values()
        ledger.commit([event("quiet", 0)])
        for start in range(0, 3000, 100):
            ledger.commit([event(seq=seq) for seq in range(start, start + 100)])
            quick.advance(LedgerQuery(path).head())
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
    with Ledger(path, "home", keep) as ledger:  # losses that were not reported yet are reported by the next process
        cursor = ledger.cursors(["slow", "quick"])["slow"]
        ledger.commit([event("quiet", 1)])
        after = bodies(cursor, 100_000)
        assert numbers(after, "quiet") == [2]
        reported = [one["data"]["lost"] for one in after if one["subject"] == "sink.lost"]
        cursor.close()
    # The first loss was reported at once, and that event is deleted itself; the ranges meet.
    begin, end = (int(one) for one in reported[-1]["sequences"]["/agents/home/streams/gate"])
    assert (begin, end) == (512, first - 1)
    assert reported[-1]["events"] == end - begin + 1 + 1


def test_events_older_than_retention_are_deleted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    with Ledger(path, "home", Retention(keep="1h")) as ledger:
        ledger.cursors([])
        for hours, seqs in ((3, range(10)), (2, range(10, 20)), (0, range(20, 30))):
            monkeypatch.setattr("streamer.events.ledger.writer.time.time", lambda hours=hours: now - hours * 3600)
            ledger.commit([event(seq=seq) for seq in seqs])
        ledger.commit([])
        kept = [json.loads(cast(bytes, body)) for (body,) in ledger._db.execute("SELECT body FROM events ORDER BY pos")]

    assert numbers(kept, "gate") == list(range(21, 31))


def test_dead_letters_are_kept_and_resent(path: Path) -> None:
    with Ledger(path) as ledger:
        cursor = ledger.cursors(["hook"])["hook"]
        ledger.commit([event(seq=seq) for seq in range(3)])
        cursor.dead_letter(2, "HTTP 422")
        cursor.advance(3)
        assert cursor.to_resend(10) == []
        ledger._db.execute("UPDATE dead SET resend = 1")
        (again,) = cursor.to_resend(10)
        assert again[0] == 2
        cursor.dead_letter(2, "HTTP 400")  # it refuses it again
        cursor.resent([again])
        assert ledger._db.execute("SELECT pos, reason, resend FROM dead").fetchall() == [(2, "HTTP 400", 0)]
        ledger._db.execute("UPDATE dead SET resend = 1")
        cursor.resent([again])
        assert ledger._db.execute("SELECT count(*) FROM dead").fetchall() == [(0,)]
        cursor.close()


def test_cursor_advances_while_events_are_committed(path: Path) -> None:
    with Ledger(path) as ledger:
        cursor = ledger.cursors(["a"])["a"]
        seen: list[int] = []

        def follow() -> None:
            while len(seen) < 200:
                for position, _ in cursor.read(3):
                    seen.append(position)
                    cursor.advance(position)

        thread = threading.Thread(target=follow)
        thread.start()
        for seq in range(200):
            ledger.commit([event(seq=seq)])
        thread.join(30)
        cursor.close()

        assert seen == list(range(1, 201))


def test_failed_commit_leaves_no_trace(path: Path) -> None:
    with Ledger(path) as ledger:
        cursor = ledger.cursors(["a"])["a"]
        ledger._db.pragma("max_page_count", ledger._db.pragma("page_count"))
        with pytest.raises(apsw.FullError):
            ledger.commit([event(seq=seq) for seq in range(100)])
        assert cursor.read(1) == []
        ledger._db.pragma("max_page_count", 1_000_000)

        ledger.commit([event(seq=7)])
        assert numbers(bodies(cursor), "gate") == [1]
        cursor.close()


@pytest.mark.parametrize("damage", [b"this is no database, but longer than its header" * 100, b"SQLite format 3\0" * 9])
def test_file_that_is_no_ledger_is_moved_aside(path: Path, damage: bytes) -> None:
    path.write_bytes(damage)

    with Ledger(path) as ledger:
        cursor = ledger.cursors(["a"])["a"]
        ledger.commit([event()])
        assert [one["subject"] for one in bodies(cursor)] == ["ledger.salvaged", "people"]
        cursor.close()

    (kept,) = path.parent.glob("ledger.db.broken-*")
    assert kept.read_bytes() == damage


def test_ledger_of_earlier_version_is_migrated(path: Path) -> None:
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
        cursor = ledger.cursors(["a"])["a"]
        ledger.commit([event(seq=20), event(seq=21)])
        assert numbers(bodies(cursor), "gate") == [16, 17, 18, 19, 20, 21]
        cursor.close()


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger and its WAL as kill -9 leaves them; one sink has read half of it."""
    folder = tmp_path_factory.mktemp("healthy")
    ledger = Ledger(folder / "live.db", "home")
    cursor = ledger.cursors(["a", "b"])["a"]
    for start in range(0, 2000, 50):
        ledger.commit([event(seq=seq) for seq in range(start, start + 50)])
        cursor.advance(start // 2)
    for end in ("", "-wal"):
        shutil.copy(folder / f"live.db{end}", folder / f"ledger.db{end}")
    return folder


@pytest.mark.parametrize("seed", range(20))
def test_damaged_ledger_opens_soon_with_readable_events(healthy: Path, path: Path, seed: int) -> None:
    rng = random.Random(seed)
    for end in ("", "-wal"):
        shutil.copy(healthy / f"ledger.db{end}", path.with_name(f"ledger.db{end}"))
    target = path if seed % 4 else path.with_name("ledger.db-wal")
    content = bytearray(target.read_bytes())
    if seed % 4 == 0 and seed % 8 == 0:
        del content[rng.randrange(len(content)) :]  # the WAL is cut
    else:
        for _ in range(rng.choice((1, 20))):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    target.write_bytes(content)

    lives = []
    for _ in range(3):
        started = time.monotonic()
        try:
            with Ledger(path, "home") as ledger:
                cursors = ledger.cursors(["a", "b"])
                lives.append(time.monotonic() - started)
                try:
                    found = {name: bodies(cursor, 100_000) for name, cursor in cursors.items()}
                    ledger.commit([event(seq=10_000 + len(lives))])
                finally:
                    for cursor in cursors.values():
                        cursor.close()
        except BROKEN:
            continue
        break
    else:
        raise AssertionError("not recovered after 3 starts")

    assert len(lives) <= 2
    assert max(lives) < 30
    results = [one for one in found["b"] if one["subject"] == "people"]
    sequences = [int(one["sequence"]) for one in results]
    assert sequences == sorted(set(sequences))
    if seed % 4:  # from a cut or damaged WAL, SQLite reads what precedes the damage
        assert len(results) >= 2000 - 20 * 10


_WRITER = """
import sys
from pathlib import Path
from streamer.events.ledger import Ledger
from tests.support.sample_events import event

with Ledger(Path(sys.argv[1])) as ledger:
    ledger.cursors(["a"])
    for start in range(0, 1_000_000, 5):
        ledger.commit([event(seq=seq) for seq in range(start, start + 5)])
        print(start + 5, flush=True)
"""


CHANGES = {
    "trigger": "CREATE TRIGGER t AFTER INSERT ON events BEGIN DELETE FROM events; END",
    "view": "DROP TABLE cursor; CREATE VIEW cursor AS SELECT 'a' AS sink, 0 AS pos",
    "far position": "UPDATE cursor SET pos = 9223372036854775807",
    "negative position": "UPDATE cursor SET pos = -5",
    "text as sequence": "UPDATE source SET sequence = 'abc'; UPDATE events SET sequence = 'abc' WHERE pos = 1",
    "text as time": "UPDATE events SET created = 'abc'",
    "damaged body": "UPDATE events SET body = x'00' WHERE pos = 2",
    "body of another kind": "UPDATE events SET body = 5 WHERE pos = 2",
}


@pytest.mark.parametrize("change", CHANGES)
def test_ledger_changed_by_another_program_is_used_or_salvaged(path: Path, change: str) -> None:
    with Ledger(path) as ledger:
        ledger.cursors(["a"])["a"].close()
        ledger.commit([event(seq=seq) for seq in range(4)])
    db = apsw.Connection(str(path))
    db.execute(CHANGES[change])
    db.close()
    for _ in range(2):  # damage that a sink finds is repaired by the next process
        try:
            with Ledger(path) as ledger:
                cursor = ledger.cursors(["a"])["a"]
                ledger.commit([event(seq=9)])
                found = bodies(cursor)
                cursor.close()
                break
        except BROKEN:
            pass
    else:
        raise AssertionError("it is still damaged")
    seqs = [one["data"]["frame"]["seq"] for one in found if one["type"] == "streamer.result.v1"]
    assert seqs == ([0, 2, 3, 9] if "body" in change else [1, 2, 3, 9] if "sequence" in change else [0, 1, 2, 3, 9])


def test_pipe_in_the_place_of_the_ledger_is_refused(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(apsw.CantOpenError):
        Ledger(path)


def test_damaged_dead_letters_and_events_are_passed_over(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Ledger(path) as ledger:
        cursor = ledger.cursors(["a"])["a"]
        ledger.commit([event(seq=seq) for seq in range(3)])
        for position in (1, 2, 3):
            cursor.dead_letter(position, "HTTP 422")
        db = apsw.Connection(str(path))
        db.execute(
            "UPDATE dead SET body = x'00' WHERE pos = 1; UPDATE dead SET body = zeroblob(50000000) WHERE pos = 2"
        )
        db.execute("UPDATE events SET body = x'00' WHERE pos = 2")
        db.close()
        assert [letter.reason for letter in list_dead_letters(path)] == ["HTTP 422"]
        assert request_resend(path, "a") == 3
        assert [position for position, _ in cursor.to_resend(10)] == [3]
        assert [position for position, _ in cursor.to_resend(10)] == [3]
        assert len([line for line in caplog.messages if "not sent again" in line]) == 1
        replay = Replay(path)
        assert len(replay.between("/agents/home/streams/gate", 0, 10, 10)) == 2
        replay.close()
        cursor.close()


def test_kill_9_loses_no_committed_event(path: Path) -> None:
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
            cursor = ledger.cursors(["a"])["a"]
            found = bodies(cursor, 1_000_000)
            cursor.close()
        assert len(found) >= accepted
        assert numbers(found, "gate") == list(range(1, len(found) + 1))
        assert len({one["id"] for one in found}) == len(found)


def test_deleted_report_of_losses_is_made_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk the report itself can be deleted before any sink has it; its number must not go with it."""
    monkeypatch.setattr("streamer.events.ledger.writer.DELETE_BATCH", 4)
    monkeypatch.setattr(Ledger, "_is_too_large", lambda _: True)
    with Ledger(path) as ledger:
        ledger.cursors(["slow", "other"], ["rules"])
        for seq in range(30):
            ledger.commit([event(seq=seq)])
        monkeypatch.setattr("streamer.events.ledger.writer.LOST_EVERY_S", 0.0)
        ledger.commit([])
        rows = ledger._db.execute("SELECT body FROM events WHERE source LIKE '%/sinks/%'").fetchall()
        recorded: dict[Any, Any] = dict(
            cast(Any, ledger._db.execute("SELECT sink, sum(events) FROM lost GROUP BY sink").fetchall())
        )
        deleted = ledger._newest - 1
    for body in (cast(bytes, body) for (body,) in rows):
        report = json.loads(body)["data"]
        recorded[report["sink"]] += report["lost"]["events"]
        assert report["lost"]["sequences"]["/agents/home/streams/gate"][0] == f"{1:016d}"
    assert recorded == dict.fromkeys(("slow", "other", "rules"), deleted)


def test_losses_are_logged_once_their_report_is_stored(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Ledger, "_is_too_large", lambda _: True)
    with Ledger(path) as ledger:
        ledger.cursors(["slow"])
        for seq in range(3):
            ledger.commit([event(seq=seq)])
        monkeypatch.setattr("streamer.events.ledger.writer.LOST_EVERY_S", 0.0)
        ledger._db.pragma("max_page_count", ledger._db.pragma("page_count"))
        caplog.clear()
        for _ in range(3):
            with pytest.raises(apsw.FullError):
                ledger.commit([event(seq=seq) for seq in range(10, 110)])
        assert "were deleted" not in caplog.text
        ledger._db.pragma("max_page_count", 1_000_000)
        ledger.commit([])
    (line,) = [line for line in caplog.messages if "were deleted" in line]
    assert re.fullmatch(r"sink slow: \d+ events were deleted from the ledger before they could be delivered", line)
