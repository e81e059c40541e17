"""The MQTT sink, with brokers that break the protocol, stay silent, or take the session away."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from streamer.bus.event_channel import EventClient
from streamer.core.errors import SinkError
from streamer.core.redact import Url
from streamer.events.sinks import IdleSink, Mqtt, RuleInfo
from streamer.events.sinks._suspect import MAX_ATTEMPTS
from tests.support.agents import until
from tests.support.emit_process import EmitProcess, lines, send_events
from tests.support.scripted_broker import CONNACK, Client, Script, ScriptedBroker, puback, well
from tests.support.sinks import RecordedProgress, entries, sink_context


def opened(
    broker: ScriptedBroker, progress: RecordedProgress, rules: Mapping[str, RuleInfo] | None = None, **keys: object
) -> IdleSink:
    settings = {"timeout": "1m", **keys}
    sink = Mqtt(url=Url(broker.url), **settings).open(sink_context(rules=rules or {}), progress)
    assert isinstance(sink, IdleSink)
    return sink


def connack(properties: bytes) -> bytes:
    return b"\x20" + bytes([3 + len(properties)]) + b"\x00\x00" + bytes([len(properties)]) + properties


def message(topic: bytes, body: bytes = b"{}", first: int = 0x31) -> bytes:
    content = struct.pack("!H", len(topic)) + topic + b"\x00" + body
    return bytes([first]) + bytes([len(content)]) + content


def sends(data: bytes, answer: bytes = CONNACK) -> Script:
    def script(client: Client) -> None:
        client.accept(answer)
        client.send(data)
        client.hold()

    return script


def answers(connack: bytes) -> Script:
    return sends(b"", connack)


def acks(ack: Callable[[bytes, int], bytes | None]) -> Script:
    def script(client: Client) -> None:
        client.accept()
        client.serve(ack)

    return script


def drip(client: Client) -> None:
    client.read()
    client.drip(b"\x20\x7f" + b"\x00" * 20, 0.1)


def flood(client: Client) -> None:
    client.accept()
    while True:
        client.send(message(b"homeassistant/device/x/config") * 1000)


FIRST_FAILS: dict[str, tuple[Script, str]] = {
    "accepts and says nothing": (Client.hold, r"no CONNACK within 0\.5 s"),
    "closes": (lambda client: None, "no CONNACK: "),
    "drips bytes": (drip, r"no CONNACK within 0\.5 s"),
    "speaks HTTP": (answers(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "does not speak MQTT"),
    "refuses by an MQTT 3 code": (answers(b"\x20\x02\x00\x01"), "refuses the connection: unsupported protocol version"),
    "refuses": (answers(b"\x20\x03\x00\x87\x00"), "refuses the connection: not authorized"),
    "unknown reason": (answers(b"\x20\x03\x00\xfe\x00"), "reason code 0xfe"),
    "truncated CONNACK": (answers(b"\x20\x01\x00"), "malformed packet of type 2"),
    "Receive Maximum 0": (answers(connack(b"\x21\x00\x00")), "accepts no message at all"),
    "Maximum Packet Size 0": (answers(connack(b"\x27\x00\x00\x00\x00")), "accepts no message at all"),
    "no QoS 1": (answers(connack(b"\x24\x00")), "no messages with quality of service 1"),
    "unknown property": (answers(connack(b"\x7f\x00")), "unknown or repeated property 0x7f"),
    "repeated property": (answers(connack(b"\x24\x01\x24\x01")), "unknown or repeated property"),
    "property beyond the packet": (answers(b"\x20\x03\x00\x00\x09"), "malformed packet"),
    "length without end": (sends(b"\x30\xff\xff\xff\xff\xff"), "does not speak MQTT"),
    "256 MB packet": (sends(b"\x30\xff\xff\xff\x7f"), "a packet of 268435455 bytes, at most 262144"),
    "topic that is not UTF-8": (sends(message(b"\xff\xfe")), "malformed packet of type 3"),
    "topic beyond the packet": (sends(b"\x31\x03\xff\xff\x00"), "malformed packet of type 3"),
    "QoS 2 message": (sends(b"\x35\x06\x00\x01a\x00\x01\x00"), "quality of service that was not requested"),
    "packet type 0": (sends(b"\x00\x00"), "unexpected packet of type 0"),
    "AUTH": (sends(b"\xf0\x00"), "unexpected packet of type 15"),
    "DISCONNECT": (sends(b"\xe0\x01\x8b"), "ended the connection: server shutting down"),
    "second CONNACK": (sends(CONNACK), "no SUBACK within"),  # it counts as the answer to the first subscription
    "empty PUBACK": (sends(b"\x40\x00"), "malformed packet of type 4"),
    "subscription never acknowledged": (sends(b""), "no SUBACK within 2 s"),
    "message never acknowledged": (acks(lambda _, __: b""), "no acknowledgement within 2 s"),
    "wrong message acknowledged": (acks(lambda _, number: puback(number + 1000)), "no acknowledgement within"),
    "closes at the first message": (acks(lambda _, __: None), "no acknowledgement: "),
    "flood of messages": (flood, "no SUBACK within|no acknowledgement within|it takes no message"),
}


CONNECT_S = "streamer.events.sinks._mqtt_connection.CONNECT_S"


@pytest.mark.parametrize("fault", FIRST_FAILS)
def test_any_fault_is_followed_by_a_new_connection(
    progress: RecordedProgress, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what does not come has a short limit: on a busy computer the rest takes long."""
    script, reason = FIRST_FAILS[fault]
    with ScriptedBroker(script, well) as broker:
        sink = opened(broker, progress, timeout="2s" if "within" in reason and "CONNACK" not in reason else "1m")
        with monkeypatch.context() as limit:
            limit.setattr(CONNECT_S, 0.5 if "no CONNACK within" in reason else 60.0)
            with pytest.raises(SinkError, match=f"^the broker 127.0.0.1:.*({reason})"):
                sink.write(entries(1, 3))
        sink.write(entries(1, 3))
        sink.close()

    assert broker.connections == 2
    assert progress.position == 3


