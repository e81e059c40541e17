"""Rules in MQTT and Home Assistant, with a real broker: states, attributes, discovery, and what outlives restarts."""

from __future__ import annotations

import json
from collections.abc import Collection
from contextlib import closing
from pathlib import Path
from typing import Any

import jinja2
import pytest

from streamer.bus.event_channel import EventClient
from streamer.config.model import from_mapping
from streamer.config.rule import RULES
from streamer.core.redact import Url
from streamer.events.build import status_event, word_event
from streamer.events.ledger.cursor import position_of
from streamer.events.ledger.query import LedgerQuery
from streamer.events.schema import StatusEvent, encode
from streamer.events.sinks import IdleSink, Mqtt, RuleInfo, RulesState, TaskKinds
from streamer.processes.assignment import Role
from streamer.types import ResultKind
from tests.support.agents import until
from tests.support.broker import Broker, Listener, publish
from tests.support.rules_process import Workers
from tests.support.sample_events import incident
from tests.support.sinks import RecordedProgress, sink_context
from tests.support.stories import PERSON, Story, seconds

RULE = "streamer/home/streams/gate/incident.ladder"
DEVICE = "homeassistant/device/streamer_home_gate/config"
LADDER = {"ladder": RuleInfo(["gate"], "objects")}
GATE = {"gate": RuleInfo(["gate"], None, ["open", "closed"])}
WORD = "streamer/home/streams/gate/incident.gate/word"
AGENT = "streamer/home/status"
FEW_S, START_S = 60.0, 60.0


def opened(
    broker: Broker,
    rules: dict[str, RuleInfo],
    opened: dict[tuple[str, str], bytes] | None = None,
    words: dict[tuple[str, str], str] | None = None,
    streams: Collection[str] = ("gate", "yard"),
    **keys: Any,
) -> IdleSink:
    tasks: dict[str, dict[str, ResultKind]] = {"gate": {"people": "boxes"}, "yard": {}}
    context = sink_context(
        tasks=TaskKinds({}, {name: tasks[name] for name in streams}),
        rules=rules,
        rules_state=lambda _: RulesState(open_incidents=opened or {}, words=words or {}),
    )
    sink = Mqtt(url=Url(broker.url), **keys).open(context, RecordedProgress())
    assert isinstance(sink, IdleSink)
    return sink


def events(*states: str) -> list[tuple[int, bytes]]:
    return [(number + 1, encode(incident(state, number))) for number, state in enumerate(states)]  # type: ignore[arg-type]


def word(value: str | None, stream: str = "gate") -> StatusEvent:
    return word_event("home", stream, "gate", value, "an answer", "2026-11-23T21:00:00.000000Z")


def found(broker: Broker, prefix: str = "", sink: IdleSink | None = None) -> dict[str, bytes]:
    """Return what the broker retains, by topic, after the sink has handled what has arrived."""
    if sink is not None:
        sink.idle()
    with Listener(broker.port, name="late") as late:
        publish(broker.port, "marker", b"after what was retained before")
        until(lambda: late.retained("marker"), FEW_S, "what is retained")
        return {one.topic: one.body for one in late.messages if one.retained and one.topic.startswith(prefix)}


def test_open_incident_is_on_and_described(tmp_path: Path) -> None:
    with Broker(tmp_path) as broker, Listener(broker.port) as listener:
        with closing(opened(broker, LADDER)) as sink:
            sink.idle()
            until(lambda: listener.retained(f"{RULE}/status") == "OFF", FEW_S, "off at first")
            sink.write(events("start", "update"))
            until(lambda: listener.retained(f"{RULE}/status") == "ON", FEW_S, "on")
            sink.write([(3, encode(incident("end", 2)))])
            until(lambda: listener.retained(f"{RULE}/status") == "OFF", FEW_S, "off")
        retained = found(broker, RULE)
        topics = [one.topic for one in listener.messages if one.topic.startswith(RULE)]

    assert retained.keys() == {f"{RULE}/status", f"{RULE}/attributes"}
    attributes = json.loads(retained[f"{RULE}/attributes"])
    assert attributes.keys() >= {"severity", "text", "incident", "best", "started", "state"}
    assert not attributes.keys() & {"evidence", "why"}
    # the event, then its attributes, then the state, which starts automations that read both
    assert topics == [f"{RULE}/status", *[RULE, f"{RULE}/attributes", f"{RULE}/status"] * 3]


