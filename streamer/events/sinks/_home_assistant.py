"""What Home Assistant's MQTT integration has to be told so that streams and tasks appear there by themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from streamer.types import ResultKind

_KEEP = "{% set r = value_json.data.result %}{% if r is none %}{{ this.state }}{% else %}{{ VALUE }}{% endif %}"
"""An event without an answer leaves the state as it is."""
_TEXT = _KEEP.replace("VALUE", "(r.text or '')[:255]")  # as long as a state can be
_COUNT = _KEEP.replace("VALUE", "(r.boxes + r.polygons + r.quads) | length")

DEVICES = "homeassistant/device/+/config"
"""Where all programs tell Home Assistant of their devices."""

_SENSOR = {"platform": "sensor"}
"""With nothing more, it removes a sensor that was there."""


class Discovery:
    """One device per stream, with its connection and a sensor per task."""

    def __init__(
        self,
        base: str,
        agent: str,
        streams: Mapping[str, Mapping[str, ResultKind]],
        kinds: Mapping[str, ResultKind],
    ) -> None:
        """`base` is what the agent's topics begin with; `streams` says what each task of each stream gives."""
        self._base, self._agent, self._kinds = base, agent, kinds
        self._tasks: dict[str, dict[str, ResultKind | None]] = {name: {**tasks} for name, tasks in streams.items()}
        """None: it was removed, which Home Assistant has to be told."""

    def messages(self) -> dict[str, bytes]:
        """All retained messages, by topic."""
        return dict(map(self._message, self._tasks))

    def change(self, event: Mapping[str, Any]) -> dict[str, bytes]:
        """The retained messages that a `task.added` or `task.removed` makes."""
        data = event["data"]
        tasks = self._tasks.get(data["stream"])
        if tasks is None:
            return {}  # of a stream that the agent has no more
        tasks[data["task"]] = self._kinds.get(data.get("asks")) if data["state"] == "added" else None
        return dict([self._message(data["stream"])])

    def correct(self, topic: str, body: bytes) -> dict[str, bytes]:
        """What has to be retained in place of what the broker still has of an earlier run.

        Nothing when it is another program's, or names no stream or task that is gone.
        """
        try:
            device = json.loads(body)
            ours = device["availability_topic"] == f"{self._base}/status"
            (identity,) = device["device"]["identifiers"]
            sensors = {
                name for name, value in device["components"].items() if name.startswith("task.") and value != _SENSOR
            }
        except (ValueError, LookupError, TypeError, AttributeError):
            return {}
        stream = str(identity).removeprefix(f"streamer_{self._agent}_")
        if not ours or topic != self._topic(stream):
            return {}
        tasks = self._tasks.get(stream)
        if tasks is None:
            return {topic: b""}
        gone = {name.removeprefix("task.") for name in sensors} - tasks.keys()
        tasks.update(dict.fromkeys(gone))
        return dict([self._message(stream)]) if gone else {}

    def _topic(self, stream: str) -> str:
        return DEVICES.replace("+", self._identity(stream))

    def _identity(self, stream: str) -> str:
        return f"streamer_{self._agent}_{stream}"

    def _message(self, stream: str) -> tuple[str, bytes]:
        device = _device(self._base, self._identity(stream), stream, self._tasks[stream])
        return self._topic(stream), json.dumps(device).encode()


def _device(base: str, identity: str, stream: str, tasks: Mapping[str, ResultKind | None]) -> dict[str, Any]:
    place = f"{base}/streams/{stream}"
    connection = {
        "platform": "binary_sensor",
        "device_class": "connectivity",
        "unique_id": identity,
        "state_topic": f"{place}/status",
        "value_template": "{{ 'ON' if value == 'up' else 'OFF' }}",
    }
    sensors = {
        # A task may not be called `connection` too: a dot is in no task's name.
        f"task.{task}": {
            **_SENSOR,
            "name": task,
            "unique_id": f"{identity}.{task}",
            "state_topic": f"{place}/{task}",
            "value_template": _TEXT if kind == "text" else _COUNT,
            "json_attributes_topic": f"{place}/{task}",
            "json_attributes_template": "{{ value_json.data | tojson }}",
        }
        if kind is not None
        else _SENSOR
        for task, kind in tasks.items()
    }
    return {
        "device": {"identifiers": [identity], "name": stream, "model": "streamer"},
        "origin": {"name": "streamer"},
        "availability_topic": f"{base}/status",
        "components": {"connection": connection, **sensors},
    }
