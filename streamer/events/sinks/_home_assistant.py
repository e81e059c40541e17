"""MQTT discovery messages: Home Assistant adds and removes a device per stream, with sensors of its tasks and rules."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from streamer.events.sinks._base import EventKind, RuleSubject, SinkContext
from streamer.events.sinks._mqtt_topics import ATTRIBUTES, STATUS, device_id, event_topic, rule_topic, stream_topic
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

_COMPONENT = re.compile(r"(?:task\.[a-z0-9_-]{1,63}|rule\.[a-z0-9_-]{1,63}(?:\.text)?)")
"""Keys of the components that come and go with the config."""

Component = dict[str, Any]


class Discovery:
    """One device per stream: its connection, a sensor per task, and a binary sensor and a text per rule."""

    def __init__(self, base: str, context: SinkContext, kinds: Collection[EventKind]) -> None:
        """`base`: prefix of the agent's topics; `kinds`: of the events that the sink gets."""
        self._base, self._agent, self._kinds = base, context.agent, kinds
        self._asks = context.tasks.by_task
        self._subjects = {name: rule.subject for name, rule in context.rules.items()}
        self._tasks = {stream: dict(tasks) for stream, tasks in context.tasks.streams.items()}
        self._rules = {
            stream: [name for name, rule in context.rules.items() if stream in rule.streams] for stream in self._tasks
        }
        self._removed: dict[str, dict[str, Component]] = {stream: {} for stream in self._tasks}
        """Content of a message for components that are gone, by stream and key."""
        self._replaced: set[str] = set()
        """Topics of which the message of an earlier run was handled; a broker has one at most."""

    def messages(self) -> dict[str, bytes]:
        """Return all retained messages by topic."""
        return {topic: body for topic, body in map(self._message, self._tasks) if body}

    def on_event(self, event: Mapping[str, Any]) -> dict[str, bytes]:
        """Return the retained messages that change by an event."""
        data = event["data"]
        stream = data.get("stream")
        if stream not in self._tasks:
            return {}  # the agent no longer has this stream
        if event["subject"] in ("task.added", "task.removed"):
            return self._change_task(stream, data)
        rule = data.get("rule")
        if rule in self._subjects and rule not in self._rules[stream]:  # since a change of the tasks
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
                if _COMPONENT.fullmatch(name) and len(value) > 1 and value["platform"] in ("sensor", "binary_sensor")
            }
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return {}
        is_own = is_own and str(identity).startswith(f"streamer_{self._agent}_")
        if not is_own or topic != _topic(str(identity)) or topic in self._replaced:
            return {}
        self._replaced.add(topic)
        stream = next((one for one in self._tasks if device_id(self._agent, one) == identity), None)
        if stream is None or not self._components(stream):
            return {topic: b""}
        removed = {name: value for name, value in found.items() if name not in self._components(stream)}
        self._removed[stream] |= removed
        return dict([self._message(stream)]) if removed else {}

    def _change_task(self, stream: str, data: Mapping[str, Any]) -> dict[str, bytes]:
        task, tasks = data["task"], self._tasks[stream]
        if (kind := self._asks.get(data.get("asks", ""))) is not None and data["state"] == "added":
            tasks[task] = kind
        elif tasks.pop(task, None) is not None:
            self._removed[stream][f"task.{task}"] = {"platform": "sensor"}
        return dict([self._message(stream)])

    def _message(self, stream: str) -> tuple[str, bytes]:
        """Return topic and body of a stream's message; the body is empty if nothing of the stream is published."""
        identity = device_id(self._agent, stream)
        components = self._components(stream)
        device = {
            "device": {"identifiers": [identity], "name": stream, "model": "streamer"},
            "origin": {"name": "streamer"},
            "availability_topic": f"{self._base}/{STATUS}",
            "components": {**self._removed[stream], **components},
        }
        return _topic(identity), json.dumps(device).encode() if components else b""

    def _components(self, stream: str) -> dict[str, Component]:
        identity, prefix = device_id(self._agent, stream), stream_topic(self._base, stream)
        found: dict[str, Component] = {}
        if "statuses" in self._kinds:
            found["connection"] = _connection(identity, prefix)
        if "results" in self._kinds:
            # The prefix keeps a task called `connection` apart: names of tasks have no dot.
            found |= {f"task.{task}": _task(identity, prefix, task, kind) for task, kind in self._tasks[stream].items()}
        for rule in self._rules[stream] if "incidents" in self._kinds else ():
            found |= _rule(f"{identity}.rule.{rule}", rule_topic(self._base, stream, rule), rule, self._subjects[rule])
        return found


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