def test_open_incident_stays_on_after_restarts(tmp_path: Path) -> None:
    with Broker(tmp_path) as broker:
        broker.stop()
        (tmp_path / "mosquitto" / "mosquitto.db").unlink(missing_ok=True)
        broker.start()
        with closing(opened(broker, LADDER, {("gate", "ladder"): encode(incident("update", 1))})) as sink:
            sink.idle()
            retained = found(broker, RULE)
    assert retained[f"{RULE}/status"] == b"ON"
    assert f"{RULE}/attributes" in retained


def test_states_of_removed_rules_are_cleared(tmp_path: Path) -> None:
    other = {"streamer/home_2/streams/gate/incident.ladder/status": b"ON", f"{RULE}/note": b"by another program"}
    with Broker(tmp_path) as broker:
        for topic, body in other.items():
            publish(broker.port, topic, body)
        with closing(opened(broker, {**LADDER, "dog": RuleInfo(["gate", "yard"])})) as sink:
            sink.write(events("start"))
        with closing(opened(broker, {"dog": RuleInfo(["yard"])})) as sink:
            until(lambda: f"{RULE}/status" not in found(broker, sink=sink), FEW_S, "cleared")
            sink.write([(2, encode(incident("end", 1)))])  # the rules process ends the incident of a removed rule
            states = {name for name in found(broker) if "incident." in name}

        assert states == {"streamer/home/streams/yard/incident.dog/status", *other}


@pytest.mark.parametrize("was_open", [False, True])
def test_states_of_the_last_removed_rule_are_cleared(tmp_path: Path, was_open: bool) -> None:
    with Broker(tmp_path) as broker:
        with closing(opened(broker, {**LADDER, **GATE}, home_assistant=True)) as sink:
            sink.write([*events(*["start"] * was_open), (9, encode(word("open")))])
            assert found(broker, WORD)
        with closing(opened(broker, {}, home_assistant=True)) as sink:
            until(lambda: not any("incident." in topic for topic in found(broker, sink=sink)), FEW_S, "cleared")
            sink.write([(10, encode(incident("end", 1))), (11, encode(word(None)))])
            retained = found(broker)
    assert not any("incident." in topic for topic in retained)
    components = json.loads(retained[DEVICE])["components"]
    assert {name: value for name, value in components.items() if name.startswith("rule.")} == {
        "rule.ladder": {"platform": "binary_sensor"}, "rule.ladder.text": {"platform": "sensor"},
        "rule.gate": {"platform": "binary_sensor"}, "rule.gate.text": {"platform": "sensor"},
        "rule.gate.word": {"platform": "sensor"},
    }, "Home Assistant removes components like these"  # fmt: skip


def test_sensors_of_a_removed_stream_disappear(tmp_path: Path) -> None:
    both = {"gate": RuleInfo(["gate", "yard"], None, ["open", "closed"])}
    with Broker(tmp_path) as broker:
        with closing(opened(broker, both, home_assistant=True)) as sink:
            sink.write(
                [(1, encode(word("open"))), (2, encode(word("closed", "yard"))), (3, encode(incident(stream="yard")))]
            )
            assert "homeassistant/device/streamer_home_yard/config" in found(broker)
        context = sink_context(tasks=TaskKinds({}, {"gate": {}}), rules=GATE)
        with closing(Mqtt(url=Url(broker.url), home_assistant=True).open(context, RecordedProgress())) as sink:
            assert isinstance(sink, IdleSink)
            until(lambda: not any("yard" in topic for topic in found(broker, sink=sink)), FEW_S, "cleared")
            assert DEVICE in found(broker)


