"""Names from a config in every address made from them: different things never share one, whatever their names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from streamer.bus.event_channel import events_endpoint
from streamer.bus.frame_client import frames_endpoint
from streamer.bus.result_feed import _tasks_topic, results_endpoint
from streamer.bus.rpc import infer_socket
from streamer.cli.load_estimate import COSTS_FILE
from streamer.config import model
from streamer.core.errors import ConfigError
from streamer.core.ipc import LATEST_TOPIC
from streamer.core.paths import runtime_folder, state_folder, state_home
from streamer.events.build import output_event, result_id, sink_event, status_event, task_event, worker_event
from streamer.events.schema import StatusEvent
from streamer.events.sinks._mqtt_topics import STATUS, client_id, device_id, event_topic, source_topic
from streamer.events.sinks.zmq import topic as zmq_topic
from streamer.inference.journal import journal_path
from streamer.processes.assignment import Role, child_name
from streamer.processes.heartbeat import dump_file
from streamer.video.outputs.base import OutputSettings, ViewId
from streamer.video.outputs.hls import Hls, hls_folder
from streamer.video.outputs.mjpeg import Mjpeg, jpeg_endpoint
from streamer.video.outputs.mp4 import Mp4
from streamer.video.outputs.rtsp_push import RtspPush, packets_endpoint
from streamer.web.video_urls import URLS
from tests.support.sample_events import event

NAMES = [
    "a", "b", "c", "a-b", "b-c", "a-b-c", "a_b", "b_c", "a_b_c", "0", "s", "a-s-b", "a_s_b", "x" * 63,
    "status", "online", "stream", "streams", "sink", "sinks", "output", "outputs", "task", "tasks", "agents", "worker",
    "sync", "mjpeg", "a-mjpeg", "a-mjpeg-sync", "hls", "mp4", "rtsp_push", "control", "events", "results", "infer",
    "bus", "frames-a", "jpeg-a", "packets-a", "capture", "emit", "view", "web", "push", "connection", "config",
    "costs", "lock", "buffers", "heartbeats", "streamer", "null", "true", "con",
]  # fmt: skip
"""Valid names: reserved words, prefixes of each other, and parts that could join to the same text."""
RUNTIME = Path("/run/streamer/a")

Address = tuple[str, object]
"""A kind of address and the address."""
Owner = tuple[object, ...]


def statuses(agent: str) -> Iterator[tuple[Owner, StatusEvent]]:
    """Yield status events of each kind, with what they are about."""
    yield ("agent", agent), worker_event(agent, "infer", "restarted")
    for name in NAMES:
        yield ("stream", agent, name), status_event(agent, name, "down")
        yield ("stream-up", agent, name), status_event(agent, name, "up")
        yield ("task event", agent, name), task_event(agent, name, "people", "added")
        yield ("sink", agent, name), sink_event(agent, name, "down")
        yield ("output", agent, name), output_event(agent, name, "down")


def mqtt_addresses() -> Iterator[tuple[Address, Owner]]:
    for agent in NAMES[:12]:
        base = source_topic("streamer", f"/agents/{agent}")
        yield ("mqtt topic", f"{base}/{STATUS}"), ("agent state", agent)
        for owner, one in statuses(agent):
            yield ("mqtt topic", event_topic(source_topic("streamer", one.source), one.subject)), owner
        for stream in NAMES:
            base = source_topic("streamer", status_event(agent, stream, "up").source)
            yield ("mqtt topic", f"{base}/{STATUS}"), ("stream state", agent, stream)
            for task in NAMES:
                yield ("mqtt topic", event_topic(base, task)), ("result", agent, stream, task)
            yield ("device", device_id(agent, stream)), (agent, stream)
    for agent, other in product(NAMES, NAMES):
        yield ("client", client_id(agent, other)), (agent, other)
        yield ("device", device_id(agent, other)), (agent, other)


def event_addresses() -> Iterator[tuple[Address, Owner]]:
    for agent in NAMES[:12]:
        for owner, one in statuses(agent):
            yield ("source and subject", (one.source, one.subject)), owner
    for agent, stream, task in product(NAMES[:12], NAMES, NAMES):
        yield ("id", result_id(agent, stream, 1, 2, task)), (agent, stream, task)
    yield ("zmq topic", LATEST_TOPIC), ("latest",)
    yield ("zmq topic", zmq_topic(None, "sink.down")), ("sinks",)
    for stream, task in product(NAMES, NAMES):
        yield ("zmq topic", zmq_topic(stream, task)), (stream, task)
    for stream in NAMES:
        yield ("zmq topic", zmq_topic(stream, "stream.down")), ("stream.down", stream)
        yield ("zmq topic", zmq_topic(stream, "task.added")), ("task.added", stream)
        yield ("feed topic", f"{stream}/".encode()), ("results", stream)
        yield ("feed topic", _tasks_topic(stream)), ("tasks", stream)


def outputs(stream: str) -> Iterator[OutputSettings]:
    for sync in (False, True):
        yield Hls(stream=stream, sync=sync)
        yield Mjpeg(stream=stream, sync=sync)
        yield Mp4(stream=stream, sync=sync, path=Path("a.mp4"))
        yield RtspPush.model_validate({"stream": stream, "sync": sync, "url": "rtsp://127.0.0.1/a"})


def files_and_urls() -> Iterator[tuple[Address, Owner]]:
    def file(endpoint: str) -> Address:
        return "file", endpoint.removeprefix("ipc://")

    fixed = ["control.sock", "infer.sock", "bus.sock", "bus.sock.replay", "buffers", "heartbeats", "hls", "state"]
    for name in fixed:
        yield file(f"{RUNTIME}/{name}"), ("fixed", name)
    yield file(events_endpoint(RUNTIME)), ("events",)
    yield file(results_endpoint(RUNTIME)), ("results",)
    for target in ("0", "1", "10"):
        yield file(results_endpoint(RUNTIME, target)), ("results", target)
        yield file(str(infer_socket(RUNTIME, target))), ("infer", target)
        yield file(str(journal_path(RUNTIME, child_name(Role.INFER, target)))), ("journal", target)
    children = [child_name(role, None) for role in (Role.INFER, Role.EMIT, Role.WEB)]
    for stream in (name for name in NAMES if len(name) < 40):
        yield file(frames_endpoint(RUNTIME, stream)), ("frames", stream)
        yield file(f"{RUNTIME}/frames-{stream}.lock"), ("lock", stream)
        yield ("url", f"/api/snapshot/{stream}.jpg"), ("snapshot", stream)
        children.append(child_name(Role.CAPTURE, stream))
        for view in (ViewId(stream), ViewId(stream, sync=True)):
            assert ViewId.parse(str(view)) == view
            yield file(jpeg_endpoint(RUNTIME, view)), ("jpeg", view)
            yield file(str(hls_folder(RUNTIME, view))), ("hls", view)
            children.append(child_name(Role.VIEW, str(view)))
            for kind, url in URLS.items():
                yield ("url", url.format(view)), (kind, view)
        for output in outputs(stream):
            yield ("label", output.label), (output.kind, output.view)
            yield file(packets_endpoint(RUNTIME, output.label)), ("packets", output.kind, output.view)
            children.append(child_name(Role.PUSH, output.label))
    for child in children:
        yield file(str(dump_file(RUNTIME, child))), ("stacks", child)
    yield file(str(state_home() / COSTS_FILE)), ("costs",)
    for agent in NAMES:
        yield file(str(state_folder(agent))), ("state", agent)
        yield file(str(runtime_folder(agent))), ("runtime", agent)


@pytest.mark.parametrize("addresses", [mqtt_addresses, event_addresses, files_and_urls])
def test_different_names_never_give_the_same_address(addresses: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1")
    assert callable(addresses)
    owners: dict[Address, set[Owner]] = defaultdict(set)
    for address, owner in addresses():
        owners[address].add(owner)

    assert len(owners) > 500
    assert {address: found for address, found in owners.items() if len(found) > 1} == {}


def test_ordinary_names_keep_their_addresses() -> None:
    assert event("gate", name="people").source == status_event("home", "gate", "up").source
    assert event("gate", name="people").subject == "people"
    assert event_topic("streamer/home/streams/gate", "people") == "streamer/home/streams/gate/people"
    assert device_id("home", "front_door") == "streamer_home_front_door"
    assert client_id("home", "mqtt") == "streamer-home-mqtt"


def test_zmq_subscription_to_a_name_receives_no_other() -> None:
    topics = [zmq_topic(stream, task) for stream, task in product(NAMES, NAMES)]
    for stream in NAMES:
        subscription = f"{stream}/".encode()
        assert {topic.split(b"/")[0] for topic in topics if topic.startswith(subscription)} == {stream.encode()}


def test_hostile_names_are_valid_in_a_config() -> None:
    tasks = [{"task": "caption", "name": name} for name in NAMES]
    config = model.from_mapping(
        {
            "streams": {name: {"source": "synthetic", "tasks": tasks} for name in NAMES},
            "sinks": [{"kind": "jsonl", "name": name, "path": f"{name}.jsonl"} for name in NAMES],
        }
    )

    assert len(config.streams) == len(NAMES)


def test_two_things_of_one_name_are_refused() -> None:
    streams = {name: {"source": "synthetic", "tasks": [{"task": "caption"}]} for name in ("a", "a-b")}
    sinks = [{"kind": "stdout"}, {"kind": "zmq", "name": "stdout"}]
    video = {"kind": "mp4", "stream": "a", "path": "a"}
    with pytest.raises(ConfigError, match="second sink with the name `stdout`"):
        model.from_mapping({"streams": streams, "sinks": sinks})
    with pytest.raises(ConfigError, match="second output with the name `a-mp4`"):
        model.from_mapping({"streams": streams, "outputs": [video, {**video, "stream": "a-b", "name": "a-mp4"}]})


@pytest.mark.parametrize("path", ["events.jsonl", "events.jsonl.3", "./events.jsonl"])
def test_two_sinks_never_write_one_file(path: str) -> None:
    streams = {"gate": {"source": "synthetic", "tasks": [{"task": "caption"}]}}
    first = {"kind": "jsonl", "path": "events.jsonl"}
    video = {"kind": "mp4", "stream": "gate", "path": path}
    with pytest.raises(ConfigError, match=r"sinks\[1\]\.path: .* is also a file of another sink"):
        model.from_mapping({"streams": streams, "sinks": [first, {**first, "name": "b", "path": path}]})
    with pytest.raises(ConfigError, match=r"outputs\[0\]\.path: .* is also a file of another sink"):
        model.from_mapping({"streams": streams, "sinks": [first], "outputs": [video]})
