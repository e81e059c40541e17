"""Commands to the rules by MQTT, with a real broker."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from streamer.config.model import from_mapping
from streamer.core.errors import ConfigError
from streamer.core.redact import Url
from streamer.events.sinks import IdleSink, Mqtt, ReportingSink, RuleInfo, RulesState, TaskKinds
from streamer.events.sinks import _mqtt_commands as module
from tests.support.agents import until
from tests.support.broker import Broker, Listener, publish
from tests.support.rules_process import Workers
from tests.support.sinks import RecordedProgress, sink_context
from tests.support.stories import STORIES

BASE = "streamer/home/rules"
FEW_S, START_S = 60.0, 60.0


class Rules:
    """Stands in for the rules process: records commands and refuses the mode `awy`."""

    def __init__(self) -> None:
        self.commands: list[dict[str, Any]] = []
        self.reports: list[str] = []

    def command(self, data: Mapping[str, Any]) -> str:
        if data.get("mode") == "awy":
            raise ConfigError("there is no mode `awy`")
        self.commands.append(dict(data))
        return "done"

    def opened(self, broker: Broker, **keys: Any) -> IdleSink:
        context = sink_context(
            tasks=TaskKinds({}, {"gate": {}}),
            rules={"ladder": RuleInfo(["gate"])},
            modes=("home", "away"),
            rules_state=lambda _: RulesState("away"),
            command_rules=self.command,
        )
        sink = Mqtt(url=Url(broker.url), **keys).open(context, RecordedProgress())
        assert isinstance(sink, IdleSink)
        assert isinstance(sink, ReportingSink)
        return sink


def handled(sink: IdleSink, rules: Rules) -> Rules:
    """Return what the rules have received, after the sink has handled what has arrived."""
    sink.idle()
    if isinstance(sink, ReportingSink) and (report := sink.report()) is not None:
        rules.reports.append(report[1])
    return rules


def test_commands_arrive_and_retained_ones_do_not(tmp_path: Path) -> None:
    rules = Rules()
    with Broker(tmp_path) as broker:
        publish(broker.port, f"{BASE}/mode/set", b"home")
        with closing(rules.opened(broker, commands=True)) as sink:
            sink.idle()
            publish(broker.port, f"{BASE}/mode/set", b"away", retain=False)
            publish(broker.port, f"{BASE}/snooze/set", b"1h", retain=False)
            publish(broker.port, f"{BASE}/snooze/set", b'{"rule": "ladder", "stream": "gate"}', retain=False)
            publish(broker.port, f"{BASE}/ack/set", b"c0ffee00", retain=False)
            publish(broker.port, f"{BASE}/ack/set", b'{"rule": "ladder", "stream": "gate"}', retain=False)
            publish(broker.port, f"{BASE}/other/set", b"1", retain=False)
            until(lambda: len(handled(sink, rules).commands) == 5, FEW_S, "all commands")

    expected = [
        {"by": "mqtt", "op": "mode", "mode": "away"},
        {"by": "mqtt", "op": "snooze", "rule": None, "stream": None, "seconds": 3600.0},
        {"by": "mqtt", "op": "snooze", "rule": "ladder", "stream": "gate", "seconds": None},
        {"by": "mqtt", "op": "ack", "incident": "c0ffee00"},
        {"by": "mqtt", "op": "ack", "rule": "ladder", "stream": "gate"},
    ]
    assert rules.commands == expected
    assert rules.reports == []


def test_wrong_commands_are_reported(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "REPORT_EVERY_S", 0.0)
    wrong = {
        b"awy": ("mode", "there is no mode `awy`"),
        b"\xff\xfe": ("mode", "must be text in UTF-8"),
        b"x" * 2000: ("ack", "longer than 1024 bytes"),
        b"{": ("snooze", "is not JSON"),
        b'{"a":' * 200: ("snooze", "is not JSON"),
        b"soon": ("snooze", "must be a duration such as 500ms, 1s or 5m"),
        b'{"for": [1]}': ("snooze", "must be a duration such as 500ms, 1s or 5m"),
        b'{"unknown": 1}': ("snooze", "unknown key `unknown`"),
        b'{"incident": "c0ffee00"}': ("ack", "unknown key `incident`: `rule` and `stream` are possible"),
        b'{"for": NaN}': ("snooze", "must be longer than zero"),
        b"": ("snooze", "must be a duration"),
        b'{"rule": [1], "for": "1h"}': ("snooze", "`rule` must be a name"),
        b'{"rule": "r", "stream": "%b"}' % (b"x" * 65): ("ack", "`stream` must be a name"),
    }
    rules = Rules()
    with Broker(tmp_path) as broker, closing(rules.opened(broker, commands=True)) as sink:
        sink.idle()
        for body, (command, _) in wrong.items():
            publish(broker.port, f"{BASE}/{command}/set", body, retain=False)
        until(lambda: len(handled(sink, rules).reports) == len(wrong), FEW_S, "all are refused")

    assert rules.commands == []
    for report, (command, reason) in zip(rules.reports, wrong.values(), strict=True):
        assert f"the command on {BASE}/{command}/set is refused: {reason}" in report


def test_flood_of_commands_is_bounded(tmp_path: Path) -> None:
    rules = Rules()
    with Broker(tmp_path) as broker, closing(rules.opened(broker, commands=True)) as sink:
        sink.idle()
        for _ in range(50):
            publish(broker.port, f"{BASE}/mode/set", b"away", retain=False)
        for _ in range(60):
            handled(sink, rules)

    assert len(rules.commands) == module.MAX_WAITING
    assert len(rules.reports) < 5


@pytest.mark.parametrize("commands", [True, False])
def test_home_assistant_can_command_only_if_allowed(tmp_path: Path, commands: bool) -> None:
    topic = "homeassistant/device/streamer_home_R/config"
    with (
        Broker(tmp_path) as broker,
        Listener(broker.port) as listener,
        closing(Rules().opened(broker, commands=commands, home_assistant=True)) as sink,
    ):
        sink.idle()
        components = json.loads(until(lambda: listener.retained(topic), FEW_S, "discovery") or "")["components"]
        until(lambda: listener.retained(components["mode"]["state_topic"]) == "away", FEW_S, "the mode")

    platforms = {key: one["platform"] for key, one in components.items()}
    if commands:
        assert platforms == {"mode": "select", "snooze": "button", "unsnooze": "button"}
        assert components["mode"]["options"] == ["home", "away"]
        assert json.loads(components["snooze"]["payload_press"]) == {"for": "1h"}
    else:
        assert platforms == {"mode": "sensor"}


def test_mode_is_switched_by_a_message(tmp_path: Path) -> None:
    with Broker(tmp_path) as broker, Listener(broker.port) as listener:
        sinks = [{"kind": "mqtt", "url": broker.url, "commands": True}]
        config = from_mapping({**STORIES[0].config().raw, "modes": ["home", "away"], "sinks": sinks})
        with Workers(tmp_path, config) as workers:
            until(lambda: listener.retained(f"{BASE}/mode") == "home", START_S, "the first mode")
            until((workers.runtime / "rules.sock").exists, START_S, "the rules process")
            publish(broker.port, f"{BASE}/mode/set", b"awy", retain=False)
            publish(broker.port, f"{BASE}/mode/set", b"away", retain=False)
            until(lambda: listener.retained(f"{BASE}/mode") == "away", START_S, "the mode")
            refusal = json.loads(
                until(lambda: listener.retained("streamer/home/sinks/mqtt/sink.command_refused"), FEW_S, "the refusal")
                or ""
            )
            assert "there is no mode `awy` (did you mean `away`?)" in refusal["data"]["reason"]
