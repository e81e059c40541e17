"""The MQTT sink, with a real broker that stops, freezes, refuses events and requires a password."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import jinja2
import pytest
from pydantic import TypeAdapter, ValidationError

from streamer.bus.event_channel import EventClient
from streamer.core.errors import ConfigError, SinkError
from streamer.core.redact import Url
from streamer.events.build import status_event
from streamer.events.schema import encode, numbered
from streamer.events.sinks import IdleSink, Mqtt, SinkContext, SinkField, TaskKinds
from streamer.events.sinks._mqtt_connection import Connection
from streamer.events.sinks._mqtt_packets import Puback
from streamer.types import ResultKind
from tests.support.agents import until
from tests.support.broker import Broker, Listener, publish
from tests.support.certificates import Authority
from tests.support.emit_process import EmitProcess, send_events
from tests.support.proxy import Proxy
from tests.support.sample_events import event
from tests.support.sinks import RecordedProgress, entries, sink_context

IN_FLIGHT = 20


def context(agent: str = "home", **streams: dict[str, ResultKind]) -> SinkContext:
    tasks = TaskKinds({}, streams or {"gate": {"people": "boxes", "scene": "text"}})
    return sink_context(agent=agent, tasks=tasks)


def opened(broker: Broker, progress: RecordedProgress, **keys: Any) -> IdleSink:
    sink = Mqtt(url=Url(broker.url), **keys).open(context(), progress)
    assert isinstance(sink, IdleSink)
    return sink


def test_broker_outage_and_killed_emit_lose_nothing(tmp_path: Path, client: EventClient) -> None:
    broker = Broker(tmp_path)
    with broker, Listener(broker.port) as listener:
        with EmitProcess(tmp_path, [{"kind": "mqtt", "url": broker.url}]) as emit:
            send_events(client, range(100))
            until(lambda: len(listener.events()) >= 40, 20, "some arrive")
            emit.kill()  # in the middle of it
            emit.start()
            send_events(client, range(100, 200))
            broker.stop()
            send_events(client, range(200, 300))
            emit.kill()
            emit.start()  # the broker is down at the start
            send_events(client, range(300, 400))
            assert emit.process.poll() is None
            broker.start()
            until(lambda: len({one["id"] for one in listener.events()}) == 400, 30, f"all arrive: {emit.log()}")
            until(lambda: listener.retained("streamer/home/status") == "online", 10, "online")
            assert emit.stop() == 0
        until(lambda: listener.retained("streamer/home/status") == "offline", 10, "offline at a good end")

    times = Counter(one["id"] for one in listener.events())
    breaks = 3
    assert sum(count - 1 for count in times.values()) <= breaks * IN_FLIGHT
    first_seen = list(dict.fromkeys(one["data"]["frame"]["seq"] for one in listener.events()))
    assert first_seen == list(range(400))
    assert {one.topic for one in listener.messages if b"people" in one.body} == {"streamer/home/streams/gate/people"}


def test_kill_9_publishes_the_last_will(tmp_path: Path) -> None:
    with Broker(tmp_path) as broker, Listener(broker.port) as listener:
        with EmitProcess(tmp_path, [{"kind": "mqtt", "url": broker.url}]):
            until(lambda: listener.retained("streamer/home/status") == "online", 20, "online")
        until(lambda: listener.retained("streamer/home/status") == "offline", 10, "offline")


def test_position_advances_only_with_acknowledgements(tmp_path: Path, progress: RecordedProgress) -> None:
    with Broker(tmp_path) as broker:
        sink = opened(broker, progress, timeout="3s")
        sink.write(entries(1, 100))
        assert progress.advanced[-1] == 100
        assert progress.advanced == sorted(progress.advanced)
        assert len(progress.advanced) > 5  # as they are acknowledged, not at the end
        broker.freeze(True)
        with pytest.raises(SinkError, match=r"no acknowledgement within 3 s"):
            sink.write(entries(101, 150))
        assert progress.advanced[-1] == 100
        broker.freeze(False)
        sink.write(entries(101, 150))
        assert progress.advanced[-1] == 150
        sink.close()


def test_refused_event_does_not_advance_the_position(tmp_path: Path, progress: RecordedProgress) -> None:
    rules = tmp_path / "acl"
    rules.write_text("topic write streamer/home/status\n")
    with Broker(tmp_path, f"acl_file {rules}") as broker:
        sink = Mqtt(url=Url(broker.url)).open(context(), progress)
        with pytest.raises(SinkError, match=r"refuses an event .not authorized"):
            sink.write(entries(1, 1))
        sink.close()

    assert not progress.advanced


def test_in_flight_and_size_limits_of_the_broker_are_kept(
    tmp_path: Path, progress: RecordedProgress, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One message in flight, although a status event makes two messages, and none beyond the maximum size."""
    unacked = 0
    counts: list[int] = []
    send, next_ack = Connection.send, Connection.next_ack

    def counted(connection: Connection, packet: bytes) -> None:
        nonlocal unacked
        unacked += 1
        counts.append(unacked)
        send(connection, packet)

    def acknowledged(connection: Connection, since: float) -> Puback:
        nonlocal unacked
        unacked -= 1
        return next_ack(connection, since)

    large = encode(status_event("home", "gate", "down", "x" * 9000))
    statuses = [(position, encode(status_event("home", "gate", "up"))) for position in (11, 13)]
    with Broker(tmp_path, "max_inflight_messages 1", "max_packet_size 8000") as broker:
        sink = opened(broker, progress)
        sink.idle()
        monkeypatch.setattr(Connection, "send", counted)
        monkeypatch.setattr(Connection, "next_ack", acknowledged)
        sink.write([*entries(1, 10), statuses[0], (12, large), statuses[1]])
        sink.close()

    assert (len(counts), max(counts)) == (14, 1)
    assert list(progress.refused) == [12]
    assert progress.advanced[-1] == 13
    assert progress.advanced == sorted(progress.advanced)


