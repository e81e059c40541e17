"""MQTT discovery messages: Home Assistant adds and removes a device per stream, with sensors of its tasks and rules."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from streamer.events.sinks._base import EventKind, RuleSubject, SinkContext
from streamer.events.sinks._mqtt_topics import (
    ATTRIBUTES,
    STATUS,
    WORD,
    agent_device_id,
    command_topic,
    device_id,
    event_topic,
    mode_topic,
    rule_topic,
    stream_topic,
)
from streamer.types import ResultKind

_KEEP = "{% set r = value_json.data.result %}{% if r is none %}{{ this.state }}{% else %}{{ VALUE }}{% endif %}"
"""Template that keeps the state for an event without an answer."""
_TEXT = _KEEP.replace("VALUE", "(r.text or '')[:255]")  # Home Assistant's limit of a state
_COUNT = _KEEP.replace("VALUE", "(r.boxes + r.polygons + r.quads) | length")
_DEVICE_CLASSES: dict[RuleSubject, str] = {
    "objects": "occupancy",
    "absence": "problem",
    "down": "problem",
    "up": "connectivity",
}

DEVICES = "homeassistant/device/+/config"
"""Topics of all programs' discovery messages."""

_COMPONENT = re.compile(
    r"task\.[a-z0-9_-]{1,63}|rule\.[a-z0-9_-]{1,63}(?:\.(?:text|word|snooze|ack))?|mode|snooze|unsnooze"
)
"""Keys of the components that come and go with the config."""
_PLATFORMS = ("sensor", "binary_sensor", "select", "button")
_SNOOZE = "1h"
"""Duration of a snooze by a button."""
_AGENT = ""
"""Stands for the agent's own device among those of the streams."""

Component = dict[str, Any]


class Discovery:
    """One device per stream: its connection, a sensor per task, and a binary sensor, a text and a word per rule.

    The agent has a device with the mode of the rules. Rules and modes can be commanded if the sink accepts that.
    """

    def __init__(self, base: str, context: SinkContext, kinds: Collection[EventKind], commands: bool) -> None:
        """`base`: prefix of the agent's topics; `kinds`: of events that the sink gets; `commands`: it accepts some."""
        self._base, self._agent, self._kinds, self._commands = base, context.agent, kinds, commands
        self._modes = list(context.modes) if "statuses" in kinds else []
        self._asks = context.tasks.by_task
        self._known = context.rules
        self._tasks = {stream: dict(tasks) for stream, tasks in context.tasks.streams.items()}
        self._rules = {
            stream: [name for name, rule in context.rules.items() if stream in rule.streams] for stream in self._tasks
        }
        self._removed: dict[str, dict[str, Component]] = {owner: {} for owner in (*self._tasks, _AGENT)}
        """Content of a message for components that are gone, by stream and key."""
        self._replaced: set[str] = set()
        """Topics of which the message of an earlier run was handled; a broker has one at most."""

    def messages(self) -> dict[str, bytes]:
        """Return all retained messages by topic."""
        return {topic: body for topic, body in map(self._message, self._removed) if body}

    def on_event(self, event: Mapping[str, Any]) -> dict[str, bytes]:
        """Return the retained messages that change by an event."""
        data = event["data"]
        stream = data.get("stream")
        if stream not in self._tasks:
            return {}  # the agent no longer has this stream
        if event["subject"] in ("task.added", "task.removed"):
            return self._change_task(stream, data)
        rule = data.get("rule")
        if rule in self._known and rule not in self._rules[stream]:  # since a change of the tasks
            self._rules[stream].append(rule)
            return dict([self._message(stream)])
        return {}

    def replace_stale(self, topic: str, body: bytes) -> dict[str, bytes]:
        """Return the messages that replace one that the broker still retains from an earlier run.

        Empty for a message of another program, and for one without a removed stream, task or rule.
        """
        try:
            device = json.loads(body)
            is_own = device["availability_topic"] == f"{self._base}/{STATUS}"
            (identity,) = device["device"]["identifiers"]
            found = {
                name: {"platform": value["platform"]}
                for name, value in device["components"].items()
                if _COMPONENT.fullmatch(name) and len(value) > 1 and value["platform"] in _PLATFORMS
            }
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return {}
        is_own = is_own and str(identity).startswith(f"streamer_{self._agent}_")
        if not is_own or topic != _topic(str(identity)) or topic in self._replaced:
            return {}
        self._replaced.add(topic)
        owner = next((one for one in self._removed if self._identity(one) == identity), None)
        if owner is None or not self._components(owner):
            return {topic: b""}
        removed = {name: value for name, value in found.items() if name not in self._components(owner)}
        self._removed[owner] |= removed
        return dict([self._message(owner)]) if removed else {}

    def _change_task(self, stream: str, data: Mapping[str, Any]) -> dict[str, bytes]:
        task, tasks = data["task"], self._tasks[stream]
        if (kind := self._asks.get(data.get("asks", ""))) is not None and data["state"] == "added":
            tasks[task] = kind
        elif tasks.pop(task, None) is not None:
            self._removed[stream][f"task.{task}"] = {"platform": "sensor"}
        return dict([self._message(stream)])

    def _message(self, owner: str) -> tuple[str, bytes]:
        """Return topic and body of the message of a stream or the agent; the body is empty if it has no component."""
        identity = self._identity(owner)
        components = self._components(owner)
        device = {
            "device": {"identifiers": [identity], "name": owner or self._agent, "model": "streamer"},
            "origin": {"name": "streamer"},
            "availability_topic": f"{self._base}/{STATUS}",
            "components": {**self._removed[owner], **components},
        }
        return _topic(identity), json.dumps(device).encode() if components else b""

    def _identity(self, owner: str) -> str:
        return agent_device_id(self._agent) if owner == _AGENT else device_id(self._agent, owner)

    def _components(self, owner: str) -> dict[str, Component]:
        identity = self._identity(owner)
        return self._agent_components(identity) if owner == _AGENT else self._stream_components(identity, owner)

    def _stream_components(self, identity: str, stream: str) -> dict[str, Component]:
        prefix = stream_topic(self._base, stream)
        found: dict[str, Component] = {}
        if "statuses" in self._kinds:
            found["connection"] = _connection(identity, prefix)
        if "results" in self._kinds:
            # The prefix keeps a task called `connection` apart: names of tasks have no dot.
            found |= {f"task.{task}": _task(identity, prefix, task, kind) for task, kind in self._tasks[stream].items()}
        for rule in self._rules[stream]:
            unique_id, topic = f"{identity}.rule.{rule}", rule_topic(self._base, stream, rule)
            if "statuses" in self._kinds and (words := self._known[rule].words):
                found[f"rule.{rule}.word"] = _word(unique_id, topic, rule, words)
            if "incidents" not in self._kinds:
                continue
            found |= _rule(unique_id, topic, rule, self._known[rule].subject)
            if self._commands:
                place = {"rule": rule, "stream": stream, "for": _SNOOZE}
                found[f"rule.{rule}.snooze"] = self._button(
                    f"{unique_id}.snooze", f"snooze {rule} for {_SNOOZE}", "snooze", place
                )
                found[f"rule.{rule}.ack"] = self._button(
                    f"{unique_id}.ack", f"acknowledge {rule}", "ack", {"rule": rule, "stream": stream}
                )
        return found

    def _agent_components(self, identity: str) -> dict[str, Component]:
        mode: Component = {"name": "mode", "unique_id": f"{identity}.mode", "state_topic": mode_topic(self._base)}
        found: dict[str, Component] = {}
        if self._modes and self._commands:
            command = {"command_topic": command_topic(self._base, "mode"), "options": self._modes}
            found["mode"] = {"platform": "select", **mode, **command}
        elif self._modes:
            found["mode"] = {"platform": "sensor", **mode}
        if self._commands and self._known:
            found["snooze"] = self._button(
                f"{identity}.snooze", f"snooze all for {_SNOOZE}", "snooze", {"for": _SNOOZE}
            )
            found["unsnooze"] = self._button(f"{identity}.unsnooze", "end all snoozes", "snooze", {})
        return found

    def _button(self, unique_id: str, name: str, command: str, payload: Mapping[str, str]) -> Component:
        return {
            "platform": "button",
            "name": name,
            "unique_id": unique_id,
            "command_topic": command_topic(self._base, command),
            "payload_press": json.dumps(payload),
        }


