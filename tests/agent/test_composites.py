"""Tasks of several prompts that are in flight when their task, their stream or the inference process ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from streamer.bus.commands import RunStreams
from streamer.bus.rpc import Message, RpcClient, control_socket
from tests.support.agents import RunningAgent, assert_identity, assert_no_duplicates, until

START_S = 240.0
TASKS: list[dict[str, Any]] = [
    {"task": "grounded_caption", "name": "words"},
    {"task": "open_vocabulary_detection", "name": "sure", "text": ["a red ring", "a blue star"], "confirm": True},
    {"task": "object_detection", "name": "far", "tiles": "2x2", "then": [{"task": "region_to_category"}]},
]


def config(folder: Path) -> dict[str, Any]:
    """Two cameras whose tasks are always due, so that each of them is in flight at any moment."""
    tasks = [{**task, "every": "200ms"} for task in TASKS]
    camera = {"source": "synthetic?seed=7&fps=20&size=320x240", "tasks": tasks}
    return {
        "agent": "home",
        "streams": {"gate": camera, "yard": camera},
        "sinks": [{"kind": "jsonl", "path": str(folder / "events.jsonl")}],
    }


@pytest.mark.timeout(900)
def test_frames_of_ended_composites_are_counted_once(tmp_path: Path) -> None:
    file = tmp_path / "home.yaml"
    file.write_text(json.dumps(config(tmp_path)))
    with RunningAgent(tmp_path, ["run", str(file)], tmp_path / "events.jsonl") as agent:
        client = RpcClient(control_socket(tmp_path / "run" / "streamer" / "home"))

        def call(**message: Any) -> Message:
            number = client.send(**message)
            found = until(
                lambda: [one for one in client.receive() if one["id"] == number], START_S, f"a reply; {agent.log()}"
            )
            assert "error" not in found[0], found
            return found[0]

        def answered(stream: str, *names: str) -> None:
            """Wait for one more answer of each task."""
            known = len(agent.results())

            def all_answered() -> bool:
                data = [event["data"] for event in agent.results()[known:]]
                new = {one["name"] for one in data if one["stream"] == stream and one["outcome"] in ("ok", "empty")}
                return set(names) <= new

            until(all_answered, START_S, f"{names} of {stream} are answered; {agent.log()}")

        def stopped() -> list[dict[str, Any]]:
            return [one["data"]["frames"] for one in agent.statuses("stream.moved", "yard")]

        try:
            answered("gate", "words", "sure", "far")
            call(op="remove", stream="gate", name="sure")
            call(**RunStreams(names=["gate"], by="the test").message())
            until(stopped, START_S, f"yard is given up; {agent.log()}")
            call(**RunStreams(names=["gate", "yard"], by="the test").message())
            answered("yard", "words", "sure", "far")
            agent.kill("infer")
            answered("gate", "words")
        finally:
            client.close()
        agent.stop(60)
        assert_no_duplicates(agent.events())
        for frames in [*stopped(), *(one["data"]["frames"] for one in agent.statuses("stream.stopped"))]:
            assert_identity(frames)
            assert frames["in_flight"] == 0