def test_passwords_and_tls(tmp_path: Path, progress: RecordedProgress) -> None:
    authority = Authority(tmp_path)
    mine = authority.issue("server")
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-c", "-b", str(passwords), "cam", "s3cret@word"], check=True)
    options = (
        f"certfile {mine.cert}", f"keyfile {mine.key}", "allow_anonymous false", f"password_file {passwords}",
    )  # fmt: skip
    with Broker(tmp_path, *options) as broker:
        url = f"mqtts://cam:s3cret%40word@127.0.0.1:{broker.port}"
        sink = Mqtt(url=Url(url), ca=authority.cert).open(context(), progress)
        sink.write(entries(1, 3))
        sink.close()
        assert progress.advanced[-1] == 3
        wrong = Mqtt(url=Url(url.replace("s3cret", "another")), ca=authority.cert).open(context(), progress)
        with pytest.raises(SinkError, match="not authorized") as caught:
            wrong.write(entries(4, 5))
        assert "another" not in str(caught.value)
        stranger = Mqtt(url=Url(url)).open(context(), progress)
        with pytest.raises(SinkError, match=r"no TLS connection: TLS: .* not from a known authority: .*`ca: FILE`"):
            stranger.write(entries(4, 5))


def test_client_certificate(tmp_path: Path, progress: RecordedProgress) -> None:
    authority = Authority(tmp_path)
    server, mine, foreign = authority.issue("server"), authority.issue("agent"), Authority(tmp_path, "other").issue("x")
    options = (
        f"certfile {server.cert}", f"keyfile {server.key}", f"cafile {authority.cert}", "require_certificate true",
        "use_identity_as_username true",
    )  # fmt: skip
    with Broker(tmp_path, *options) as broker:
        url = Url(broker.url.replace("mqtt://", "mqtts://"))
        sink = Mqtt(url=url, ca=authority.cert, cert=mine.cert, key=mine.key).open(context(), progress)
        sink.write(entries(1, 3))
        sink.close()
        assert progress.advanced[-1] == 3
        for keys in ({}, {"cert": foreign.cert, "key": foreign.key}):
            refused = Mqtt(url=url, ca=authority.cert, **keys).open(context(), progress)
            with pytest.raises(SinkError, match="TLS: the other side requires a client certificate"):
                refused.write(entries(4, 4))


def test_renewed_certificate_is_used_at_the_next_connection(tmp_path: Path, progress: RecordedProgress) -> None:
    authority = Authority(tmp_path)
    server = authority.issue("server")
    trusted = tmp_path / "trusted.pem"
    shutil.copy(authority.cert, trusted)
    with Broker(tmp_path, f"certfile {server.cert}", f"keyfile {server.key}") as broker:
        url = Url(broker.url.replace("mqtt://", "mqtts://"))
        sink = Mqtt(url=url, ca=trusted).open(context(), progress)
        trusted.unlink()
        with pytest.raises(SinkError, match="cannot use the certificates in"):
            sink.write(entries(1, 1))
        shutil.copy(authority.cert, trusted)
        sink.write(entries(1, 1))
        sink.close()