def test_word_of_a_state_is_a_sensor(tmp_path: Path) -> None:
    with Broker(tmp_path) as broker:
        with closing(opened(broker, GATE, home_assistant=True)) as sink:
            sink.idle()
            sensor = json.loads(found(broker)[DEVICE])["components"]["rule.gate.word"]
            assert sensor == {
                "platform": "sensor", "device_class": "enum", "options": ["open", "closed"], "name": "gate state",
                "unique_id": "streamer_home_gate.rule.gate.word", "state_topic": WORD,
            }  # fmt: skip
            shown = [found(broker)[WORD]]
            for number, one in enumerate(("open", "closed", None, "open")):
                sink.write([(number + 1, encode(word(one)))])
                shown.append(found(broker)[WORD])
        assert shown == [b"None", b"open", b"closed", b"None", b"open"], "None: Home Assistant shows `unknown`"
        with closing(opened(broker, GATE, words={("gate", "gate"): "closed"})) as sink:
            sink.idle()
            assert found(broker)[WORD] == b"closed", "published again after a restart"


@pytest.mark.parametrize(
    ("only", "left"), [("statuses", {"word"}), ("incidents", {"status", "attributes"}), ("results", set())]
)
def test_sink_has_the_states_of_the_events_it_gets(tmp_path: Path, only: str, left: set[str]) -> None:
    start = {("gate", "gate"): encode(incident()).replace(b"ladder", b"gate")}
    words = {("gate", "gate"): "open"}
    with Broker(tmp_path) as broker:
        with closing(opened(broker, GATE, start, words, home_assistant=True)) as sink:
            sink.idle()
        with closing(opened(broker, GATE, start, words, home_assistant=True, only=[only])) as sink:
            topics = {f"{WORD.removesuffix('word')}{name}" for name in left}
            until(lambda: {one for one in found(broker, sink=sink) if "incident." in one} == topics, FEW_S, "the rest")


def test_word_survives_kills_and_goes_with_its_rule(tmp_path: Path) -> None:
    """Real emit and rules processes: the word is read with the rule's hold, and right after both were killed."""
    state = {"of": "gate", "words": ["open", "closed"], "is": "open"}
    rule = {"when": {"state": state}, "hold": {"hits": "2 of 3"}}
    story = Story("", rule, "0 open_gate\n1 closed_gate\n2 closed_gate", [], task="open-gate")
    topic = WORD.replace("incident.gate", "incident.story")
    with Broker(tmp_path) as broker, Listener(broker.port) as listener:
        sinks = [{"kind": "mqtt", "url": broker.url, "home_assistant": True}]
        config = from_mapping({**story.config().raw, "sinks": sinks})
        with Workers(tmp_path, config) as workers:
            until(lambda: listener.retained(topic) == "None", START_S, "no word at first")
            with EventClient(workers.runtime, "infer") as client:
                for one in story.events():
                    client.send(one, None)
                assert client.flush(START_S)
            until(lambda: listener.retained(topic) == "closed", START_S, "the word")
            shown = [one.body for one in listener.messages if one.topic == topic]
            assert shown == [b"None", b"closed"], "one answer does not make `open` the word"
            with closing(LedgerQuery(workers.ledger)) as query:
                until(lambda: position_of(workers.ledger, "mqtt") == query.head(), START_S, "it is acknowledged")
            for role in (Role.EMIT, Role.RULES):
                workers.kill(role)
            listener.messages.clear()
            for role in (Role.EMIT, Role.RULES):
                workers.start(role)
            until(lambda: listener.retained(topic), START_S, "the word is published again")
            assert listener.retained(topic) == "closed"
            for role in (Role.EMIT, Role.RULES):
                workers.kill(role)
            workers.config = from_mapping({**config.raw, "rules": {}})
            for role in (Role.EMIT, Role.RULES):
                workers.start(role)
            until(lambda: not any(one.startswith(topic[:-5]) for one in found(broker)), START_S, "cleared")
            until(lambda: b'"story state"' not in found(broker)[DEVICE], START_S, "it disappears in Home Assistant")


