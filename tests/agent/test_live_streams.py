"""Streams that an agent is told to run or to give up while it runs, with all its processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamer.bus.commands import ListTasks, RunStreams
from streamer.bus.rpc import Message, RpcClient, control_socket
from tests.support import faulty
from tests.support.agents import (
    Event,
    RunningAgent,
    assert_identity,
    assert_no_duplicates,
    assert_no_holes,
    until,
)

STREAMS = ("gate", "yard", "roof")
START_S = 60.0
ANSWER_S = 10.0


class Home:
    """An agent that begins with no streams, and the connection of the one who commands it."""

    def __init__(self, folder: Path, first: str = "none", **keys: Any) -> None:
        camera = {"source": "synthetic?fps=20&size=64x48", "tasks": [{"task": "caption", "every": "100ms"}]}
        config = {
            "model": {"trace": str(folder / "trace")},
            "streams": dict.fromkeys(STREAMS, camera),
            "sinks": [{"kind": "jsonl", "path": str(folder / "events.jsonl")}],
        }
        file = folder / "home.yaml"
        file.write_text(json.dumps({**config, **keys}))
        environment = faulty.install(folder / "installed")
        arguments = ["run", str(file), "--streams", first]
        self.runtime = folder / "run" / "streamer" / "home"
        self.agent = RunningAgent(folder, arguments, folder / "events.jsonl", environment)
        self.client = RpcClient(control_socket(self.runtime))

    def close(self) -> None:
        self.client.close()
        self.agent.__exit__()

    def call(self, message: Message) -> Message:
        number = self.client.send(**message)

        def answer() -> Message | None:
            return next((one for one in self.client.receive() if one["id"] == number), None)

        found = until(answer, START_S, f"an answer; {self.agent.log()}")
        assert found is not None
        return found

    def run(self, *names: str, **keys: Any) -> Message:
        return self.call(RunStreams(names=list(names), by="the test", **keys).message())

    def running(self) -> Message:
        found: Message = self.call(ListTasks().message())["running"]
        return found

    def settled(self, *names: str) -> None:
        """Wait until exactly these streams run, each with its process."""

        def is_settled() -> bool:
            processes = {name for name in self.agent.children() if name.startswith("capture:")}
            return not self.running()["leaving"] and processes == {f"capture:{name}" for name in names}

        until(is_settled, 15, f"only {names} run; {self.agent.log()}")

    def answers(self, stream: str, timeout: float = ANSWER_S) -> None:
        """Wait for three more answers of a stream."""
        known = len(self.agent.results(stream))
        self.agent.wait_for_results(known + 3, timeout, stream)

    def states(self, stream: str) -> list[Event]:
        """Return what the stream's changes of state say, in their order."""
        found = [event for event in self.agent.events() if event["subject"].startswith("stream.")]
        return [event["data"] for event in found if event["data"]["stream"] == stream]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    home.close()


def test_streams_come_go_and_come_back(home: Home) -> None:
    agent = home.agent
    until(lambda: "infer" in agent.children(), START_S, agent.log())
    assert home.running() == {"running": [], "leaving": [], "epoch": None, "lease_left_s": None}
    assert home.run("gate", epoch=1)["running"] == ["gate"]
    home.answers("gate", START_S)
    first = agent.children()
    home.run("yard", "gate", epoch=2)
    home.answers("yard")
    answer = home.run("yard", epoch=3)
    assert (answer["running"], answer["leaving"]) == (["yard"], ["gate"])
    assert home.run("yard", epoch=3)["running"] == ["yard"], "the same command may come again"
    home.settled("yard")
    assert not list(home.runtime.glob("frames-gate.sock"))
    known = len(agent.results("gate"))
    home.answers("yard")
    assert len(agent.results("gate")) == known
    for late in ({"epoch": 2}, {}):
        assert "late" in home.run("gate", **late)["error"]
    assert "there is no stream `gat`" in home.run("gat", epoch=4)["error"]
    home.run("gate", epoch=5)
    home.answers("gate")
    home.settled("gate")
    assert agent.children()["infer"] == first["infer"], "the model stays warm"
    agent.stop()
    events = agent.events()
    assert_no_duplicates(events)
    assert_no_holes(events)
    gate, yard = home.states("gate"), home.states("yard")
    assert [state["state"] for state in gate] == ["up", "moved", "up", "stopped"], agent.log()
    assert [state["state"] for state in yard] == ["up", "moved"]
    assert gate[1]["reason"] == "decided by the test, epoch 3"
    for state in (gate[1], gate[3], yard[1]):
        assert_identity(state["frames"])
        assert state["frames"]["in_flight"] == 0
    changes = [event["data"]["streams"] for event in agent.statuses("streams.changed")]
    assert changes == [[], ["gate"], ["gate", "yard"], ["yard"], ["gate"]]
    assert not agent.statuses("worker.restarted")
