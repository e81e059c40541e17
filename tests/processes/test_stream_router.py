"""Handover of streams by the parent, with inference processes that the test plays on real sockets."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamer.bus.commands import Ask
from streamer.bus.rpc import Request, RpcServer, infer_socket
from streamer.bus.stream_state import NO_ROWS, QuarantineRows
from streamer.config.model import from_mapping
from streamer.core.errors import ConfigError
from streamer.inference import journal
from streamer.inference.journal import JobRow
from streamer.inference.placement import SETTLE_S
from streamer.inference.quarantine import PAUSE_S
from streamer.processes import agent_quarantine, stream_router
from streamer.processes.stream_router import StreamRouter, device_names
from streamer.types import Device
from tests.support.agents import until
from tests.support.sample_events import frame

SUSPECT: QuarantineRows = ([(("gate", "caption", None), 1)], [], [])
SCHEDULE = {"tasks": [{"task": "caption"}], "last": [1, 7], "triggers": {"caption": {"_last": 5.0}}}


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now + 1e9


class Agent:
    """The router of an agent with the streams `gate` and `yard`, and the sockets of its inference processes."""

    def __init__(self, folder: Path, *processes: str | None) -> None:
        camera = {"source": "synthetic", "tasks": [{"task": "caption"}]}
        self.folder = folder
        self.config = from_mapping({"streams": {"gate": camera, "yard": camera}})
        self.servers = {process: RpcServer(infer_socket(folder, process)) for process in processes}
        devices = {process: Device(f"device {process}", self.config.model) for process in processes}
        self.router = StreamRouter(folder, self.config, devices)

    def close(self) -> None:
        self.router.clients.close()
        for server in self.servers.values():
            server.close()

    def requests(self, process: str | None, count: int) -> list[Request]:
        """Return the next requests to a process."""
        found: list[Request] = []

        def arrived() -> bool:
            found.extend(self.servers[process].receive())
            return len(found) >= count

        until(arrived, 5, "requests")
        assert len(found) == count
        return found

    def request(self, process: str | None) -> Request:
        """Return the next request to a process."""
        (request,) = self.requests(process, 1)
        return request

    def reply(self, process: str | None, request: Request, **answer: Any) -> None:
        self.servers[process].reply(request, **answer)
        until(self.router.receive, 5, "the answer")

    def serve(self, process: str | None) -> dict[str, Any]:
        """Confirm the next request to a process, which is to serve a stream, and return it."""
        request = self.request(process)
        assert request.message["op"] == "serve"
        self.reply(process, request, served=True)
        return request.message

    def die(self, process: str | None, *running: str, rows: QuarantineRows = NO_ROWS, killed: bool = False) -> None:
        """End a process while its engine has the tasks of these streams."""
        jobs = [JobRow("caption", True, frame(stream)) for stream in running]
        name = "infer" if process is None else f"infer:{process}"
        journal.write(journal.journal_path(self.folder, name), journal.State(jobs, rows))
        self.router.on_exit(process, killed)

    def release(self, clock: Clock) -> Request:
        """Let process 0 be lost and come back; return the request to process 1 to release a stream to it."""
        self.die("0", killed=True)
        self.serve("1")
        self.router.on_ready("0")
        self.router.balance()
        clock.now += SETTLE_S
        self.router.balance()
        request = self.request("1")
        assert request.message["op"] == "release"
        return request


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (stream_router, agent_quarantine):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def agent(tmp_path: Path, clock: Clock) -> Iterator[Agent]:
    """An agent whose process 0 serves `gate`, and process 1 `yard`."""
    agent = Agent(tmp_path, "0", "1")
    for process, stream in (("0", "gate"), ("1", "yard")):
        agent.router.on_ready(process)
        assert agent.serve(process)["stream"] == stream
    yield agent
    agent.close()


def test_released_stream_takes_its_state_along(agent: Agent, clock: Clock) -> None:
    request = agent.release(clock)
    assert request.message["stream"] == "gate"
    with pytest.raises(ConfigError, match="no device has the stream `gate` at the moment"):
        agent.router.ask("gate", Ask(stream="gate", task={"task": "caption"}, seconds=5))
    agent.reply("1", request, released=True, schedule=SCHEDULE, quarantine=SUSPECT)
    command = agent.serve("0")
    assert (command["stream"], command["schedule"]) == ("gate", SCHEDULE)
    assert "since" not in command, "no process has died with it since"
    assert command["quarantine"] == [[[["gate", "caption", None], 1]], [], []]
    assert agent.router.devices_by_stream() == {"gate": "device 0", "yard": "device 1"}
    agent.router.add_process("0b", agent.router.devices["0"])
    assert device_names(agent.router.devices) == {"0": "device 0", "1": "device 1"}


def test_stream_stays_where_capture_did_not_confirm(agent: Agent, clock: Clock) -> None:
    agent.reply("1", agent.release(clock), released=False)
    assert agent.router.devices_by_stream() == {"gate": "device 1", "yard": "device 1"}
    assert not agent.servers["0"].receive()
    assert agent.router.ask("gate", Ask(stream="gate", task={"task": "caption"}, seconds=5)).process == "1"


def test_state_that_cannot_be_read_is_not_handed_over(agent: Agent, clock: Clock) -> None:
    request = agent.release(clock)
    agent.reply("1", request, released=True, schedule={"tasks": 5}, quarantine=[])
    command = agent.serve("0")
    assert command["stream"] == "gate"
    assert "schedule" not in command


def test_task_that_ends_two_processes_is_blocked_in_all(agent: Agent, clock: Clock) -> None:
    agent.die("0", "gate")
    suspects, _, _ = agent.serve("1")["quarantine"]
    assert suspects == [[["gate", "caption", None], 1]], "with the death of process 0"
    assert agent.router.quarantine.take_verdicts() == []
    agent.router.on_ready("0")
    agent.die("1", "gate", rows=SUSPECT)
    (verdict,) = agent.router.quarantine.take_verdicts()
    assert (verdict.suspect.stream, verdict.deaths, verdict.pause) == ("gate", 2, PAUSE_S)
    found = {request.message["stream"]: request.message["quarantine"] for request in agent.requests("0", 2)}
    task = ["gate", "caption", None]
    assert found == {"gate": [[], [[task, clock.now + PAUSE_S]], [[task, 1]]], "yard": [[], [], []]}


def test_suspect_that_finished_is_cleared_for_all(agent: Agent) -> None:
    agent.die("0", "gate")
    agent.serve("1")
    agent.router.on_ready("0")
    agent.die("1", "yard")
    assert agent.router.quarantine.rows() == ([(("yard", "caption", None), 1)], [], [])


def test_suspect_stays_one_until_a_process_knows_it(agent: Agent) -> None:
    agent.die("0", "gate")
    agent.die("1", "yard")  # before it has read that it should serve `gate`
    assert dict(agent.router.quarantine.rows()[0]) == {("gate", "caption", None): 1, ("yard", "caption", None): 1}


def test_deaths_without_a_job_are_not_counted(agent: Agent) -> None:
    agent.die("0", "gate", killed=True)
    assert agent.router.quarantine.rows() == NO_ROWS
    agent.serve("1")
    agent.router.on_ready("0")
    agent.die("0", "gate")
    agent.die("0", "gate")  # while it loads its model: the journal is that of the process before
    assert agent.router.quarantine.rows() == ([(("gate", "caption", None), 1)], [], [])
    assert agent.router.quarantine.take_verdicts() == []


def test_ended_stream_has_no_device_and_does_not_move(agent: Agent) -> None:
    agent.router.placement.end("gate")
    assert agent.router.devices_by_stream() == {"yard": "device 1"}
    agent.die("0")
    assert not agent.servers["1"].receive()


def test_only_process_gets_the_quarantine_at_its_start(tmp_path: Path, clock: Clock) -> None:
    agent = Agent(tmp_path, None)
    agent.router.on_ready(None)
    for _ in range(2):
        agent.die(None, "gate", rows=agent.router.state_at_start(None).quarantine)
        agent.router.on_ready(None)
    assert [verdict.suspect.name for verdict in agent.router.quarantine.take_verdicts()] == ["caption"]
    rows = agent.router.state_at_start(None).quarantine
    assert rows[1] == [(("gate", "caption", None), clock.now + PAUSE_S)]
    assert agent.router.devices_by_stream() == {}
    agent.router.add_process("b", agent.router.devices[None])
    assert device_names(agent.router.devices) == {}, "a process with another model is no further device"
    agent.close()


def test_agent_goes_on_with_the_quarantine_of_the_one_before(tmp_path: Path, clock: Clock) -> None:
    blocked: QuarantineRows = ([], [(("yard", "caption", (1, 2)), math.inf)], [])
    path = journal.journal_path(tmp_path, "infer")
    journal.write(path, journal.State([JobRow("caption", True, frame("gate"))], blocked))
    agent = Agent(tmp_path, None)
    assert agent.router.state_at_start(None)[1:] == (([(("gate", "caption", None), 1)], *blocked[1:]), None)
    agent.close()


def test_next_process_gets_the_time_of_the_death(agent: Agent, clock: Clock) -> None:
    died = [clock.now, clock.time()]
    agent.die("0")
    assert agent.serve("1")["since"] == died
    agent.die("1")
    clock.now += 30
    agent.die("0")  # it never came up again
    agent.router.on_ready("0")
    assert [request.message["since"] for request in agent.requests("0", 2)] == [died, died]


def test_only_process_gets_the_time_of_the_death(tmp_path: Path, clock: Clock) -> None:
    agent = Agent(tmp_path, None)
    agent.router.on_ready(None)
    died = (clock.now, clock.time())
    agent.die(None)
    clock.now += 30
    agent.die(None)  # while it loads its model
    assert agent.router.state_at_start(None).since == died
    agent.close()


def test_only_process_takes_and_gives_up_streams(tmp_path: Path) -> None:
    agent = Agent(tmp_path, None)
    router, cameras = agent.router, agent.config.streams
    assert router.state_at_start(None).serves == {"gate": None, "yard": None}
    router.on_ready(None)
    router.remove("gate")
    release = agent.request(None)
    assert (release.message["op"], release.message["stream"], release.message["is_final"]) == ("release", "gate", True)
    assert router.is_served("gate")
    agent.reply(None, release, released=True, schedule=None, quarantine=SUSPECT)
    assert not router.is_served("gate")
    router.add("gate", cameras["gate"], 7)
    serve = agent.request(None).message
    assert (serve["op"], serve["stream"], serve["lease"]) == ("serve", "gate", 7)
    assert serve["quarantine"][0], "a suspect stays one"
    router.remove("yard")
    assert agent.request(None).message["stream"] == "yard"
    agent.die(None)
    assert not router.is_served("yard"), "a dead process serves nothing"
    assert router.state_at_start(None).serves == {"gate": 7}
    router.remove("gate")  # while it loads its model
    assert not router.is_served("gate")
    router.add("gate", cameras["gate"], 8)
    router.on_ready(None)
    assert [request.message["op"] for request in agent.requests(None, 2)] == ["release", "serve"]
    agent.close()
