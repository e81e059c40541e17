"""The socket for other hosts admits known keys only, whatever else connects."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import zmq

from streamer.bus.curve import CurveClient, CurveServer, LinkFailed, PeerMessage
from streamer.bus.host_keys import HostKeys
from tests.support.agents import until

MAX_BYTES = 4096


@pytest.fixture
def hosts(tmp_path: Path) -> tuple[HostKeys, HostKeys]:
    """Two hosts that know each other: boxa serves, boxb asks."""
    return make_hosts(tmp_path)


def make_hosts(folder: Path) -> tuple[HostKeys, HostKeys]:
    boxa, boxb = HostKeys(folder / "boxa"), HostKeys(folder / "boxb")
    a, b = boxa.create(), boxb.create()
    boxa.allow("boxb", b.public.hex())
    boxb.allow("boxa", a.public.hex())
    return boxa, boxb


@pytest.fixture
def server(hosts: tuple[HostKeys, HostKeys]) -> Iterator[CurveServer]:
    with CurveServer(hosts[0], "127.0.0.1", 0, MAX_BYTES) as served:
        yield served


def received(server: CurveServer, client: CurveClient) -> list[PeerMessage]:
    """Send a message and return what the server has got. Raises LinkFailed."""
    client.send(b"hello")
    zmq.select([*server.sockets(), client.socket, client.monitor], [], [], 0.05)
    messages = server.receive()
    client.receive()
    return messages


def exchange(server: CurveServer, client: CurveClient) -> PeerMessage:
    """Return a message of the client that the server got. Raises LinkFailed, or AssertionError without one."""
    return until(lambda: received(server, client), 10, "a message")[0]


def assert_nothing_arrives(server: CurveServer, client: CurveClient) -> None:
    ends = time.monotonic() + 1.5
    while time.monotonic() < ends:
        assert not received(server, client)


def test_known_host_is_served_by_its_name(server: CurveServer, hosts: tuple[HostKeys, HostKeys]) -> None:
    with CurveClient(hosts[1], "boxa", "127.0.0.1", server.port, MAX_BYTES) as client:
        message = exchange(server, client)
        assert (message.peer, message.body) == ("boxb", b"hello")
        server.send(message.route, [b"head", b"body"])
        answers = until(client.receive, 5, "an answer")
    assert answers == [[b"head", b"body"]]
    assert server.take_refusals() == []


def test_unknown_key_is_refused_and_reported(
    server: CurveServer, hosts: tuple[HostKeys, HostKeys], tmp_path: Path
) -> None:
    rogue = HostKeys(tmp_path / "rogue")
    key = rogue.create().public.hex()
    rogue.allow("boxa", hosts[0].own().public.hex())
    with (
        CurveClient(rogue, "boxa", "127.0.0.1", server.port, MAX_BYTES) as client,
        pytest.raises(LinkFailed, match="keys allow"),
    ):
        exchange(server, client)
    assert server.take_refusals() == [f"127.0.0.1 has the key {key}, which is not allowed here"]


def test_wrong_key_of_the_server_is_reported_on_both_sides(
    server: CurveServer, hosts: tuple[HostKeys, HostKeys]
) -> None:
    hosts[1].allow("boxa", HostKeys(hosts[1].folder.with_name("else")).create().public.hex())
    with (
        CurveClient(hosts[1], "boxa", "127.0.0.1", server.port, MAX_BYTES) as client,
        pytest.raises(LinkFailed, match="another key"),
    ):
        exchange(server, client)
    until(lambda: server.receive() or server._refusals, 5, "a refusal")
    assert "wrong key for this host" in server.take_refusals()[0]


def test_plain_zeromq_is_refused_and_reported(server: CurveServer) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as plain:
        plain.set(zmq.LINGER, 0)
        plain.connect(f"tcp://127.0.0.1:{server.port}")
        plain.send(b"hello")
        refused = until(lambda: server.receive() or server.take_refusals(), 5, "a refusal")
    assert "without CURVE" in str(refused[0])


def test_dead_authenticator_admits_nobody(server: CurveServer, hosts: tuple[HostKeys, HostKeys]) -> None:
    server._zap.close(0)
    server._authenticate = lambda: None  # type: ignore[method-assign]
    with (
        CurveClient(hosts[1], "boxa", "127.0.0.1", server.port, MAX_BYTES) as client,
        suppress(LinkFailed),  # or refused at once
    ):
        assert_nothing_arrives(server, client)
    assert not client.is_complete, "a handshake was completed"


def test_replayed_handshake_gets_nothing(server: CurveServer, hosts: tuple[HostKeys, HostKeys]) -> None:
    """The bytes of a complete handshake and its messages, sent again, are useless: the server's answers differ."""
    with Recorder(server.port) as recorder:
        with CurveClient(hosts[1], "boxa", "127.0.0.1", recorder.port, MAX_BYTES) as client:
            recorder.accept()

            def served() -> list[PeerMessage]:
                client.send(b"hello")
                recorder.step()
                return server.receive()

            assert until(served, 5, "a message")[0].peer == "boxb"
        with socket.create_connection(("127.0.0.1", server.port)) as again:
            again.sendall(recorder.sent)
            end = time.monotonic() + 1  # proof of absence
            while time.monotonic() < end:
                assert server.receive() == []
                time.sleep(0.02)


