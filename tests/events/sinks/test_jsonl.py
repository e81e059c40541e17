"""The jsonl sink, on real files."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from streamer.core.errors import ConfigError, SinkError
from streamer.events.sinks import Jsonl
from tests.support.sinks import RecordedProgress, entries, opened, sink_context


def written(path: Path) -> list[int]:
    return [int(json.loads(line)["sequence"]) for line in path.read_bytes().splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def test_appends(path: Path) -> None:
    with opened(Jsonl(path=path), path.parent) as sink:
        sink.write(entries(1, 2))
        sink.write(entries(3, 3))
    with opened(Jsonl(path=path), path.parent) as sink:
        sink.write(entries(4, 5))

    assert written(path) == [1, 2, 3, 4, 5]


def test_skips_events_already_in_the_file(path: Path) -> None:
    with opened(Jsonl(path=path), path.parent) as sink:
        sink.write(entries(1, 5))
    with opened(Jsonl(path=path), path.parent) as sink:
        sink.write(entries(3, 7))

    assert written(path) == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("kept", [1, 13, 40, 400, -1])
def test_cuts_an_incomplete_last_line(path: Path, kept: int) -> None:
    (_, torn), *_ = entries(3, 3)
    with opened(Jsonl(path=path), path.parent) as sink:
        sink.write(entries(1, 2))
    with path.open("ab") as file:
        file.write(torn[:kept])

    with opened(Jsonl(path=path), path.parent) as sink:
        sink.write(entries(2, 4))

    assert written(path) == [1, 2, 3, 4]


@pytest.mark.parametrize("torn", [b"\0" * 100, b'{"specversion":"1.0' + b"\0" * 100_000])
def test_cuts_allocated_but_unwritten_space(path: Path, torn: bytes) -> None:
    path.write_bytes(entries(1, 1)[0][1] + b"\n" + torn)

    with opened(Jsonl(path=path), path.parent) as sink:
        sink.write(entries(1, 2))

    assert written(path) == [1, 2]


def test_does_not_change_a_foreign_file(path: Path) -> None:
    path.write_bytes(b"Dear diary,\ntoday")

    with opened(Jsonl(path=path), path.parent) as sink, pytest.raises(SinkError, match="is it the right file"):
        sink.write(entries(1, 1))

    assert path.read_bytes() == b"Dear diary,\ntoday"


def test_appends_after_events_unknown_to_the_ledger(path: Path) -> None:
    path.write_bytes(b'{"id": "of an earlier ledger"}\n')

    with opened(Jsonl(path=path), path.parent) as sink:
        sink.write(entries(1, 1))

    assert len(path.read_bytes().splitlines()) == 2


def test_rotates_and_deletes_the_oldest_file(path: Path) -> None:
    size = len(entries(1, 1)[0][1]) + 1
    with opened(Jsonl(path=path, max_bytes=3 * size, keep=2), path.parent) as sink:
        sink.write(entries(1, 5))
        sink.write(entries(6, 11))

    assert written(path) == [10, 11]
    assert written(path.with_name("events.jsonl.1")) == [7, 8, 9]
    assert written(path.with_name("events.jsonl.2")) == [4, 5, 6]
    assert sorted(one.name for one in path.parent.iterdir()) == ["events.jsonl", "events.jsonl.1", "events.jsonl.2"]


@pytest.mark.parametrize("current", [None, b""])
def test_killed_after_rotation_repeats_nothing(path: Path, current: bytes | None) -> None:
    with opened(Jsonl(path=path), path.parent) as sink:
        sink.write(entries(1, 3))
    path.rename(path.with_name("events.jsonl.1"))
    if current is not None:
        path.write_bytes(current)

    with opened(Jsonl(path=path), path.parent) as sink:
        sink.write(entries(2, 4))

    assert written(path) == [4]


def test_creates_a_new_file_after_deletion(path: Path) -> None:
    with opened(Jsonl(path=path), path.parent) as sink:
        sink.write(entries(1, 2))
        path.unlink()
        sink.write(entries(3, 4))

    assert written(path) == [3, 4]


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file of this process can grow beyond `size` bytes: writes are cut short and then fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_keeps_whole_lines_on_a_full_disk_and_recovers(path: Path) -> None:
    with opened(Jsonl(path=path), path.parent) as sink:
        sink.write(entries(1, 2))
        good = path.read_bytes()
        with full_disk(len(good) + 100):
            for _ in range(2):
                with pytest.raises(SinkError, match=r"cannot write .*events\.jsonl"):
                    sink.write(entries(3, 5))
                assert path.read_bytes() == good
        sink.write(entries(3, 5))

    assert written(path) == [1, 2, 3, 4, 5]


def test_file_is_locked_by_one_writer(path: Path) -> None:
    with opened(Jsonl(path=path), path.parent) as first, opened(Jsonl(path=path), path.parent) as second:
        first.write(entries(1, 1))
        with pytest.raises(SinkError, match="another process writes it"):
            second.write(entries(1, 1))
        first.close()
        second.write(entries(1, 2))

    assert written(path) == [1, 2]


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing/events.jsonl", "no such directory"), ("a-folder", "not a regular file"), ("/dev/null", "regular file")],
)
def test_unusable_path_is_a_config_error(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "a-folder").mkdir()
    settings = Jsonl(path=tmp_path / name)

    with pytest.raises(ConfigError, match=message):
        settings.check()
    with pytest.raises(ConfigError, match=message):
        settings.open(sink_context(tmp_path), RecordedProgress())


def test_check_creates_no_file(path: Path) -> None:
    Jsonl(path=path).check()

    assert not path.exists()
