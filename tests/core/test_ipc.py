"""Sockets are bound in place of dead sockets only, and made again when their file is lost."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

import pytest
import zmq

from streamer.core import ipc
from streamer.core.ipc import MAX_DRAINED, Listener, drain
from tests.support.agents import until


@pytest.fixture(autouse=True)
def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ipc, "CHECK_S", 0.05)


def listener(path: Path, private: bool = False) -> tuple[zmq.Socket[bytes], Listener]:
    server: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
    server.set(zmq.LINGER, 0)
    try:
        return server, Listener(server, f"ipc://{path}", private)
    except OSError:
        server.close()
        raise


def is_reached(server: zmq.Socket[bytes], path: Path) -> bool:
    client: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    client.set(zmq.LINGER, 0)
    client.connect(f"ipc://{path}")
    client.send(b"hello")
    arrived = bool(server.poll(500)) and any(parts[1] == b"hello" for parts in drain(server))
    client.close()
    return arrived


def test_file_at_the_endpoint_is_refused_and_kept(tmp_path: Path) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("precious")
    link = tmp_path / "link"
    link.symlink_to(precious)
    for path in (precious, link):
        for private in (False, True):
            with pytest.raises(FileExistsError, match="no socket"):
                listener(path, private)
    assert precious.read_text() == "precious"
    assert link.is_symlink()


def test_dead_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "bus.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    server, bound = listener(path)
    assert is_reached(server, path)
    server.close()
    bound.close()
    assert not path.exists()


def test_socket_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "bus.sock"
    server, bound = listener(path)
    with pytest.raises(OSError, match="another program uses it"):
        listener(path)
    assert is_reached(server, path)
    second, taken = listener(path, private=True)  # as the next process of the same agent
    assert is_reached(second, path)
    assert not is_reached(server, path)
    server.close()
    bound.close()  # not its file any more
    assert is_reached(second, path)
    second.close()
    taken.close()


@pytest.mark.parametrize("how", ["deleted", "dead socket instead"])
def test_lost_socket_file_is_made_again(tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "bus.sock"
    server, bound = listener(path)
    path.unlink()
    if how != "deleted":
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))

    def reached() -> bool:
        bound.check()
        return is_reached(server, path)

    until(reached, 5, "bound again")
    assert len(caplog.messages) == 1
    assert f"{path} was deleted or replaced and is bound again" in caplog.messages[0]
    server.close()
    bound.close()


def test_stolen_endpoint_is_reported_and_taken_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "bus.sock"
    server, bound = listener(path)
    path.unlink()
    thief = ipc.listen(path)

    def reported() -> bool:
        bound.check()
        return any("cannot be bound again: another program uses it" in line for line in caplog.messages)

    until(reported, 5, "reported")
    thief.close()
    path.unlink()

    def reached() -> bool:
        bound.check()
        return is_reached(server, path)

    until(reached, 5, "bound again")
    server.close()
    bound.close()


def test_failed_bind_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bus.sock"
    server, bound = listener(path)
    path.unlink()

    def refuse(_: str) -> None:
        raise zmq.ZMQError(errno.EMFILE)

    def is_bound() -> bool:
        bound.check()
        return bound.problem is None

    with monkeypatch.context() as patch:
        patch.setattr(server, "bind", refuse)
        until(lambda: not is_bound(), 5, "failure")
    until(is_bound, 5, "bound again")
    assert is_reached(server, path)
    server.close()
    bound.close()


def test_flood_is_received_in_several_turns() -> None:
    sender: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PAIR)
    receiver: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PAIR)
    for end in (sender, receiver):
        end.set(zmq.SNDHWM, 0)
        end.set(zmq.RCVHWM, 0)
    receiver.bind("inproc://flood")
    sender.connect("inproc://flood")
    for _ in range(MAX_DRAINED + 1):
        sender.send(b"x")
    assert [len(list(drain(receiver))) for _ in range(3)] == [MAX_DRAINED, 1, 0]
    sender.close()
    receiver.close()
