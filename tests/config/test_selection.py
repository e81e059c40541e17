"""The config of an agent that runs some of the streams."""

from __future__ import annotations

from typing import Any

import pytest

from streamer.config.model import Config, from_mapping
from streamer.config.selection import select_streams

TASK = {"task": "object_detection", "name": "objects"}


def config(**keys: Any) -> Config:
    streams: Any = {name: {"source": "synthetic", "tasks": [TASK]} for name in ("gate", "yard", "ramp")}
    return from_mapping({"agent": "home", "streams": streams, **keys})


def test_streams_outputs_and_agent_are_those_of_the_part() -> None:
    outputs = [{"kind": "mp4", "stream": name, "path": f"{name}.mp4"} for name in ("gate", "yard")]
    part = select_streams(config(outputs=outputs, sinks=[{"kind": "zmq"}]), ["yard", "ramp"], "home-1")
    assert list(part.streams) == ["yard", "ramp"]
    assert [output.stream for output in part.outputs] == ["yard"]
    assert part.name == "home-1"
    assert [sink.kind for sink in part.sinks] == ["zmq"]


@pytest.mark.parametrize("condition", [{"label": "red circle", "absent": "1s"}, {"stream": "down for 1m"}])
def test_rules_about_streams_of_others_are_left_out(condition: dict[str, Any]) -> None:
    whole = config(
        rules={
            "named": {"when": {**condition, "streams": ["gate"]}},
            "both": {"when": {**condition, "streams": ["gate", "ramp"]}},
            "all": {"when": condition},
        }
    )
    part = select_streams(whole, ["ramp"], "home-1")
    assert set(part.rules) == {"both", "all"}
    assert part.rules["both"].when.streams == ["ramp"]
    assert select_streams(whole, ["gate"], "home-0").rules.keys() == {"named", "both", "all"}


def test_tasks_that_rules_made_stay_and_are_not_made_twice() -> None:
    whole = config(rules={"ladder": {"when": {"see": "a ladder", "streams": ["gate", "yard"]}}})
    part = select_streams(whole, ["yard", "ramp"], "home-1")
    assert [task.name for task in part.streams["yard"].tasks] == [task.name for task in whole.streams["yard"].tasks]
    assert {stream for stream, _ in part.made} == {"yard"}
    assert [task.name for task in part.streams["ramp"].tasks] == ["objects"]


def test_parts_together_are_the_whole() -> None:
    whole = config(rules={"car": {"when": {"label": "red circle"}}})
    parts = [select_streams(whole, [name], f"home-{name}") for name in whole.streams]
    assert {name: stream for part in parts for name, stream in part.streams.items()} == whole.streams
    assert all(part.rules == whole.rules for part in parts)