def _topic(identity: str) -> str:
    return DEVICES.replace("+", identity)


def _connection(identity: str, prefix: str) -> Component:
    return {
        "platform": "binary_sensor",
        "device_class": "connectivity",
        "unique_id": identity,
        "state_topic": f"{prefix}/{STATUS}",
        "value_template": "{{ 'ON' if value == 'up' else 'OFF' }}",
    }


def _task(identity: str, prefix: str, task: str, kind: ResultKind) -> Component:
    return {
        "platform": "sensor",
        "name": task,
        "unique_id": f"{identity}.{task}",
        "state_topic": event_topic(prefix, task),
        "value_template": _TEXT if kind == "text" else _COUNT,
        "json_attributes_topic": event_topic(prefix, task),
        "json_attributes_template": "{{ value_json.data | tojson }}",
    }


def _rule(unique_id: str, topic: str, rule: str, subject: RuleSubject | None) -> dict[str, Component]:
    """Return the components of a rule on a stream: on or off, and the text of the newest incident."""
    state: Component = {
        "platform": "binary_sensor",
        "name": rule,
        "unique_id": unique_id,
        "state_topic": f"{topic}/{STATUS}",
        "json_attributes_topic": f"{topic}/{ATTRIBUTES}",
    }
    if subject in _DEVICE_CLASSES:
        state["device_class"] = _DEVICE_CLASSES[subject]
    text = {
        "platform": "sensor",
        "name": f"{rule} text",
        "unique_id": f"{unique_id}.text",
        "state_topic": f"{topic}/{ATTRIBUTES}",
        "value_template": "{{ value_json.text[:255] }}",
    }
    return {f"rule.{rule}": state, f"rule.{rule}.text": text}


def _word(unique_id: str, topic: str, rule: str, words: Sequence[str]) -> Component:
    return {
        "platform": "sensor",
        "device_class": "enum",
        "options": list(words),
        "name": f"{rule} state",
        "unique_id": f"{unique_id}.word",
        "state_topic": f"{topic}/{WORD}",
    }
