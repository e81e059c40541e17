"""The jsonl, stdout and zmq sinks, on real files, pipes and sockets."""

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
from streamer.events.ledger import LEDGER_FILE, Ledger
from streamer.events.schema import encode
from streamer.events.sinks import Jsonl, SinkField, SinkSettings, Stdout, Zmq
from streamer.types import Sink
from tests.support.agents import until
from tests.support.sample_events import event
from tests.support.sinks import RecordedProgress, entries, sink_context

IN_LEDGER = {event(seq=position).id: position for position in range(1, 100)}


def written(path: Path) -> list[int]:
    return [int(json.loads(line)["sequence"]) for line in path.read_bytes().splitlines()]


@contextmanager
def opened(settings: SinkSettings, folder: Path, **options: Any) -> Iterator[Sink]:
    sink = settings.open(sink_context(folder, **options), RecordedProgress(IN_LEDGER))
    try:
        yield sink
    finally:
        sink.close()


# -- settings


def test_kind_selects_the_sink() -> None:
    adapter: TypeAdapter[SinkSettings] = TypeAdapter(SinkField)

    assert adapter.validate_python({"kind": "jsonl", "path": "a.jsonl"}) == Jsonl(path=Path("a.jsonl"))
    assert adapter.validate_python({"kind": "zmq", "name": "bus"}).name == "bus"
    assert adapter.validate_python({"kind": "stdout"}).name == "stdout"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"kind": "zmq", "endpoint": "tcp://*:5555"}, "tcp is not supported yet"),
        ({"kind": "jsonl"}, "path"),
        ({"kind": "jsonl", "path": "a", "keep": 0}, "greater than or equal to 1"),
        ({"kind": "kafka"}, "kafka"),
        ({"kind": "stdout", "name": "../x"}, "pattern"),
        ({"kind": "stdout", "colour": "red"}, "Extra inputs"),
    ],
)
def test_invalid_settings_are_rejected(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(SinkField).validate_python(raw)


# -- jsonl


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def test_jsonl_appends(path: Path) -> None:
    with opened(Jsonl(path=path), path.parent) as sink:
        sink.write(entries(1, 2))
        sink.write(entries(3, 3))
    with opened(Jsonl(path=path), path.parent) as sink:
        sink.write(entries(4, 5))

    assert written(path) == [1, 2, 3, 4, 5]


def test_jsonl_skips_events_already_in_the_file(path: Path) -> None:
    with opened(Jsonl(path=path), path.parent) as sink:
        sink.write(entries(1, 5))
    with opened(Jsonl(path=path), path.parent) as sink:
        sink.write(entries(3, 7))

    assert written(path) == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("kept", [1, 13, 40, 400, -1])
def test_jsonl_cuts_an_incomplete_last_line(path: Path, kept: int) -> None:
    (_, torn), *_ = entries(3, 3)
    with opened(Jsonl(path=path), path.parent) as sink:
        sink.write(entries(1, 2))
    with path.open("ab") as file:
        file.write(torn[:kept])

    with opened(Jsonl(path=path), path.parent) as sink:
        sink.write(entries(2, 4))

    assert written(path) == [1, 2, 3, 4]


@pytest.mark.parametrize("torn", [b"\0" * 100, b'{"specversion":"1.0' + b"\0" * 100_000])
def test_jsonl_cuts_allocated_but_unwritten_space(path: Path, torn: bytes) -> None:
    path.write_bytes(entries(1, 1)[0][1] + b"\n" + torn)

    with opened(Jsonl(path=path), path.parent) as sink:
        sink.write(entries(1, 2))

    assert written(path) == [1, 2]


def test_jsonl_does_not_change_a_foreign_file(path: Path) -> None:
    path.write_bytes(b"Dear diary,\ntoday")

    with opened(Jsonl(path=path), path.parent) as sink, pytest.raises(SinkError, match="is it the right file"):
        sink.write(entries(1, 1))

    assert path.read_bytes() == b"Dear diary,\ntoday"


def test_jsonl_appends_after_events_unknown_to_the_ledger(path: Path) -> None:
    path.write_bytes(b'{"id": "of an earlier ledger"}\n')

    with opened(Jsonl(path=path), path.parent) as sink:
        sink.write(entries(1, 1))

    assert len(path.read_bytes().splitlines()) == 2


def test_jsonl_rotates_and_deletes_the_oldest_file(path: Path) -> None:
    size = len(entries(1, 1)[0][1]) + 1
    with opened(Jsonl(path=path, max_bytes=3 * size, keep=2), path.parent) as sink:
        sink.write(entries(1, 5))
        sink.write(entries(6, 11))

    assert written(path) == [10, 11]
    assert written(path.with_name("events.jsonl.1")) == [7, 8, 9]
    assert written(path.with_name("events.jsonl.2")) == [4, 5, 6]
    assert sorted(one.name for one in path.parent.iterdir()) == ["events.jsonl", "events.jsonl.1", "events.jsonl.2"]


@pytest.mark.parametrize("current", [None, b""])
def test_jsonl_killed_after_rotation_repeats_nothing(path: Path, current: bytes | None) -> None:
    with opened(Jsonl(path=path), path.parent) as sink:
        sink.write(entries(1, 3))
    path.rename(path.with_name("events.jsonl.1"))
    if current is not None:
        path.write_bytes(current)

    with opened(Jsonl(path=path), path.parent) as sink:
        sink.write(entries(2, 4))

    assert written(path) == [4]


def test_jsonl_creates_a_new_file_after_deletion(path: Path) -> None:
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


def test_jsonl_keeps_whole_lines_on_a_full_disk_and_recovers(path: Path) -> None:
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


def test_jsonl_file_is_locked_by_one_writer(path: Path) -> None:
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
def test_jsonl_unusable_path_is_a_config_error(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "a-folder").mkdir()
    settings = Jsonl(path=tmp_path / name)

    with pytest.raises(ConfigError, match=message):
        settings.check()
    with pytest.raises(ConfigError, match=message):
        settings.open(sink_context(tmp_path), RecordedProgress())


def test_check_creates_no_file(path: Path) -> None:
    Jsonl(path=path).check()

    assert not path.exists()


# -- stdout


def test_stdout_prints_lines(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with opened(Stdout(), tmp_path) as sink:
        sink.write(entries(1, 2))

    assert [json.loads(line)["sequence"][-1] for line in capfd.readouterr().out.splitlines()] == ["1", "2"]


def test_stdout_stops_the_agent_after_max_results(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ends: list[bool] = []
    status = (1, encode(status_event("home", "gate", "up")))
    with opened(Stdout(), tmp_path, max_results=2, stop_agent=lambda: ends.append(True)) as sink:
        sink.write([status, *entries(2, 9)])
        sink.write(entries(10, 11))

    assert ends == [True]
    assert len(capfd.readouterr().out.splitlines()) == 3


def test_stdout_stops_the_agent_when_its_reader_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[bool] = []
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as output:
        monkeypatch.setattr("sys.stdout", output)
        with opened(Stdout(), tmp_path, stop_agent=lambda: ends.append(True)) as sink:
            os.close(reader)
            sink.write(entries(1, 2))
            sink.write(entries(3, 3))

    assert ends == [True]


# -- zmq


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A runtime folder with a ledger."""
    Ledger(tmp_path / LEDGER_FILE).close()
    return tmp_path


@contextmanager
def subscriber(endpoint: str, topic: bytes) -> Iterator[zmq.Socket[bytes]]:
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
    with socket:
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.SUBSCRIBE, topic)
        socket.connect(endpoint)
        yield socket


def send_until_received(sink: Sink, socket: zmq.Socket[bytes], events: Sequence[tuple[int, bytes]]) -> list[bytes]:
    def received() -> bool:
        sink.write(events)
        return bool(socket.poll(20))

    until(received, 10, "the subscriber receives")
    return socket.recv_multipart()


def test_zmq_topic_is_stream_and_subject(folder: Path) -> None:
    with opened(Zmq(), folder) as sink, subscriber(f"ipc://{folder}/bus.sock", b"") as socket:
        body = entries(1, 1)[0][1]
        assert send_until_received(sink, socket, [(1, body)]) == [b"gate/people/", body]
    for status, topic in [
        (status_event("home", "gate", "down"), b"gate/stream.down/"),
        (sink_event("home", "jsonl", "down"), b"/sink.down/"),
    ]:
        with opened(Zmq(), folder) as sink, subscriber(f"ipc://{folder}/bus.sock", b"") as socket:
            assert send_until_received(sink, socket, [(1, encode(status))])[0] == topic


def test_zmq_write_succeeds_without_subscribers(folder: Path) -> None:
    with opened(Zmq(endpoint=f"ipc://{folder}/other.sock"), folder) as sink:
        sink.write(entries(1, 50) * 100)


def test_zmq_bind_failure_is_a_config_error(folder: Path) -> None:
    with pytest.raises(ConfigError, match="cannot bind ipc://"):
        Zmq(endpoint=f"ipc://{folder}/missing/bus.sock").open(sink_context(folder), RecordedProgress())
    with pytest.raises(ConfigError, match="107 bytes"):
        Zmq().open(sink_context(folder / ("x" * 120)), RecordedProgress())