def test_incident_of_a_removed_stream_is_cleared(tmp_path: Path) -> None:
    with Broker(tmp_path) as broker:
        with closing(opened(broker, LADDER)) as sink:
            sink.write(events("start"))
        with closing(opened(broker, {"ladder": RuleInfo(["yard"])}, streams=["yard"])) as sink:
            sink.write([(2, encode(incident("end", 1)))])
            until(lambda: found(broker, RULE, sink) == {}, FEW_S, "cleared")


def test_state_of_a_removed_stream_is_cleared(tmp_path: Path) -> None:
    status = "streamer/{}/streams/{}/status".format
    others = {status("home_2", "gate"), status("home", "gate/people"), status("home", "gate") + "/note"}
    up = [(number, encode(status_event("home", name, "up"))) for number, name in enumerate(("gate", "yard"), 1)]
    with Broker(tmp_path) as broker:
        for topic in others:
            publish(broker.port, topic, b"by another program")
        with closing(opened(broker, {})) as sink:
            sink.write(up)
            assert found(broker, "streamer/").keys() == {status("home", "gate"), status("home", "yard"), AGENT, *others}
        with closing(opened(broker, {}, streams=["yard"])) as sink:
            left = {status("home", "yard"), AGENT, *others}
            until(lambda: found(broker, "streamer/", sink).keys() == left, FEW_S, "cleared")
            sink.write(up)  # an event of the earlier run
            assert found(broker, "streamer/").keys() == left


def test_home_assistant_discovers_rules(tmp_path: Path) -> None:
    rules = {**LADDER, "quiet": RuleInfo(["gate"], "absence"), "sign": RuleInfo(["yard"], "text")}
    with Broker(tmp_path) as broker:
        with closing(opened(broker, rules, home_assistant=True)) as sink:
            sink.write(events("start"))
            retained = found(broker)
        components = json.loads(retained[DEVICE])["components"]
        del rules["ladder"]
        with closing(opened(broker, rules, home_assistant=True)) as sink:
            until(lambda: b'"name": "ladder"' not in found(broker, sink=sink)[DEVICE], FEW_S, "removed")
            later = json.loads(found(broker)[DEVICE])["components"]

    ladder, text = components["rule.ladder"], components["rule.ladder.text"]
    assert (ladder["device_class"], components["rule.quiet"]["device_class"]) == ("occupancy", "problem")
    assert retained[ladder["state_topic"]] == b"ON"
    attributes = json.loads(retained[ladder["json_attributes_topic"]])
    assert attributes["severity"] == "high"
    shown = jinja2.Template(text["value_template"]).render(value_json=json.loads(retained[text["state_topic"]]))
    assert shown == "a person with a ladder at gate"
    assert "rule.sign" not in components
    assert later["rule.ladder"] == {"platform": "binary_sensor"}, "Home Assistant removes a component like this"
    assert later["rule.ladder.text"] == {"platform": "sensor"}
    ids = [one["unique_id"] for one in components.values()]
    assert len(ids) == len(set(ids))


