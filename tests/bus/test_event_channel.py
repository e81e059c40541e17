"""Events over real sockets: none is lost, invalid messages are dropped."""

from __future__ import annotations

import json
import multiprocessing
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import zmq

from streamer.bus.event_channel import Delivery, EventClient, EventServer, events_endpoint
from streamer.core.errors import ConfigError
from streamer.core.ipc import check_endpoint
from streamer.events.build import status_event
from streamer.events.schema import encode
from tests.support.agents import until
from tests.support.sample_events import event


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EventServer]:
    with EventServer(tmp_path) as server:
        yield server


@pytest.fixture
def client(tmp_path: Path) -> Iterator[EventClient]:
    with EventClient(tmp_path, "infer", window=4) as client:
        yield client


def collect(server: EventServer, count: int, tick: Callable[[], object] = lambda: None) -> list[Delivery]:
    found: list[Delivery] = []

    def enough() -> bool:
        tick()
        found.extend(server.receive())
        return len(found) >= count

    until(enough, 20, f"{count} deliveries")
    return found


def ids(deliveries: Sequence[Delivery]) -> list[str]:
    """Return the ids in the order of first arrival. On a slow machine some events arrive twice."""
    return list(dict.fromkeys(one.event.id for one in deliveries))


def acked(client: EventClient, count: int) -> list[str]:
    found: list[str] = []

    def enough() -> bool:
        found.extend(client.receive())
        return len(found) >= count

    until(enough, 20, f"{count} acks")
    return found


def test_queued_events_are_sent_with_the_next_resend(server: EventServer, client: EventClient) -> None:
    first, second = event(seq=1), event(seq=2)
    client.queue(first, 1.0)
    client.queue(second, 2.0)
    assert client.unacked == 2
    assert ids(collect(server, 2, client.resend)) == [first.id, second.id]


def test_event_is_kept_until_acknowledged(server: EventServer, client: EventClient) -> None:
    sent = event()
    client.send(sent, 12.5)

    (delivery,) = collect(server, 1, client.resend)

    assert (delivery.event, delivery.captured_mono) == (sent, 12.5)
    assert client.unacked == 1
    server.ack([delivery])
    assert acked(client, 1) == [sent.id]
    assert client.unacked == 0


def test_window_limits_events_on_the_wire(server: EventServer, client: EventClient) -> None:
    for seq in range(10):
        client.send(event(seq=seq), None)

    assert client.window_full
    first = collect(server, 4, client.resend)
    assert ids(first) == [event(seq=seq).id for seq in range(4)]
    server.socket.poll(100)
    first += server.receive()  # on a slow machine some of them again
    assert ids(first) == [event(seq=seq).id for seq in range(4)]
    server.ack(first)
    assert len(acked(client, 4)) == 4
    assert ids(collect(server, 4)) == [event(seq=seq).id for seq in range(4, 8)]


def test_unacknowledged_event_is_resent(server: EventServer, client: EventClient) -> None:
    client.send(event(), None)

    deliveries = collect(server, 2, client.resend)

    assert {one.event.id for one in deliveries} == {event().id}


def test_restarted_server_gets_all_events_in_order(tmp_path: Path, client: EventClient) -> None:
    with EventServer(tmp_path) as first:
        client.send(event(seq=0), None)
        collect(first, 1, client.resend)  # and dies without acknowledging
    for seq in (1, 2):
        client.send(event(seq=seq), None)
    with EventServer(tmp_path) as second:
        arrived = collect(second, 3, client.resend)
        assert ids(arrived) == [event(seq=seq).id for seq in range(3)]
        second.ack(arrived)
        assert client.flush(5)