def test_name_server_that_is_silent_has_a_deadline(progress: RecordedProgress, monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr("streamer.events.sinks._tcp.resolve", lambda *_, **__: over.wait(20))
    monkeypatch.setattr(CONNECT_S, 0.5)
    sink = Mqtt(url=Url("mqtt://broker.example")).open(sink_context(), progress)
    with pytest.raises(SinkError, match=r"no TCP connection within 0\.5 s"):
        sink.write(entries(1, 1))
    over.set()


@pytest.mark.parametrize("fault", ["topic that is not UTF-8", "DISCONNECT", "closes at the first message"])
def test_fault_is_noticed_without_events(progress: RecordedProgress, fault: str) -> None:
    with ScriptedBroker(FIRST_FAILS[fault][0], well) as broker:
        sink = opened(broker, progress)
        with pytest.raises(SinkError):
            sink.idle()
        sink.idle()
        sink.close()

    assert broker.connections == 2


def test_half_open_connection_is_noticed(progress: RecordedProgress, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.events.sinks._mqtt_connection.KEEPALIVE_S", 0)

    def dies_after_the_greeting(client: Client) -> None:
        client.accept()
        client.serve(lambda _, number: client.send(puback(number)))
        client.hold()

    with ScriptedBroker(dies_after_the_greeting, well) as broker:
        sink = opened(broker, progress, timeout="2s")
        with pytest.raises(SinkError, match="no answer to a ping within 2 s"):
            until(lambda: sink.idle(), 10, "an error")
        sink.idle()
        sink.close()


def test_lost_connections_are_replaced_at_a_falling_rate(progress: RecordedProgress) -> None:
    waits = []
    with ScriptedBroker(sends(b"\x00\x00")) as broker:
        sink = opened(broker, progress)
        for _ in range(9):
            with pytest.raises(SinkError) as failure:
                sink.write(entries(1, 1))
            waits.append(failure.value.wait_s or 0.0)

    assert waits[0] <= 0.5
    assert min(waits[-2:]) >= 15


def taken_over(client: Client) -> None:
    client.accept()
    client.serve(lambda body, number: client.send(puback(number)))
    client.send(b"\xe0\x01\x8e")


def test_session_taken_over_is_told_and_not_taken_back_at_once(progress: RecordedProgress) -> None:
    failures = []
    with ScriptedBroker(taken_over) as broker:
        sink = opened(broker, progress)
        for _ in range(6):
            with pytest.raises(SinkError) as failure:
                until(lambda: sink.idle(), 5, "an error")
            failures.append(failure.value)

    assert "another program seems to use the client id streamer-home-mqtt" in str(failures[0])
    assert "another name with `agent:`" in str(failures[0])
    assert [one.wait_s for one in failures] == [60, 120, 240, 480, 600, 600]


@pytest.mark.parametrize(("reason", "words"), [(0x90, "topic name"), (0x95, "packet too large"), (0x99, "payload")])
def test_message_that_is_never_accepted_is_a_dead_letter(progress: RecordedProgress, reason: int, words: str) -> None:
    def refuse_second(body: bytes, number: int) -> bytes:
        return puback(number, reason if b'"seq":2,' in body else 0)

    with ScriptedBroker(acks(refuse_second)) as broker:
        sink = opened(broker, progress)
        sink.write(entries(1, 5))
        sink.close()

    assert list(progress.refused) == [2]
    assert words in progress.refused[2]
    assert progress.position == 5


@pytest.mark.parametrize("answer", [None, puback(0, 0x83)[-1:]], ids=["ends the connection", "refuses"])
def test_event_that_breaks_the_connection_blocks_no_other(progress: RecordedProgress, answer: bytes | None) -> None:
    def breaks_at_3(body: bytes, number: int) -> bytes | None:
        if b'"seq":3,' not in body:
            return puback(number)
        return answer and puback(number, answer[0])

    failures, last = 0, 5
    with ScriptedBroker(acks(breaks_at_3)) as broker:
        sink = opened(broker, progress)
        while progress.position < 20 and failures < 50:
            try:
                sink.write(entries(progress.position + 1, last))
            except SinkError:
                failures += 1
            last = min(20, last + 1)  # new events come
        sink.close()

    assert list(progress.refused) == [3]
    assert "while others were accepted" in progress.refused[3]
    assert failures <= 3 * MAX_ATTEMPTS
    accepted = [int(body.split(b'"sequence":"')[1][:16]) for body in broker.published if b'"sequence"' in body]
    assert set(accepted) == set(range(1, 21))


def test_state_that_breaks_the_connection_blocks_no_event(progress: RecordedProgress) -> None:
    def breaks_at_online(body: bytes, number: int) -> bytes | None:
        return None if body.endswith(b"online") else puback(number)

    with ScriptedBroker(acks(breaks_at_online)) as broker:
        sink = opened(broker, progress)
        failures: list[SinkError] = []
        while progress.position < 3 and len(failures) < 20:
            with pytest.raises(SinkError) as failure:
                sink.write(entries(progress.position + 1, 3))
            failures.append(failure.value)

    assert progress.position == 3
    assert len(failures) == MAX_ATTEMPTS + 1
    assert "another program" not in str(failures[-1])


FOUR = {"ladder": RuleInfo(["a", "b", "c", "d"])}


def test_retained_messages_are_published_several_at_a_time(progress: RecordedProgress) -> None:
    """The broker acknowledges none before it has five: the state of the agent and those of a rule on four streams."""
    held: list[int] = []

    def acks_five(_: bytes, number: int) -> bytes:
        held.append(number)
        return b"".join(map(puback, held)) if len(held) == 5 else b""

    with ScriptedBroker(acks(acks_five)) as broker:
        sink = opened(broker, progress, in_flight=5, rules=FOUR)
        sink.idle()
        sink.close()
    assert len(held) == 5


def test_state_that_breaks_the_connection_is_found_among_many(progress: RecordedProgress) -> None:
    def breaks_at_c(body: bytes, number: int) -> bytes | None:
        return None if b"/streams/c/" in body and b"sequence" not in body else puback(number)

    failures = 0
    with ScriptedBroker(acks(breaks_at_c)) as broker:
        sink = opened(broker, progress, rules=FOUR)
        while progress.position < 3 and failures < 20:
            with pytest.raises(SinkError):
                sink.write(entries(progress.position + 1, 3))
            failures += 1
        assert {name for name in b"abd" if b"/streams/%c/" % name in b"".join(broker.published)} == set(b"abd")

    assert (progress.position, failures) == (3, MAX_ATTEMPTS + 1)


def test_no_event_is_given_up_while_none_is_accepted(progress: RecordedProgress) -> None:
    with ScriptedBroker(acks(lambda body, number: None if b"sequence" in body else puback(number))) as broker:
        sink = opened(broker, progress)
        for _ in range(6 * MAX_ATTEMPTS):
            with pytest.raises(SinkError):
                sink.write(entries(1, 3))

    assert progress.refused == {}


def test_emit_reports_a_bad_broker_and_its_return(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    beside = tmp_path / "beside.jsonl"
    faults = ["topic that is not UTF-8", "message never acknowledged", "DISCONNECT"]
    with (
        ScriptedBroker(*(FIRST_FAILS[name][0] for name in faults), well) as broker,
        EventClient(tmp_path / "run", "infer") as client,
        EmitProcess(
            tmp_path,
            [{"kind": "mqtt", "url": broker.url, "timeout": "2s"}, {"kind": "jsonl", "path": str(beside)}],
        ) as emit,
    ):
        send_events(client, range(20))
        until(lambda: len([one for one in broker.published if b"sequence" in one]) >= 20, 20, "all arrive")
        until(lambda: "sink.up" in [one["subject"] for one in lines(beside)], 20, "sink.up")
        assert emit.stop() == 0

    statuses = [one for one in lines(beside) if one["subject"].startswith("sink.")]
    assert [one["subject"] for one in statuses] == ["sink.down", "sink.up"]
    assert statuses[0]["data"]["reason"].startswith("the broker 127.0.0.1:")
