"""`streamer.subscribe`, against a zmq sink and against an emit process that is killed."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import zmq

import streamer
from streamer.bus.event_channel import EventClient
from streamer.core.errors import ConfigError
from streamer.core.ipc import LATEST_TOPIC
from streamer.events.build import status_event
from streamer.events.ledger import LEDGER_FILE, Ledger
from streamer.events.schema import Event, ResultEvent, encode, numbered
from streamer.events.sinks import Zmq
from streamer.types import Sink
from tests.support.agents import until
from tests.support.emit_process import EmitProcess
from tests.support.sample_events import event
from tests.support.sinks import RecordedProgress, sink_context

SOURCE = event().source


@pytest.fixture
def endpoint(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/bus.sock"


@pytest.fixture
def sink(tmp_path: Path, endpoint: str) -> Iterator[Sink]:
    Ledger(tmp_path / LEDGER_FILE).close()
    sink = Zmq(endpoint=endpoint).open(sink_context(tmp_path), RecordedProgress())
    yield sink
    sink.close()


def following(events: Iterator[Event]) -> Event:
    """Return the next event, however long it takes."""
    while True:
        with suppress(TimeoutError):
            return next(events)


def connected(sink: Sink, events: Iterator[Event], stream: str) -> None:
    """Wait until the publisher knows the subscription: earlier events are not delivered."""
    seqs = iter(range(10_000))

    def received() -> bool:
        publish(sink, status_event("home", stream, f"hello{next(seqs)}"))
        try:
            next(events)
        except TimeoutError:
            return False
        return True

    until(received, 20, "the subscriber receives events")
    publish(sink, status_event("home", stream, "over"))
    while following(events).subject != "stream.over":
        pass


class Publisher:
    """An agent whose messages are hostile; a context manager. It replays every event of a gap."""

    def __init__(
        self, endpoint: str, header: bytes | None = None, extra: tuple[int, ...] = (), unanswered: int = 0
    ) -> None:
        """`header`: of a reply that precedes each right one; `extra`: sequences of events added to each reply;
        `unanswered`: requests that get no reply at first."""
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self.socket: zmq.Socket[bytes] = context.socket(zmq.XPUB)
        self.socket.bind(endpoint)
        self.requests: list[dict[str, int]] = []
        self._replay: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        self._replay.bind(f"{endpoint}.replay")
        self._header, self._extra, self._unanswered = header, extra, unanswered
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        self.socket.close(linger=0)
        self._replay.close(linger=0)

    def await_subscriber(self) -> None:
        subscriptions = 0
        while subscriptions < 2:  # the topics of events and of the newest sequences
            assert self.socket.poll(60_000)
            subscriptions += self.socket.recv().startswith(b"\x01")

    def send(self, sequence: int) -> None:
        self.socket.send_multipart([b"gate/people/", encode(numbered(event(seq=sequence), sequence))])

    def _serve(self) -> None:
        while not self._stopping.is_set():
            if not self._replay.poll(20):
                continue
            peer, body = self._replay.recv_multipart()
            request = json.loads(body)
            self.requests.append(request)
            if len(self.requests) <= self._unanswered:
                continue
            sequences = [*range(request["after"] + 1, request["before"]), *self._extra]
            bodies = [encode(numbered(event(seq=one), one)) for one in sequences]
            if self._header is not None:
                self._replay.send_multipart([peer, self._header, *bodies])
            self._replay.send_multipart([peer, json.dumps({"id": request["id"]}).encode(), *bodies])


def test_too_large_message_is_not_received_and_the_next_one_is(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.events.subscribe._SILENCE_S", 0.2)
    events = streamer.subscribe(endpoint, timeout=60)
    found: list[Event] = []
    reader = threading.Thread(target=lambda: found.extend(next(events) for _ in range(2)))
    with Publisher(endpoint) as publisher:
        publisher.await_subscriber()
        publisher.send(1)
        publisher.socket.send_multipart([b"gate/people/", b"[" + b" " * (9 << 20) + b"]"])
        reader.start()
        publisher.await_subscriber()  # connected again
        publisher.send(2)
        reader.join(60)

    assert [int(one.sequence) for one in found] == [1, 2]


def publish(sink: Sink, *events: Event) -> None:
    sink.write([(0, encode(numbered(one, 1))) for one in events])


def test_events_arrive_typed_and_once(sink: Sink, endpoint: str) -> None:
    events = streamer.subscribe(endpoint, timeout=0.3)
    connected(sink, events, "gate")
    publish(sink, event(seq=1), event(seq=2), event(seq=1), event(seq=3))

    found = [following(events) for _ in range(3)]

    assert all(isinstance(one, ResultEvent) for one in found)
    assert [one.data.frame.seq for one in found if isinstance(one, ResultEvent)] == [1, 2, 3]
    assert found[0] == numbered(event(seq=1), 1)
    with pytest.raises(TimeoutError, match=r"no event for 0\.3 s"):
        next(events)


def test_stream_filter_matches_whole_names_only(sink: Sink, endpoint: str) -> None:
    events = streamer.subscribe(endpoint, stream="cam1", timeout=0.3)
    connected(sink, events, "cam1")
    publish(sink, event("cam10"), event("cam"), event("cam1"), status_event("home", "cam1", "down"))

    assert [(one.data.stream, one.subject) for one in (following(events), following(events))] == [
        ("cam1", "people"),
        ("cam1", "stream.down"),
    ]
    with pytest.raises(TimeoutError):
        next(events)


def test_task_filter_yields_only_its_results(sink: Sink, endpoint: str) -> None:
    every = streamer.subscribe(endpoint, timeout=0.3)
    cars = streamer.subscribe(endpoint, task="cars", timeout=0.3)
    connected(sink, every, "gate")

    def received() -> bool:
        publish(sink, event(), event(name="cars"), status_event("home", "gate", "down"))
        try:
            return next(cars).subject == "cars"
        except TimeoutError:
            return False

    def wait_beside_others() -> bool:
        publish(sink, *(event(seq=seq) for seq in range(2, 50)))
        next(cars)
        return True

    until(received, 20, "the task's results")
    with pytest.raises(TimeoutError):  # other events do not extend the timeout
        until(wait_beside_others, 20, "the end")


def test_invalid_messages_are_skipped(sink: Sink, endpoint: str) -> None:
    events = streamer.subscribe(endpoint, timeout=1)
    connected(sink, events, "gate")
    sink.write([(0, b'{"data": {"stream": "gate"}, "subject": "x"}')])
    publish(sink, event())

    assert following(events).subject == "people"


HOSTILE_NUMBERS = ("1e999", "-1e999", "NaN", "-1", "1" + "0" * 16, "9" * 5000, "null", "[]", '"x"', "[" * 100_000)


def test_absurd_newest_sequences_are_dropped(endpoint: str) -> None:
    with Publisher(endpoint) as publisher:
        events = streamer.subscribe(endpoint, timeout=60)
        publisher.await_subscriber()
        for number in HOSTILE_NUMBERS:
            for _ in range(2):  # the second one makes the first one count
                publisher.socket.send_multipart([LATEST_TOPIC, f'{{"heads": {{"{SOURCE}": {number}}}}}'.encode()])
        publisher.send(3)
        assert next(events).sequence == f"{3:016d}"
        assert publisher.requests == []


@pytest.mark.parametrize("header", ["", "[]", "1", "{}", '{"id": NaN}', '{"id": 1e999}', "[" * 100_000, "\ud800"])
def test_invalid_replies_of_the_replay_are_skipped(endpoint: str, header: str) -> None:
    with Publisher(endpoint, header.encode(errors="replace")) as publisher:
        events = streamer.subscribe(endpoint, timeout=60)
        publisher.await_subscriber()
        publisher.send(1)
        publisher.send(4)
        assert [int(next(events).sequence) for _ in range(4)] == [1, 2, 3, 4]


def test_replayed_events_outside_the_gap_are_dropped(endpoint: str) -> None:
    with Publisher(endpoint, extra=(0, 1, 4, 9_999)) as publisher:
        events = streamer.subscribe(endpoint, timeout=60)
        publisher.await_subscriber()
        publisher.send(1)
        publisher.send(4)
        assert [int(next(events).sequence) for _ in range(4)] == [1, 2, 3, 4]
        assert len(publisher.requests) == 1


def test_replay_without_answer_is_asked_for_again(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.events.subscribe._REPLAY_TIMEOUT_S", 0.2)
    with Publisher(endpoint, unanswered=3) as publisher:
        events = streamer.subscribe(endpoint, timeout=0.5)
        publisher.await_subscriber()
        publisher.send(1)
        publisher.send(4)
        found: list[int] = []

        def received() -> bool:
            publisher.socket.send_multipart([LATEST_TOPIC, json.dumps({"heads": {SOURCE: 4}}).encode()])
            with suppress(TimeoutError):
                found.append(int(next(events).sequence))
            return len(found) >= 4

        until(received, 60, "all events")
    assert found == [1, 2, 3, 4]


class Sender:
    """Sends events until one is received: one that was published before the subscription is not published again."""

    def __init__(self, client: EventClient) -> None:
        self._client, self._numbers = client, itertools.count()

    def receive(self, events: Iterator[Event]) -> Event:
        def received() -> Event | None:
            self._client.send(event(seq=next(self._numbers)), None)
            self._client.flush(1)
            with suppress(TimeoutError):
                return next(events)
            return None

        found = until(received, 60, "an event")
        assert found is not None
        return found


def test_subscriber_survives_a_restart_of_emit(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    events = streamer.subscribe(f"ipc://{tmp_path}/run/bus.sock", timeout=0.2)  # before the agent runs
    with EmitProcess(tmp_path, [{"kind": "zmq"}]) as emit, EventClient(tmp_path / "run", "infer") as client:
        sender = Sender(client)
        first = sender.receive(events)
        emit.kill()
        emit.start()
        assert sender.receive(events).id != first.id


@pytest.mark.parametrize("stream", [None, "gate"])
def test_missed_events_are_replayed_in_order(tmp_path: Path, stream: str | None) -> None:
    (tmp_path / "run").mkdir()
    # The first events may be published before the subscription, so they are missed too.
    after = {event().source: 0, event("yard").source: 0}
    events = streamer.subscribe(f"ipc://{tmp_path}/run/bus.sock", stream=stream, timeout=60, after=after)
    with EmitProcess(tmp_path, [{"kind": "zmq"}]) as emit, EventClient(tmp_path / "run", "infer") as client:

        def send(seqs: range) -> None:
            for seq in seqs:
                client.send(event(seq=seq), None)
                client.send(event("yard", seq), None)
            assert client.flush(60)

        send(range(5))
        numbers = {int(next(events).sequence)}
        while 5 not in numbers:
            numbers.add(int(next(events).sequence))
        emit.kill()
        emit.start()
        send(range(5, 605))  # many of them before the subscriber has reconnected, and none after

        found: list[Event] = []
        while len(found) < (1200 if stream is None else 600):
            one = next(events)
            if one.sequence > "0000000000000005":
                found.append(one)

    for name in ("gate", "yard") if stream is None else ("gate",):
        of_stream = [int(one.sequence) for one in found if one.data.stream == name]
        assert of_stream == list(range(6, 606))


def test_after_continues_from_an_earlier_run(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with EmitProcess(tmp_path, [{"kind": "zmq"}]), EventClient(tmp_path / "run", "infer") as client:
        for seq in range(100):
            client.send(event(seq=seq), None)
        assert client.flush(60)
        after = {event().source: 40}
        events = streamer.subscribe(f"ipc://{tmp_path}/run/bus.sock", timeout=60, after=after)

        assert [int(next(events).sequence) for _ in range(60)] == list(range(41, 101))


def test_after_of_another_ledger_does_not_block_events(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    events = streamer.subscribe(f"ipc://{tmp_path}/run/bus.sock", timeout=0.2, after={event().source: 4000})
    with EmitProcess(tmp_path, [{"kind": "zmq"}]), EventClient(tmp_path / "run", "infer") as client:
        assert int(Sender(client).receive(events).sequence) < 4000


def test_malformed_replay_requests_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    asking: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    asking.set(zmq.LINGER, 0)
    with EmitProcess(tmp_path, [{"kind": "zmq"}]), EventClient(tmp_path / "run", "infer") as client, asking:
        client.send(event(seq=1), None)
        assert client.flush(60)
        asking.connect(f"ipc://{tmp_path}/run/bus.sock.replay")
        request = f'{{"id": 1, "source": "{event().source}", "after": 0, "before": 2}}'
        for bad in ("", "[]", request.replace("2}", "Infinity}"), request.replace("gate", "\\ud800")):
            asking.send(bad.encode())
        asking.send(request.encode())
        assert asking.poll(60_000)
        _, *bodies = asking.recv_multipart()

    assert [json.loads(body)["id"] for body in bodies] == [event(seq=1).id]


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:5555", "somewhere"])
def test_invalid_endpoint_is_rejected_at_once(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="use ipc://"):
        streamer.subscribe(endpoint)
