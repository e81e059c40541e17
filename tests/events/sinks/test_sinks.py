"""The sinks, on real files, pipes and sockets."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq
from pydantic import TypeAdapter, ValidationError

from streamer.core.errors import ConfigError, SinkError
from streamer.events.build import sink_event, status_event
from streamer.events.schema import encode, numbered
from streamer.events.sinks import Jsonl, SinkContext, SinkField, SinkSettings, Stdout, Zmq
from streamer.types import Sink
from tests.support.agents import until
from tests.support.sample_events import event

Line = tuple[int, bytes]


def lines(first: int, last: int) -> list[Line]:
    """Ledger entries, positions first..last."""
    return [(position, encode(numbered(event(seq=position), position))) for position in range(first, last + 1)]


BOOK = {event(seq=position).id: position for position in range(1, 100)}


def context(folder: Path, max_events: int | None = None, finished: Any = lambda: None) -> SinkContext:
    return SinkContext(agent="home", runtime=folder, find=BOOK.get, finished=finished, max_events=max_events)


def written(path: Path) -> list[int]:
    return [int(json.loads(line)["sequence"]) for line in path.read_bytes().splitlines()]


@contextmanager
def opened(settings: SinkSettings, folder: Path, **options: Any) -> Iterator[Sink]:
    sink = settings.open(context(folder, **options))
    try:
        yield sink
    finally:
        sink.close()


# -- settings


def test_kind_chooses_the_sink() -> None:
    adapter: TypeAdapter[SinkSettings] = TypeAdapter(SinkField)

    assert adapter.validate_python({"kind": "jsonl", "path": "a.jsonl"}) == Jsonl(path=Path("a.jsonl"))
    assert adapter.validate_python({"kind": "zmq", "name": "bus"}).name == "bus"
    assert adapter.validate_python({"kind": "stdout"}).name == "stdout"


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"kind": "zmq", "endpoint": "tcp://*:5555"}, "tcp is not supported yet"),
        ({"kind": "jsonl"}, "path"),
        ({"kind": "jsonl", "path": "a", "keep": 0}, "greater than or equal to 1"),
        ({"kind": "kafka"}, "kafka"),
        ({"kind": "stdout", "name": "../x"}, "pattern"),
        ({"kind": "stdout", "colour": "red"}, "Extra inputs"),
    ],
)
def test_bad_settings_are_refused(raw: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TypeAdapter(SinkField).validate_python(raw)


# -- jsonl


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def test_jsonl_appends(path: Path) -> None:
    with opened(Jsonl(path=path), path.parent) as sink:
        sink.write(lines(1, 2))
        sink.write(lines(3, 3))
    with opened(Jsonl(path=path), path.parent) as sink:
        sink.write(lines(4, 5))

    assert written(path) == [1, 2, 3, 4, 5]


def test_jsonl_does_not_repeat_what_the_file_has(path: Path) -> None:
    with opened(Jsonl(path=path), path.parent) as sink:
        sink.write(lines(1, 5))
    with opened(Jsonl(path=path), path.parent) as sink:
        sink.write(lines(3, 7))

    assert written(path) == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("kept", [1, 13, 40, 400, -1])
def test_jsonl_cuts_a_torn_line(path: Path, kept: int) -> None:
    (_, torn), *_ = lines(3, 3)
    with opened(Jsonl(path=path), path.parent) as sink:
        sink.write(lines(1, 2))
    with path.open("ab") as file:
        file.write(torn[:kept])

    with opened(Jsonl(path=path), path.parent) as sink:
        sink.write(lines(2, 4))

    assert written(path) == [1, 2, 3, 4]


@pytest.mark.parametrize("torn", [b"\0" * 100, b'{"specversion":"1.0' + b"\0" * 100_000])
def test_jsonl_cuts_space_that_was_never_written(path: Path, torn: bytes) -> None:
    path.write_bytes(lines(1, 1)[0][1] + b"\n" + torn)

    with opened(Jsonl(path=path), path.parent) as sink:
        sink.write(lines(1, 2))

    assert written(path) == [1, 2]


def test_jsonl_leaves_a_foreign_file_alone(path: Path) -> None:
    path.write_bytes(b"Dear diary,\ntoday")

    with opened(Jsonl(path=path), path.parent) as sink, pytest.raises(SinkError, match="is it the right file"):
        sink.write(lines(1, 1))

    assert path.read_bytes() == b"Dear diary,\ntoday"


def test_jsonl_goes_on_in_a_file_that_is_not_in_the_ledger(path: Path) -> None:
    path.write_bytes(b'{"id": "of an earlier ledger"}\n')

    with opened(Jsonl(path=path), path.parent) as sink:
        sink.write(lines(1, 1))

    assert len(path.read_bytes().splitlines()) == 2


def test_jsonl_rotates_and_keeps_a_few(path: Path) -> None:
    size = len(lines(1, 1)[0][1]) + 1
    with opened(Jsonl(path=path, max_bytes=3 * size, keep=2), path.parent) as sink:
        sink.write(lines(1, 5))
        sink.write(lines(6, 11))

    assert written(path) == [10, 11]
    assert written(path.with_name("events.jsonl.1")) == [7, 8, 9]
    assert written(path.with_name("events.jsonl.2")) == [4, 5, 6]
    assert sorted(one.name for one in path.parent.iterdir()) == ["events.jsonl", "events.jsonl.1", "events.jsonl.2"]


@pytest.mark.parametrize("current", [None, b""])
def test_jsonl_killed_right_after_a_rotation_does_not_repeat(path: Path, current: bytes | None) -> None:
    with opened(Jsonl(path=path), path.parent) as sink:
        sink.write(lines(1, 3))
    path.rename(path.with_name("events.jsonl.1"))
    if current is not None:
        path.write_bytes(current)

    with opened(Jsonl(path=path), path.parent) as sink:
        sink.write(lines(2, 4))

    assert written(path) == [4]


def test_jsonl_whose_file_was_moved_starts_a_new_one(path: Path) -> None:
    with opened(Jsonl(path=path), path.parent) as sink:
        sink.write(lines(1, 2))
        path.unlink()
        sink.write(lines(3, 4))

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


def test_jsonl_on_a_full_disk_keeps_whole_lines_and_goes_on_later(path: Path) -> None:
    with opened(Jsonl(path=path), path.parent) as sink:
        sink.write(lines(1, 2))
        good = path.read_bytes()
        with full_disk(len(good) + 100):
            for _ in range(2):
                with pytest.raises(SinkError, match=r"cannot write .*events\.jsonl"):
                    sink.write(lines(3, 5))
                assert path.read_bytes() == good
        sink.write(lines(3, 5))

    assert written(path) == [1, 2, 3, 4, 5]


def test_jsonl_is_written_by_one_process(path: Path) -> None:
    with opened(Jsonl(path=path), path.parent) as first, opened(Jsonl(path=path), path.parent) as second:
        first.write(lines(1, 1))
        with pytest.raises(SinkError, match="another process does"):
            second.write(lines(1, 1))
        first.close()
        second.write(lines(1, 2))

    assert written(path) == [1, 2]


@pytest.mark.parametrize(
    ("name", "words"),
    [("missing/events.jsonl", "no such directory"), ("a-folder", "not a regular file"), ("/dev/null", "regular file")],
)
def test_jsonl_path_that_cannot_work_is_a_config_error(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "a-folder").mkdir()
    settings = Jsonl(path=tmp_path / name)

    with pytest.raises(ConfigError, match=words):
        settings.check()
    with pytest.raises(ConfigError, match=words):
        settings.open(context(tmp_path))


def test_check_leaves_no_trace(path: Path) -> None:
    Jsonl(path=path).check()

    assert not path.exists()


# -- stdout


def test_stdout_prints_lines(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with opened(Stdout(), tmp_path) as sink:
        sink.write(lines(1, 2))

    assert [json.loads(line)["sequence"][-1] for line in capfd.readouterr().out.splitlines()] == ["1", "2"]


def test_stdout_ends_after_so_many_results(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ends: list[bool] = []
    status = (1, encode(status_event("home", "gate", "up")))
    with opened(Stdout(), tmp_path, max_events=2, finished=lambda: ends.append(True)) as sink:
        sink.write([status, *lines(2, 9)])
        sink.write(lines(10, 11))

    assert ends == [True]
    assert len(capfd.readouterr().out.splitlines()) == 3


def test_stdout_whose_reader_is_gone_ends_the_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[bool] = []
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as output:
        monkeypatch.setattr("sys.stdout", output)
        with opened(Stdout(), tmp_path, finished=lambda: ends.append(True)) as sink:
            os.close(reader)
            sink.write(lines(1, 2))
            sink.write(lines(3, 3))

    assert ends == [True]


# -- zmq


@contextmanager
def listener(endpoint: str, topic: bytes) -> Iterator[zmq.Socket[bytes]]:
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
    with socket:
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.SUBSCRIBE, topic)
        socket.connect(endpoint)
        yield socket


def send_until_heard(sink: Sink, socket: zmq.Socket[bytes], events: Sequence[Line]) -> list[bytes]:
    def heard() -> bool:
        sink.write(events)
        return bool(socket.poll(20))

    until(heard, 10, "the listener hears")
    return socket.recv_multipart()


def test_zmq_topic_is_stream_and_subject(tmp_path: Path) -> None:
    with opened(Zmq(), tmp_path) as sink, listener(f"ipc://{tmp_path}/bus.sock", b"") as socket:
        body = lines(1, 1)[0][1]
        assert send_until_heard(sink, socket, [(1, body)]) == [b"gate/people/", body]
    for status, topic in [
        (status_event("home", "gate", "down"), b"gate/stream.down/"),
        (sink_event("home", "jsonl", "down"), b"/sink.down/"),
    ]:
        with opened(Zmq(), tmp_path) as sink, listener(f"ipc://{tmp_path}/bus.sock", b"") as socket:
            assert send_until_heard(sink, socket, [(1, encode(status))])[0] == topic


def test_zmq_without_listeners_takes_everything(tmp_path: Path) -> None:
    with opened(Zmq(endpoint=f"ipc://{tmp_path}/other.sock"), tmp_path) as sink:
        sink.write(lines(1, 50) * 100)


def test_zmq_that_cannot_bind_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot bind ipc://"):
        Zmq(endpoint=f"ipc://{tmp_path}/missing/bus.sock").open(context(tmp_path))
    with pytest.raises(ConfigError, match="107 bytes"):
        Zmq().open(context(tmp_path / ("x" * 120)))