def test_proxy_carries_the_connection(tmp_path: Path, progress: RecordedProgress) -> None:
    with Broker(tmp_path) as broker, Proxy("cam:pw") as proxy:
        sink = opened(broker, progress, proxy=Url(proxy.url.replace("//", "//cam:pw@")))
        sink.write(entries(1, 3))
        sink.close()
        assert progress.advanced[-1] == 3
        assert proxy.targets == [f"127.0.0.1:{broker.port}"]
        refused = opened(broker, progress, proxy=Url(proxy.url))
        with pytest.raises(SinkError, match=r"no connection through the proxy: the proxy refuses it: HTTP 407"):
            refused.write(entries(4, 4))


def test_two_agents_of_one_name_do_not_push_each_other_out(tmp_path: Path, progress: RecordedProgress) -> None:
    with Broker(tmp_path) as broker:
        agents = opened(broker, progress), opened(broker, RecordedProgress())
        failures = []
        for turn in range(10):
            try:
                agents[turn % 2].idle()
            except SinkError as error:
                failures.append(error)
                agents[turn % 2].idle()
        agents[1].close()
        agents[0].close()

    assert "another program seems to use the client id streamer-home-mqtt" in str(failures[-1])
    assert failures[-1].wait_s == 60


def test_task_called_status_has_a_topic_of_its_own(tmp_path: Path, progress: RecordedProgress) -> None:
    body = encode(numbered(event(name="status"), 1))
    with Broker(tmp_path) as broker, Listener(broker.port) as listener:
        streams: dict[str, dict[str, ResultKind]] = {"gate": {"status": "boxes"}}
        sink = Mqtt(url=Url(broker.url), home_assistant=True).open(context("home", **streams), progress)
        sink.write([(1, encode(status_event("home", "gate", "up"))), (2, body)])
        until(lambda: listener.retained("streamer/home/streams/gate/task.status"), 10, "the answer")
        sink.close()
        device = json.loads(listener.retained("homeassistant/device/streamer_home_gate/config") or "")

    assert [one.body for one in listener.messages if one.topic == "streamer/home/streams/gate/status"] == [b"up"]
    assert device["components"]["task.status"]["state_topic"] == "streamer/home/streams/gate/task.status"


def test_home_assistant_discovers_streams_and_tasks(tmp_path: Path, progress: RecordedProgress) -> None:
    with Broker(tmp_path) as broker, Listener(broker.port) as listener:
        sink = Mqtt(url=Url(broker.url), home_assistant=True).open(context(), progress)
        sink.write([(1, encode(status_event("home", "gate", "up"))), *entries(2, 2)])
        until(lambda: listener.retained("homeassistant/device/streamer_home_gate/config"), 10, "discovery")
        sink.close()
        with Listener(broker.port, name="late") as late:
            until(lambda: late.retained("streamer/home/streams/gate/status") == "up", 10, "state for a late comer")
            until(lambda: late.retained("streamer/home/status") == "offline", 10, "offline for a late comer")

    found = json.loads(listener.retained("homeassistant/device/streamer_home_gate/config") or "")
    people, scene = found["components"]["task.people"], found["components"]["task.scene"]
    assert found["availability_topic"] == "streamer/home/status"
    topics = {one.topic: one.body for one in listener.messages}
    answer = json.loads(topics[people["state_topic"]])
    assert rendered(people["value_template"], answer) == "1"
    assert json.loads(rendered(people["json_attributes_template"], answer))["name"] == "people"
    answer["data"]["result"]["text"] = "x" * 300
    assert rendered(scene["value_template"], answer) == "x" * 255
    answer["data"]["result"] = None
    assert rendered(scene["value_template"], answer) == "as before"
    connection = found["components"]["connection"]
    state = topics[connection["state_topic"]].decode()
    assert jinja2.Template(connection["value_template"]).render(value=state) == "ON"


