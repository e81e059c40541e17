"""What a program that reads the events of an agent gets."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

import streamer
from streamer.bus.event_channel import EventClient
from streamer.core.errors import ConfigError
from streamer.events.build import status_event
from streamer.events.schema import Event, ResultEvent, encode, numbered
from streamer.events.sinks import SinkContext, Zmq
from streamer.types import Sink
from tests.support.agents import until
from tests.support.emit_process import EmitProcess
from tests.support.sample_events import event


@pytest.fixture
def endpoint(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/bus.sock"


@pytest.fixture
def sink(tmp_path: Path, endpoint: str) -> Iterator[Sink]:
    context = SinkContext(agent="home", runtime=tmp_path, find=lambda _: None, finished=lambda: None)
    sink = Zmq(endpoint=endpoint).open(context)
    yield sink
    sink.close()


def connected(sink: Sink, events: Iterator[Event], stream: str) -> None:
    """Wait until the subscription has arrived: publishing is live, and what came before it is not for us."""
    seqs = iter(range(10_000))

    def heard() -> bool:
        publish(sink, status_event("home", stream, f"hello{next(seqs)}"))
        try:
            next(events)
        except TimeoutError:
            return False
        return True

    until(heard, 20, "the subscriber hears")
    publish(sink, status_event("home", stream, "over"))
    while next(events).subject != "stream.over":
        pass


def publish(sink: Sink, *events: Event) -> None:
    sink.write([(0, encode(numbered(one, 1))) for one in events])


def test_events_arrive_typed_and_once(sink: Sink, endpoint: str) -> None:
    events = streamer.subscribe(endpoint, timeout=0.3)
    connected(sink, events, "gate")
    publish(sink, event(seq=1), event(seq=2), event(seq=1), event(seq=3))

    found = [next(events) for _ in range(3)]

    assert all(isinstance(one, ResultEvent) for one in found)
    assert [one.data.frame.seq for one in found if isinstance(one, ResultEvent)] == [1, 2, 3]
    assert found[0] == numbered(event(seq=1), 1)
    with pytest.raises(TimeoutError, match=r"no event for 0\.3 s"):
        next(events)


def test_a_stream_is_not_one_whose_name_it_begins(sink: Sink, endpoint: str) -> None:
    events = streamer.subscribe(endpoint, stream="cam1", timeout=0.3)
    connected(sink, events, "cam1")
    publish(sink, event("cam10"), event("cam"), event("cam1"), status_event("home", "cam1", "down"))

    assert [(one.data.stream, one.subject) for one in (next(events), next(events))] == [
        ("cam1", "people"),
        ("cam1", "stream.down"),
    ]
    with pytest.raises(TimeoutError):
        next(events)


def test_a_task_leaves_out_the_rest(sink: Sink, endpoint: str) -> None:
    every = streamer.subscribe(endpoint, timeout=0.3)
    cars = streamer.subscribe(endpoint, task="cars", timeout=0.3)
    connected(sink, every, "gate")

    def heard() -> bool:
        publish(sink, event(), event(name="cars"), status_event("home", "gate", "down"))
        try:
            return next(cars).subject == "cars"
        except TimeoutError:
            return False

    def wait_beside_others() -> bool:
        publish(sink, *(event(seq=seq) for seq in range(2, 50)))
        next(cars)
        return True

    until(heard, 20, "the task")
    with pytest.raises(TimeoutError):  # other events are no reason to go on waiting
        until(wait_beside_others, 20, "the end")


def test_what_is_no_event_is_skipped(sink: Sink, endpoint: str) -> None:
    events = streamer.subscribe(endpoint, timeout=1)
    connected(sink, events, "gate")
    sink.write([(0, b'{"data": {"stream": "gate"}, "subject": "x"}')])
    publish(sink, event())

    assert next(events).subject == "people"


def test_subscriber_outlives_the_agent(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    events = streamer.subscribe(f"ipc://{tmp_path}/run/bus.sock", timeout=0.2)  # before there is an agent
    found: list[Event] = []
    numbers = itertools.count()  # each try is a new event: one that went out unheard is not published again

    def feed(client: EventClient) -> Callable[[], bool]:
        def step() -> bool:
            client.send(event(seq=next(numbers)), None)
            client.flush(1)
            try:
                found.append(next(events))
            except TimeoutError:
                return False
            return True

        return step

    with EmitProcess(tmp_path, [{"kind": "zmq"}]) as emit, EventClient(tmp_path / "run", "infer") as client:
        until(feed(client), 20, "an event")
        emit.kill()
        emit.start()
        until(feed(client), 20, "an event of the next emit process")

    assert len({one.id for one in found}) == len(found)


@pytest.mark.parametrize("stream", [None, "gate"])
def test_what_was_missed_is_replayed_in_its_order(tmp_path: Path, stream: str | None) -> None:
    (tmp_path / "run").mkdir()
    events = streamer.subscribe(f"ipc://{tmp_path}/run/bus.sock", stream=stream, timeout=10)
    with EmitProcess(tmp_path, [{"kind": "zmq"}]) as emit, EventClient(tmp_path / "run", "infer") as client:

        def send(seqs: range) -> None:
            for seq in seqs:
                client.send(event(seq=seq), None)
                client.send(event("yard", seq), None)
            assert client.flush(20)

        send(range(5))
        numbers = {int(next(events).sequence)}
        while 5 not in numbers:  # published before it had subscribed, or heard
            numbers.add(int(next(events).sequence))
        emit.kill()
        emit.start()
        send(range(5, 605))  # much of it before the subscriber is back, and then nothing more

        found: list[Event] = []
        while len(found) < (1200 if stream is None else 600):
            one = next(events)
            if one.sequence > "0000000000000005":
                found.append(one)

    for name in ("gate", "yard") if stream is None else ("gate",):
        of_stream = [int(one.sequence) for one in found if one.data.stream == name]
        assert of_stream == list(range(6, 606))


def test_a_program_goes_on_where_an_earlier_run_stopped(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with EmitProcess(tmp_path, [{"kind": "zmq"}]), EventClient(tmp_path / "run", "infer") as client:
        for seq in range(100):
            client.send(event(seq=seq), None)
        assert client.flush(20)
        after = {event().source: 40}
        events = streamer.subscribe(f"ipc://{tmp_path}/run/bus.sock", timeout=10, after=after)

        assert [int(next(events).sequence) for _ in range(60)] == list(range(41, 101))


def test_a_program_goes_on_when_the_ledger_began_anew(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    events = streamer.subscribe(f"ipc://{tmp_path}/run/bus.sock", timeout=10, after={event().source: 4000})
    with EmitProcess(tmp_path, [{"kind": "zmq"}]), EventClient(tmp_path / "run", "infer") as client:
        for seq in range(100):  # some before it has subscribed
            client.send(event(seq=seq), None)
            client.flush(1)

        assert int(next(events).sequence) <= 100


def test_questions_that_are_none_do_not_end_the_replay(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    asking: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    asking.set(zmq.LINGER, 0)
    with EmitProcess(tmp_path, [{"kind": "zmq"}]), EventClient(tmp_path / "run", "infer") as client, asking:
        client.send(event(seq=1), None)
        assert client.flush(20)
        asking.connect(f"ipc://{tmp_path}/run/bus.sock.replay")
        question = f'{{"id": 1, "source": "{event().source}", "after": 0, "before": 2}}'
        for bad in ("", "[]", question.replace("2}", "Infinity}"), question.replace("gate", "\\ud800")):
            asking.send(bad.encode())
        asking.send(question.encode())
        assert asking.poll(10_000)
        _, *bodies = asking.recv_multipart()

    assert [json.loads(body)["id"] for body in bodies] == [event(seq=1).id]


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:5555", "somewhere"])
def test_an_endpoint_that_cannot_be_is_refused_at_once(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="use ipc://"):
        streamer.subscribe(endpoint)
