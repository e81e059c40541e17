"""MQTT discovery messages, by which Home Assistant adds and removes devices for streams and sensors for tasks."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from streamer.events.sinks._base import TaskKinds
from streamer.events.sinks._mqtt_topics import STATUS, device_id, event_topic
from streamer.types import ResultKind

_KEEP = "{% set r = value_json.data.result %}{% if r is none %}{{ this.state }}{% else %}{{ VALUE }}{% endif %}"
"""Template that keeps the state for an event without an answer."""
_TEXT = _KEEP.replace("VALUE", "(r.text or '')[:255]")  # Home Assistant's limit of a state
_COUNT = _KEEP.replace("VALUE", "(r.boxes + r.polygons + r.quads) | length")

DEVICES = "homeassistant/device/+/config"
"""Topics of all programs' discovery messages."""

_NAME = re.compile(r"[a-z0-9_-]{1,63}")

_SENSOR = {"platform": "sensor"}
"""Alone, it makes Home Assistant remove the sensor."""


class Discovery:
    """One device per stream, with its connection and a sensor per task."""

    def __init__(self, base: str, agent: str, tasks: TaskKinds) -> None:
        """`base`: prefix of the agent's topics."""
        self._base, self._agent, self._kinds = base, agent, tasks.by_task
        self._tasks: dict[str, dict[str, ResultKind | None]] = {name: {**one} for name, one in tasks.streams.items()}
        """Result kind by stream and task name; None: removed, which its message has to state."""
        self._replaced: set[str] = set()
        """Topics of which the message of an earlier run was handled; a broker has one at most."""

    def messages(self) -> dict[str, bytes]:
        """Return all retained messages by topic."""
        return dict(map(self._message, self._tasks))

    def on_task_event(self, event: Mapping[str, Any]) -> dict[str, bytes]:
        """Return the retained messages that change by a `task.added` or `task.removed`."""
        data = event["data"]
        tasks = self._tasks.get(data["stream"])
        if tasks is None:
            return {}  # the agent no longer has this stream
        tasks[data["task"]] = self._kinds.get(data.get("asks")) if data["state"] == "added" else None
        return dict([self._message(data["stream"])])

    def replace_stale(self, topic: str, body: bytes) -> dict[str, bytes]:
        """Return the messages that replace one that the broker still retains from an earlier run.

        Empty for a message of another program, and for one without a removed stream or task.
        """
        try:
            device = json.loads(body)
            is_own = device["availability_topic"] == f"{self._base}/{STATUS}"
            (identity,) = device["device"]["identifiers"]
            sensors = {
                name for name, value in device["components"].items() if name.startswith("task.") and value != _SENSOR
            }
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return {}
        is_own = is_own and str(identity).startswith(f"streamer_{self._agent}_")
        if not is_own or topic != _topic(str(identity)) or topic in self._replaced:
            return {}
        self._replaced.add(topic)
        stream = next((one for one in self._tasks if device_id(self._agent, one) == identity), None)
        if stream is None:
            return {topic: b""}
        tasks = self._tasks[stream]
        removed = {name.removeprefix("task.") for name in sensors} - tasks.keys()
        tasks.update(dict.fromkeys(filter(_NAME.fullmatch, removed)))
        return dict([self._message(stream)]) if removed else {}

    def _message(self, stream: str) -> tuple[str, bytes]:
        identity = device_id(self._agent, stream)
        return _topic(identity), json.dumps(_device(self._base, identity, stream, self._tasks[stream])).encode()


def _topic(identity: str) -> str:
    return DEVICES.replace("+", identity)


def _device(base: str, identity: str, stream: str, tasks: Mapping[str, ResultKind | None]) -> dict[str, Any]:
    prefix = f"{base}/streams/{stream}"
    connection = {
        "platform": "binary_sensor",
        "device_class": "connectivity",
        "unique_id": identity,
        "state_topic": f"{prefix}/{STATUS}",
        "value_template": "{{ 'ON' if value == 'up' else 'OFF' }}",
    }
    sensors = {
        # The prefix keeps a task called `connection` apart: names of tasks have no dot.
        f"task.{task}": {
            **_SENSOR,
            "name": task,
            "unique_id": f"{identity}.{task}",
            "state_topic": event_topic(prefix, task),
            "value_template": _TEXT if kind == "text" else _COUNT,
            "json_attributes_topic": event_topic(prefix, task),
            "json_attributes_template": "{{ value_json.data | tojson }}",
        }
        if kind is not None
        else _SENSOR
        for task, kind in tasks.items()
    }
    return {
        "device": {"identifiers": [identity], "name": stream, "model": "streamer"},
        "origin": {"name": "streamer"},
        "availability_topic": f"{base}/{STATUS}",
        "components": {"connection": connection, **sensors},
    }