def test_home_assistant_acknowledges_with_a_button(tmp_path: Path) -> None:
    with Broker(tmp_path) as broker, Listener(broker.port) as listener:
        sinks = [{"kind": "mqtt", "url": broker.url, "commands": True, "home_assistant": True}]
        story = Story("visit", {"when": PERSON}, "0 person", [])
        config = from_mapping({**story.config().raw, "sinks": sinks})
        with Workers(tmp_path, config) as workers, EventClient(workers.runtime, "infer") as client:
            until((workers.runtime / "rules.sock").exists, START_S, "the rules process")
            device = json.loads(until(lambda: listener.retained(DEVICE), START_S, "discovery") or "")
            for one in story.events():
                client.send(one, None)
            assert client.flush(FEW_S)
            until(lambda: len(workers.incidents()) == 1, FEW_S, "the start")
            button = device["components"]["rule.story.ack"]
            publish(broker.port, button["command_topic"], button["payload_press"].encode(), retain=False)
            until(lambda: len(workers.incidents()) == 2, FEW_S, "the acknowledgement")
            assert workers.incidents()[1].data.acknowledged == "mqtt"
    assert (button["platform"], button["name"]) == ("button", "acknowledge story")


def test_discovery_has_only_what_the_sink_gets(tmp_path: Path) -> None:
    with Broker(tmp_path) as broker, closing(opened(broker, LADDER, home_assistant=True, only=["incidents"])) as sink:
        sink.idle()
        retained = found(broker, "homeassistant/")

    assert retained.keys() == {DEVICE}, "the yard has no rule"
    assert json.loads(retained[DEVICE])["components"].keys() == {"rule.ladder", "rule.ladder.text"}


def test_rule_on_a_further_stream_is_added(tmp_path: Path) -> None:
    """A task that is added while the agent runs can let a rule run on one more stream."""
    with Broker(tmp_path) as broker, closing(opened(broker, LADDER, home_assistant=True)) as sink:
        sink.write([(1, encode(status_event("home", "yard", "up"))), (2, encode(incident(stream="yard")))])
        retained = found(broker)

    device = json.loads(retained[DEVICE.replace("gate", "yard")])
    assert retained[device["components"]["rule.ladder"]["state_topic"]] == b"ON"


def test_incidents_outlive_a_broker_outage(tmp_path: Path) -> None:
    script = "0 person\n" + seconds(1, 5, "-") + "6 person\n" + seconds(7, 11, "-") + "12 person\n"
    story = Story("visits", {"when": PERSON, "grace": "2s"}, script, [])
    topic = "streamer/home/streams/gate/incident.story/status"
    with Broker(tmp_path) as broker, Listener(broker.port) as listener:
        config = from_mapping({**story.config().raw, "sinks": [{"kind": "mqtt", "url": broker.url}]})
        with Workers(tmp_path, config) as workers:
            until(lambda: position_of(workers.ledger, RULES) is not None, START_S, "emit has opened the ledger")
            told = story.events()
            with EventClient(workers.runtime, "infer") as client:
                client.send(told[0], None)
                assert client.flush(FEW_S)
                until(lambda: listener.retained(topic) == "ON", START_S, "the first start is published")
                broker.stop()
                for one in told[1:]:
                    client.send(one, None)
                assert client.flush(FEW_S)
                until(lambda: len(workers.incidents()) == 5, START_S, "all incidents are in the ledger")
                for role in (Role.EMIT, Role.RULES):
                    workers.kill(role)
                    workers.start(role)
            broker.start()
            ids = [one.id for one in workers.incidents()]
            until(lambda: len(received(listener)) == 5, START_S, "all incidents are published")
            assert received(listener) == ids
            until(lambda: listener.retained(topic) == "ON", FEW_S, "the last incident is open")
            with closing(LedgerQuery(workers.ledger)) as query:
                until(lambda: position_of(workers.ledger, "mqtt") == query.head(), FEW_S, "it is acknowledged")
            workers.kill(Role.EMIT)
            listener.messages.clear()
            workers.start(Role.EMIT)
            until(lambda: listener.retained(topic), START_S, "its state is published again")
            assert listener.retained(topic) == "ON"


def received(listener: Listener) -> list[str]:
    """Return the ids of incident events, in the order in which they came first."""
    bodies = [json.loads(one.body) for one in listener.messages if one.body.startswith(b'{"specversion"')]
    return list(dict.fromkeys(one["id"] for one in bodies if one["type"] == "streamer.incident.v1"))
