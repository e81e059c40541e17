"""Results and task lists from the inference process to views and the web process."""

from __future__ import annotations

import time
from pathlib import Path

import zmq

from streamer.bus.result_feed import Item, ProcessUp, ResultPublisher, ResultSubscriber, TaskList, results_endpoint
from streamer.events.schema import ResultEvent
from tests.support import sample_events

GATE = [{"task": "caption"}]
YARD = [{"task": "ocr", "every": "5s"}]


def receive(publisher: ResultPublisher, subscriber: ResultSubscriber, count: int) -> list[Item]:
    """Serve new subscribers until `count` messages have arrived, at most 60 s; then wait 0.2 s for more."""
    received: list[Item] = []
    deadline = time.monotonic() + 60
    while len(received) < count and time.monotonic() < deadline:
        publisher.greet_subscribers()
        subscriber.socket.poll(20)
        received += subscriber.receive()
    subscriber.socket.poll(200)
    return [*received, *subscriber.receive()]


def newest(received: list[Item]) -> dict[str, object]:
    """Return the last task list of each stream."""
    return {item.stream: item.tasks for item in received if isinstance(item, TaskList)}


def test_new_subscriber_gets_the_task_list(tmp_path: Path) -> None:
    publisher = ResultPublisher(tmp_path, {"gate": GATE, "yard": YARD})
    subscriber = ResultSubscriber(tmp_path, "gate")
    assert receive(publisher, subscriber, 1) == [TaskList("gate", GATE)]
    late = ResultSubscriber(tmp_path, "gate")
    assert receive(publisher, late, 1) == [TaskList("gate", GATE)]
    for end in (publisher, subscriber, late):
        end.close()


def test_changed_task_list_reaches_its_stream_only(tmp_path: Path) -> None:
    """A list may come twice, when another subscriber of the same stream connects."""
    publisher = ResultPublisher(tmp_path, {"gate": GATE, "yard": YARD})
    gate, every = ResultSubscriber(tmp_path, "gate"), ResultSubscriber(tmp_path, None)
    assert newest(receive(publisher, every, 2)) == {"gate": GATE, "yard": YARD}
    publisher.publish_tasks("yard", GATE)
    publisher.publish(sample_events.event())
    assert newest(receive(publisher, every, 1)) == {"yard": GATE}
    received = receive(publisher, gate, 2)
    assert newest(received) == {"gate": GATE}
    assert any(isinstance(item, ResultEvent) for item in received)
    for end in (publisher, gate, every):
        end.close()


def test_restarted_publisher_sends_the_list_again(tmp_path: Path) -> None:
    first, subscriber = ResultPublisher(tmp_path, {"gate": GATE}), ResultSubscriber(tmp_path, "gate")
    assert receive(first, subscriber, 1) == [TaskList("gate", GATE)]
    first.close()
    second = ResultPublisher(tmp_path, {"gate": YARD})
    assert receive(second, subscriber, 1) == [TaskList("gate", YARD)]
    second.close()
    subscriber.close()


def test_invalid_message_is_dropped(tmp_path: Path) -> None:
    publisher, subscriber = ResultPublisher(tmp_path, {"gate": GATE}), ResultSubscriber(tmp_path, "gate")
    assert receive(publisher, subscriber, 1) == [TaskList("gate", GATE)]
    for message in ([b"gate/"], [b"gate/", b"{}"], [b"#tasks/gate/", b"not JSON"], [b"#tasks/gate/", b"[]", b""]):
        publisher.socket.send_multipart(message)
    publisher.publish(sample_events.event())
    assert [type(item) for item in receive(publisher, subscriber, 1)] == [ResultEvent]
    publisher.close()
    subscriber.close()


def test_message_that_is_no_subscription_is_passed_over(tmp_path: Path) -> None:
    publisher = ResultPublisher(tmp_path, {"gate": GATE})
    hostile: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.XSUB)
    hostile.set(zmq.LINGER, 0)
    hostile.connect(results_endpoint(tmp_path))
    hostile.send_multipart([b"\1gate", b"more", b""])
    hostile.send(b"")
    subscriber = ResultSubscriber(tmp_path, "gate")
    assert newest(receive(publisher, subscriber, 1)) == {"gate": GATE}
    for end in (publisher, hostile, subscriber):
        end.close()


def test_one_of_several_processes_names_itself(tmp_path: Path) -> None:
    publisher = ResultPublisher(tmp_path, {}, "1")
    every, gate = ResultSubscriber(tmp_path, None, ("0", "1")), ResultSubscriber(tmp_path, "gate", ("0", "1"))
    assert receive(publisher, every, 1) == [ProcessUp("1")]
    publisher.publish_tasks("gate", GATE)
    # The list comes twice if the subscription of `gate` arrives after it.
    received = receive(publisher, every, 1)
    assert received
    assert all(item == TaskList("gate", GATE, "1") for item in received)
    assert all(item == TaskList("gate", GATE, "1") for item in receive(publisher, gate, 1))
    for end in (publisher, every, gate):
        end.close()
