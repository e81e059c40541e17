"""The ledger, on a real disk and with real kills."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import apsw
import pytest

from streamer.events import decode
from streamer.ledger import Ledger, Reader
from tests.sample_events import event


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def bodies(reader: Reader, limit: int = 1000) -> list[Any]:
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


def test_old_events_are_deleted_and_counting_goes_on(path: Path) -> None:
    with Ledger(path, keep=100) as ledger:
        reader = ledger.readers(["slow"])["slow"]
        ledger.commit([event("quiet", 0)])
        for seq in range(300):
            ledger.commit([event(seq=seq)])
        positions = [position for position, _ in reader.read(1000)]
        reader.close()

        assert 100 <= len(positions) <= 101
        assert positions == list(range(positions[0], 302))
    with Ledger(path, keep=100) as ledger:
        reader = ledger.readers(["slow"])["slow"]
        ledger.commit([event("quiet", 1)])
        assert numbers(bodies(reader), "quiet") == [2]
        assert ledger.head == 302
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
        ledger.commit([event()])
        assert ledger.head == 1

    (aside,) = path.parent.glob("ledger.db.broken-*")
    assert aside.read_bytes() == damage


@pytest.mark.parametrize("damaged", [(0.1, 1.0), (0.4, 0.6)])
def test_no_start_meets_a_damaged_ledger_twice(path: Path, damaged: tuple[float, float]) -> None:
    events = [event(seq=seq) for seq in range(500)]
    with Ledger(path) as ledger:
        ledger.commit(events)
    content = bytearray(path.read_bytes())
    start, end = (int(len(content) * part) for part in damaged)
    content[start:end] = random.Random(1).randbytes(end - start)
    path.write_bytes(content)

    with suppress(apsw.CorruptError), Ledger(path) as ledger:  # found on opening, or in use
        ledger.commit(events)
    with Ledger(path) as ledger:
        ledger.commit(events)
        assert ledger.head == 500

    assert len(list(path.parent.glob("ledger.db.broken-*"))) == 1


_WRITER = """
import sys
from pathlib import Path
from streamer.ledger import Ledger
from tests.sample_events import event

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
