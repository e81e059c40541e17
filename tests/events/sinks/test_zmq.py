"""The zmq sink, on real sockets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq

from streamer.core import ipc
from streamer.core.errors import ConfigError, SinkError
from streamer.events.build import sink_event, status_event
from streamer.events.ledger import LEDGER_FILE, Ledger
from streamer.events.schema import encode
from streamer.events.sinks import Zmq
from streamer.types import Sink
from tests.support.agents import until
from tests.support.emit_process import EmitProcess, lines
from tests.support.sinks import RecordedProgress, entries, opened, sink_context


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


def test_topic_is_stream_and_subject(folder: Path) -> None:
    with opened(Zmq(), folder) as sink, subscriber(f"ipc://{folder}/bus.sock", b"") as socket:
        body = entries(1, 1)[0][1]
        assert send_until_received(sink, socket, [(1, body)]) == [b"gate/people/", body]
    for status, topic in [
        (status_event("home", "gate", "down"), b"gate/stream.down/"),
        (sink_event("home", "jsonl", "down"), b"/sink.down/"),
    ]:
        with opened(Zmq(), folder) as sink, subscriber(f"ipc://{folder}/bus.sock", b"") as socket:
            assert send_until_received(sink, socket, [(1, encode(status))])[0] == topic


def test_write_succeeds_without_subscribers(folder: Path) -> None:
    with opened(Zmq(endpoint=f"ipc://{folder}/other.sock"), folder) as sink:
        sink.write(entries(1, 50) * 100)


def test_bind_failure_is_a_config_error(folder: Path) -> None:
    with pytest.raises(ConfigError, match="cannot bind ipc://"):
        Zmq(endpoint=f"ipc://{folder}/missing/bus.sock").open(sink_context(folder), RecordedProgress())
    with pytest.raises(ConfigError, match="107 bytes"):
        Zmq().open(sink_context(folder / ("x" * 120)), RecordedProgress())


def test_file_at_the_endpoint_is_refused_and_kept(folder: Path) -> None:
    for name in ("precious.txt", "bus.sock.replay"):
        (folder / name).write_text("precious")
    for name in ("precious.txt", "bus.sock"):
        with pytest.raises(ConfigError, match="a file is there that is no socket: choose another path"):
            Zmq(endpoint=f"ipc://{folder}/{name}").open(sink_context(folder), RecordedProgress())
    assert (folder / "precious.txt").read_text() == "precious"
    assert (folder / "bus.sock.replay").read_text() == "precious"


def test_check_finds_an_endpoint_that_cannot_be_bound(folder: Path) -> None:
    (folder / "precious.txt").write_text("precious")
    (folder / "bus.sock.replay").write_text("precious")
    for name, problem in (
        ("precious.txt", "precious.txt: a file is there that is no socket: choose another path"),
        ("bus.sock", "bus.sock.replay: a file is there that is no socket: choose another path"),
        ("missing/bus.sock", f"missing/bus.sock: no such directory: {folder}/missing"),
        ("precious.txt/bus.sock", "precious.txt/bus.sock: not a directory"),
    ):
        with pytest.raises(ConfigError) as error:
            Zmq(endpoint=f"ipc://{folder}/{name}").check()
        assert str(error.value) == f"cannot bind ipc://{folder}/{problem}"
    assert (folder / "precious.txt").read_text() == "precious"
    endpoint = Zmq(endpoint=f"ipc://{folder}/usable.sock")
    endpoint.check()
    with opened(endpoint, folder):
        endpoint.check()  # while the agent runs
    Zmq().check()


def test_endpoint_of_another_agent_is_refused(folder: Path) -> None:
    zmq_sink = Zmq(endpoint=f"ipc://{folder}/shared.sock")
    with opened(zmq_sink, folder) as sink, subscriber(f"ipc://{folder}/shared.sock", b"") as socket:
        with pytest.raises(SinkError, match="another program uses it"):
            zmq_sink.open(sink_context(folder), RecordedProgress())
        send_until_received(sink, socket, entries(1, 1))


def test_endpoint_that_becomes_free_is_bound_later(tmp_path: Path) -> None:
    """After a kill of the whole agent, its emit process lives for some seconds longer."""
    path, events = tmp_path / "bus.sock", tmp_path / "events.jsonl"
    holder = ipc.listen(path)
    sinks = [{"kind": "zmq", "endpoint": f"ipc://{path}"}, {"kind": "jsonl", "path": str(events)}]
    with EmitProcess(tmp_path, sinks) as emit:
        emit.wait_for("ready")
        down = until(lambda: [one for one in lines(events) if one["subject"] == "sink.down"], 10, "it is reported")
        assert down[0]["data"]["reason"] == f"cannot bind ipc://{path}: another program uses it"
        holder.close()
        until(lambda: [one for one in lines(events) if one["subject"] == "sink.up"], 20, "it is bound")
        emit.stop()


def test_stolen_endpoint_is_a_failure_until_it_is_bound_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ipc, "CHECK_S", 0.1)
    path = folder / "shared.sock"
    with opened(Zmq(endpoint=f"ipc://{path}"), folder) as sink:
        path.unlink()
        thief = ipc.listen(path)

        def fails() -> bool:
            try:
                sink.write(entries(1, 1))
            except SinkError as error:
                return "another program uses it" in str(error)
            return False

        until(fails, 10, "the loss is reported")
        thief.close()
        path.unlink()
        until(lambda: not fails(), 10, "it is bound again")
        with subscriber(f"ipc://{path}", b"") as socket:
            send_until_received(sink, socket, entries(1, 1))