def test_oldest_statuses_are_dropped_and_results_kept(
    tmp_path: Path, client: EventClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamer.bus.event_channel.MAX_UNACKED", 10)
    client.send(event(seq=1), 1.0)
    statuses = [status_event("home", "gate", "down", str(number)) for number in range(20)]
    for status in statuses:
        client.send(status, None)
    assert client.unacked == 10
    assert client.dropped_statuses.count == 11
    with EventServer(tmp_path) as server:
        found = collect(server, 4, client.resend)
    assert [one.event.id for one in found] == [event(seq=1).id, *(one.id for one in statuses[-9:-6])]


def test_flush_returns_false_after_its_timeout(client: EventClient) -> None:
    client.send(event(), None)
    started = time.monotonic()

    assert not client.flush(0.2)
    assert time.monotonic() - started < 30


def test_each_client_gets_its_own_acknowledgements(tmp_path: Path, server: EventServer, client: EventClient) -> None:
    with EventClient(tmp_path, "capture") as other:
        ours, theirs = event(stream="a"), status_event("home", "b", "up")
        client.send(ours, None)
        other.send(theirs, None)

        def tick() -> None:
            client.resend()
            other.resend()

        server.ack(collect(server, 2, tick))
        assert set(acked(client, 1)) == {ours.id}
        assert set(acked(other, 1)) == {theirs.id}


def _header(**changes: object) -> bytes:
    return json.dumps({"v": 1, "id": event().id, "captured_mono": 1.0, **changes}).encode()


@pytest.mark.parametrize(
    "parts",
    [
        [b""],
        [b"\xff\x00garbage", encode(event())],
        [b"[" * 100_000, encode(event())],
        [b"[]", encode(event())],
        [_header(v=2), encode(event())],
        [_header(id=7), encode(event())],
        [_header(id="other"), encode(event())],
        [_header(captured_mono="now"), encode(event())],
        [_header(captured_mono=10**400), encode(event())],
        [b'{"v": 1, "id": "a", "captured_mono": 1e999}', encode(event())],
        [_header(), b"{}"],
        [_header(), encode(event()), b"more"],
    ],
    ids=lambda parts: str(parts[0][:30]),
)
def test_invalid_message_is_counted_and_dropped(
    tmp_path: Path, server: EventServer, client: EventClient, parts: Sequence[bytes]
) -> None:
    rogue: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    with rogue:
        rogue.set(zmq.LINGER, 0)
        rogue.connect(events_endpoint(tmp_path))
        rogue.send_multipart(list(parts))

        until(lambda: server.receive() or server.invalid_messages.count, 20, "garbage noticed")

    assert server.invalid_messages.count == 1
    client.send(event(), None)
    assert collect(server, 1, client.resend)[0].event == event()


def test_non_zeromq_bytes_do_not_disturb_the_server(tmp_path: Path, server: EventServer, client: EventClient) -> None:
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(events_endpoint(tmp_path).removeprefix("ipc://"))
        raw.sendall(b"GET / HTTP/1.1\r\n\r\n" * 1000)

    client.send(event(), None)
    assert collect(server, 1, client.resend)[0].event == event()


def test_refused_event_does_not_block_later_events(
    server: EventServer, client: EventClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamer.bus.event_channel.RESEND_S", 60)  # each event arrives once on a slow machine too
    bad = event(seq=1).model_copy(update={"sequence": "not a number"})
    client.send(bad, None)
    client.send(event(seq=2), None)
    returned: list[str] = []

    def settled() -> bool:
        client.resend()
        server.ack(server.receive())
        returned.extend(client.receive())
        return client.unacked == 0

    until(settled, 20, "both settled")
    assert sorted(returned) == sorted([bad.id, event(seq=2).id]), "the sender can settle the jobs of both"
    assert (client.refused.count, server.invalid_messages.count) == (1, 1)


def _send_events(runtime: Path, count: int) -> None:
    with EventClient(runtime, "infer") as client:
        for seq in range(count):
            client.send(event(seq=seq), None)
        client.flush(60)


def test_killed_client_does_not_disturb_others(tmp_path: Path, server: EventServer, client: EventClient) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_send_events, args=(tmp_path, 100))
    process.start()
    arrived = collect(server, 10)
    process.kill()
    process.join()

    server.ack(arrived)  # the client is dead
    ours = event(stream="yard")
    client.send(ours, None)

    def has_arrived() -> bool:  # events that the dead client resent may precede it
        return ours.id in ids(collect(server, 1, client.resend))

    until(has_arrived, 20, "the other client's event")


def test_ipc_path_is_a_valid_endpoint() -> None:
    assert check_endpoint("ipc:///run/a.sock") == "ipc:///run/a.sock"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tcp://0.0.0.0:5555", "tcp is not supported yet: use ipc://"),
        ("tcp://me:secret@host:1", "tcp is not supported yet"),
        ("events.sock", "not an endpoint"),
        ("ipc://", "needs a socket path"),
        ("ipc://*", "needs a socket path"),
        ("ipc://@events", "every user of this host"),
        ("ipc:///" + "x" * 200, "at most 107 bytes"),
    ],
)
def test_other_endpoint_is_rejected_with_its_remedy(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        check_endpoint(text)

    assert "secret" not in str(caught.value)