class Recorder:
    """Forwards one connection and keeps what the client sent; a context manager."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.sent = b""

    def __enter__(self) -> Recorder:
        return self

    def accept(self) -> None:
        self._near, _ = self._listener.accept()
        self._far = socket.create_connection(("127.0.0.1", self._target))
        for one in (self._near, self._far):
            one.setblocking(False)

    def step(self) -> None:
        for source, target in ((self._near, self._far), (self._far, self._near)):
            try:
                data = source.recv(1 << 16)
            except BlockingIOError:
                continue
            if source is self._near:
                self.sent += data
            target.sendall(data)
        time.sleep(0.01)

    def __exit__(self, *_: object) -> None:
        for one in (self._near, self._far, self._listener):
            one.close()


def test_allowed_and_forgotten_hosts_count_at_once(server: CurveServer, hosts: tuple[HostKeys, HostKeys]) -> None:
    with CurveClient(hosts[1], "boxa", "127.0.0.1", server.port, MAX_BYTES) as client:
        exchange(server, client)
        hosts[0].forget("boxb")
        until(lambda: not server.receive() and "boxb" not in server._peers.values(), 3, "the host is forgotten")
        assert_nothing_arrives(server, client)
        hosts[0].allow("boxb", hosts[1].own().public.hex())
        assert exchange(server, client).peer == "boxb"


def test_key_files_that_others_can_read_admit_nobody(server: CurveServer, hosts: tuple[HostKeys, HostKeys]) -> None:
    hosts[0].peer_file("boxb").chmod(0o644)
    with (
        CurveClient(hosts[1], "boxa", "127.0.0.1", server.port, MAX_BYTES) as client,
        pytest.raises(LinkFailed, match="keys allow"),
    ):
        exchange(server, client)
    assert any("chmod 600" in reason for reason in server.take_refusals())


def test_damaged_key_of_one_host_shuts_no_other_out(server: CurveServer, hosts: tuple[HostKeys, HostKeys]) -> None:
    hosts[0].allow("boxc", "ab" * 32)
    hosts[0].peer_file("boxc").write_text("damaged")
    with CurveClient(hosts[1], "boxa", "127.0.0.1", server.port, MAX_BYTES) as client:
        assert exchange(server, client).peer == "boxb"
    assert any("keys allow boxc KEY" in reason for reason in server.take_refusals())


def test_large_request_is_cut(server: CurveServer, hosts: tuple[HostKeys, HostKeys]) -> None:
    with CurveClient(hosts[1], "boxa", "127.0.0.1", server.port, MAX_BYTES) as client:
        exchange(server, client)
        client.send(bytes(MAX_BYTES + 1))
        with pytest.raises(LinkFailed, match="broke off"):
            until(lambda: (server.receive(), client.receive())[1], 5, "the end")


def test_flood_of_connections_harms_no_known_host(server: CurveServer, hosts: tuple[HostKeys, HostKeys]) -> None:
    with CurveClient(hosts[1], "boxa", "127.0.0.1", server.port, MAX_BYTES) as client:
        exchange(server, client)
        flood = []
        for number in range(100):
            one = socket.create_connection(("127.0.0.1", server.port))
            one.sendall(os.urandom(200) if number % 2 else b"")
            flood.append(one)
        assert exchange(server, client).body == b"hello"
        with CurveClient(hosts[1], "boxa", "127.0.0.1", server.port, MAX_BYTES) as later:
            assert exchange(server, later).body == b"hello"
        for one in flood:
            one.close()
