"""Streams that an agent is told to run or to give up while it runs, with all its processes."""

from __future__ import annotations

import json
import os
import random
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
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
from tests.support.ports import free_port

STREAMS = ("gate", "yard", "roof")
START_S = 100.0


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def boot_time() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


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

        until(is_settled, START_S, f"only {names} run; {self.agent.log()}")

    def answers(self, stream: str) -> None:
        """Wait for three more answers of a stream."""
        known = len(self.agent.results(stream))
        self.agent.wait_for_results(known + 3, START_S, stream)

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
    home.answers("gate")
    first = agent.children()
    home.run("yard", "gate", epoch=2)
    home.answers("yard")
    answer = home.run("yard", epoch=3)
    assert (answer["running"], answer["leaving"]) == (["yard"], ["gate"])
    assert home.run("yard", epoch=3)["running"] == ["yard"], "the same command may come again"
    home.settled("yard")
    assert not list(home.runtime.glob("frames-gate.sock"))
    until(lambda: agent.statuses("stream.moved", "gate"), START_S, "the stream has moved")
    home.answers("yard")
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


def test_changes_and_kills_end_in_the_commanded_streams(home: Home) -> None:
    agent, chance = home.agent, random.Random(7)
    until(lambda: "infer" in agent.children(), START_S, agent.log())
    wanted: list[str] = []
    for epoch in range(1, 21):
        wanted = [name for name in STREAMS if chance.random() < 0.5]
        assert home.run(*wanted, epoch=epoch)["running"] == wanted
        if victims := sorted(name for name in agent.children() if name.partition(":")[0] in ("infer", "capture")):
            with suppress(ProcessLookupError, KeyError):  # it ends just now
                agent.kill(chance.choice(victims))
    home.run("gate", "roof", epoch=21)
    home.settled("gate", "roof")
    for stream in ("gate", "roof"):
        home.answers(stream)
    home.run(epoch=22)
    home.settled()
    assert not [path.name for path in home.runtime.glob("frames-*.sock")]
    agent.stop()
    assert_no_duplicates(agent.events())
    assert_no_holes(agent.events())
    for stream in STREAMS:
        states = home.states(stream)
        assert states[-1]["state"] == "moved"
        assert "down" not in [state["state"] for state in states]
        for frames in [state["frames"] for state in states if state["state"] == "moved" and state["frames"]]:
            assert_identity(frames)
            assert frames["in_flight"] == 0


def test_many_changes_leave_nothing_behind(home: Home) -> None:
    agent = home.agent
    home.run("gate", "yard", epoch=1)
    home.settled("gate", "yard")
    home.answers("gate")
    parent, infer = agent.process.pid, agent.children()["infer"]

    def descriptors() -> tuple[int, int]:
        return open_files(parent), open_files(infer)

    for epoch in range(2, 26):
        names = ("gate", "yard") if epoch % 2 else ("gate",)
        home.run(*names, epoch=epoch)
        until(lambda: not home.running()["leaving"], START_S, "the stream is gone")
        if epoch == 7:
            home.settled("gate", "yard")
            before = descriptors()
    home.settled("gate", "yard")
    home.answers("yard")
    until(lambda: all(now <= then + 2 for now, then in zip(descriptors(), before, strict=True)), START_S, "a leak")
    buffers = [path.name for path in (home.runtime / "buffers").iterdir()]
    assert all(str(infer) in name for name in buffers), buffers


def test_lease_that_is_not_renewed_ends_the_streams(home: Home) -> None:
    home.run("gate", epoch=1, lease_s=600)
    home.answers("gate")
    assert {event["data"]["lease"] for event in home.agent.results("gate")} == {1}
    home.run("gate", epoch=1, lease_s=1)
    until(lambda: not home.running()["running"], START_S, "the lease is over")
    home.settled()
    state = until(lambda: home.states("gate")[-1:] if len(home.states("gate")) > 1 else [], START_S, "its end")[0]
    assert (state["state"], state["lease"], state["reason"]) == ("moved", 1, "the lease was not renewed in time")
    os.kill(home.agent.process.pid, signal.SIGSTOP)
    home.client.send(**RunStreams(names=["gate"], by="boxa", epoch=2, lease_s=0.2, since=boot_time()).message())
    time.sleep(0.5)  # the command waits, and its lease ends meanwhile
    os.kill(home.agent.process.pid, signal.SIGCONT)
    answer = until(home.client.receive, START_S, "an answer")[-1]
    assert "is over already" in answer["error"]
    assert home.running()["running"] == []


def test_page_and_probes_know_which_streams_run_here(tmp_path: Path) -> None:
    port = free_port()
    home = Home(tmp_path, web={"bind": f"127.0.0.1:{port}"})

    def get(path: str) -> tuple[int, dict[str, Any]]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)
        except OSError:
            return 0, {}

    def state_of(stream: str) -> str:
        return str(get("/healthz")[1].get("streams", {}).get(stream))

    def is_answering(status: int, ready: dict[str, Any]) -> bool:
        return status == 200 and ready["status"] == "ready" and "answer_age_s" in ready

    until(lambda: get("/readyz")[0] == 200, START_S, "an agent without streams is ready")
    assert get("/healthz")[1]["streams"] == dict.fromkeys(STREAMS, "elsewhere")
    home.run("gate")
    until(lambda: state_of("gate") == "live", START_S, "it is live")
    until(lambda: is_answering(*get("/readyz")), START_S, "it answers")
    home.run("yard")
    until(lambda: state_of("gate") == "elsewhere", START_S, "it is gone")
    listed = {stream["name"]: stream["state"] for stream in get("/api/streams")[1]["streams"]}
    assert (listed["gate"], listed["roof"]) == ("elsewhere", "elsewhere")
    assert get("/healthz")[0] == 200
    home.close()
