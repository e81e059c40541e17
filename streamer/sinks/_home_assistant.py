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


def discovery(base: str, agent: str, streams: Mapping[str, Mapping[str, ResultKind]]) -> dict[str, bytes]:
    """Retained messages by topic: one device per stream, with its connection and a sensor per task.

    `base` is what the agent's topics begin with; `streams` says what each task of each stream gives.
    """
    return {
        f"homeassistant/device/streamer_{agent}_{stream}/config": json.dumps(
            _device(base, f"streamer_{agent}_{stream}", stream, tasks)
        ).encode()
        for stream, tasks in streams.items()
    }


def _device(base: str, identity: str, stream: str, tasks: Mapping[str, ResultKind]) -> dict[str, Any]:
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
            "platform": "sensor",
            "name": task,
            "unique_id": f"{identity}.{task}",
            "state_topic": f"{place}/{task}",
            "value_template": _TEXT if kind == "text" else _COUNT,
            "json_attributes_topic": f"{place}/{task}",
            "json_attributes_template": "{{ value_json.data | tojson }}",
        }
        for task, kind in tasks.items()
    }
    return {
        "device": {"identifiers": [identity], "name": stream, "model": "streamer"},
        "origin": {"name": "streamer"},
        "availability_topic": f"{base}/status",
        "components": {"connection": connection, **sensors},
    }