def test_home_assistant_drops_removed_streams_and_tasks(tmp_path: Path) -> None:
    def run(broker: Broker, agent: str = "home", **streams: dict[str, ResultKind]) -> None:
        sink = Mqtt(url=Url(broker.url), home_assistant=True).open(context(agent, **streams), RecordedProgress())
        sink.write([(1, encode(status_event(agent, "gate", "up")))])
        sink.close()

    topic = "homeassistant/device/{}/config".format
    by_hand = {
        "device": {"identifiers": ["lamp"]}, "availability_topic": "streamer/home/status",
        "components": {"task.light": {"platform": "light", "command_topic": "lamp"}},
    }  # fmt: skip
    garbage = [b"{", b"[]", b"[" * 100_000 + b"]" * 100_000, b"9" * 5000, b"NaN", b"\xff\xfe", b'{"device": 1e999}']
    others = {topic("lamp"): json.dumps(by_hand).encode()}
    others |= {topic(f"garbage{number}"): body for number, body in enumerate(garbage)}
    with Broker(tmp_path) as broker, Listener(broker.port) as listener:
        old = {"device": {"identifiers": ["streamer_home_2_yard"]}, "availability_topic": "streamer/home_2/status"}
        publish(broker.port, topic("streamer_home_2_yard"), json.dumps({**old, "components": {}}).encode())
        for name, body in others.items():
            publish(broker.port, name, body)
        run(broker, agent="home_2", yard={"people": "boxes"})
        neighbour = topic("streamer_home_2_S_yard")
        until(lambda: listener.retained(topic("streamer_home_2_yard")) == "", 10, "no device of an earlier version")
        others[neighbour] = str(until(lambda: listener.retained(neighbour), 10, "another agent's stream")).encode()
        run(broker, gate={"people": "boxes", "scene": "text"}, yard={"people": "boxes"})
        until(lambda: listener.retained(topic("streamer_home_yard")), 10, "the stream")
        run(broker, gate={"people": "boxes"})
        until(lambda: listener.retained(topic("streamer_home_yard")) == "", 10, "the stream is gone")
        with Listener(broker.port, name="late") as late:
            until(lambda: late.retained("streamer/home/status"), 10, "what is retained")
            found = {one.topic: one.body for one in late.messages}
    components = json.loads(found.pop(topic("streamer_home_gate")))["components"]
    assert components["task.scene"] == {"platform": "sensor"}, "Home Assistant removes a sensor with this content"
    assert components["task.people"]["state_topic"] == "streamer/home/streams/gate/people"
    assert topic("streamer_home_yard") not in found
    assert {name: body for name, body in found.items() if name.startswith("homeassistant/")} == others


def rendered(template: str, answer: Any) -> str:
    """Return the text that Home Assistant makes of a template and an answer."""
    text: str = jinja2.Template(template).render(value_json=answer, this={"state": "as before"})
    return text


def test_refused_states_do_not_hold_up_events(tmp_path: Path, progress: RecordedProgress) -> None:
    rules = tmp_path / "acl"
    rules.write_text(
        "topic write streamer/home/streams/gate/people\ntopic write streamer/home/streams/gate/stream.up\n"
    )
    with Broker(tmp_path, f"acl_file {rules}") as broker:
        sink = opened(broker, progress)
        events = [(1, encode(status_event("home", "gate", "up"))), *entries(2, 3)]
        for _ in range(3):  # this broker ends the connection when it has refused a message
            with contextlib.suppress(SinkError):
                sink.write(events[progress.position :])
        sink.close()

    assert progress.position == 3
    assert progress.refused == {}


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "::ffff:127.0.0.1", "64:ff9b::a9fe:a9fe"])
def test_name_does_not_lead_to_this_computer(
    monkeypatch: pytest.MonkeyPatch, progress: RecordedProgress, address: str
) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    sink = Mqtt(url=Url("mqtt://broker.example")).open(context(), progress)
    with pytest.raises(SinkError, match=r"^the broker broker\.example:1883: no TCP connection: refused to connect to"):
        sink.write(entries(1, 1))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"url": "http://broker"}, "must begin with mqtt:// or mqtts://"),
        ({"url": "mqtt://broker/topic"}, "the key `topic`"),
        ({"url": "mqtt://broker", "topic": "a/#"}, "pattern"),
        ({"url": "mqtt://broker", "ca": "ca.pem"}, "ca: only allowed with mqtts://"),
        ({"url": "mqtts://broker", "key": "key.pem"}, "give `cert` too"),
        ({"url": "mqtt://broker", "content_type": "a/b\r\nx: y"}, "pattern"),
        ({"url": "mqtt://broker", "proxy": "socks5://proxy"}, "must begin with http://"),
    ],
)
def test_invalid_settings_are_rejected(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(SinkField).validate_python({"kind": "mqtt", **raw})


def test_missing_certificates_are_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot use the certificates in"):
        Mqtt(url=Url("mqtts://broker"), ca=tmp_path / "none.pem").check()
