"""Handover of a stream between two inference processes, with its real capture; the test is their parent."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from streamer.bus.commands import Ask, ReleaseStream, ServeStream, SetTasks
from streamer.bus.event_channel import EventServer
from streamer.bus.rpc import Message, RpcClient, infer_socket
from streamer.bus.stream_state import QuarantineRows, ScheduleState
from streamer.config.model import from_mapping
from streamer.events.schema import ResultEvent, StatusEvent
from streamer.inference import handover
from streamer.inference.in_flight import JobState
from streamer.processes.assignment import Assignment
from streamer.processes.capture import Capture
from streamer.processes.infer import Inference
from streamer.processes.worker import Worker
from streamer.types import FrameId, Job
from tests.processes.test_infer import Device
from tests.support.agents import assert_identity, until

TASKS = [
    {"task": "caption", "every": "1h"},
    {"task": "ocr", "every_n_frames": 60},
    {"task": "detailed_caption", "every": "100ms"},
]
BLOCKED: QuarantineRows = ([], [(("gate", "caption", None), 1e9)], [(("gate", "caption", None), 1)])


class RecordingDevice(Device):
    def __init__(self) -> None:
        super().__init__()
        self.runs: list[tuple[str, FrameId]] = []

    def admit(self, jobs: Sequence[Job]) -> None:
        super().admit(jobs)
        self.runs += [(job.due.task.name, job.frame.id) for job in jobs]


class Agent:
    """The stream `gate`, and the inference processes `0` and `1` in one thread. None of them serves it at first."""

    def __init__(self, folder: Path) -> None:
        streams = {"gate": {"source": "synthetic?fps=50&size=64x48", "tasks": TASKS}}
        config = from_mapping({"agent": "home", "streams": streams})
        self.events, self.results = EventServer(folder), list[ResultEvent]()
        self.frames: Any = None
        """Last frame counts of the stream."""
        self._null = os.open(os.devnull, os.O_WRONLY)
        assignment = Assignment(
            config=config.raw, runtime=folder, state=folder, report_fd=self._null, inference=("0", "1")
        )
        self.workers = [Worker(assignment, target) for target in ("gate", "0", "1")]
        self.thread = threading.Thread(target=self._capture)
        self.devices = RecordingDevice(), RecordingDevice()
        self.processes = [Inference(*pair) for pair in zip(self.workers[1:], self.devices, strict=True)]
        self._clients = [RpcClient(infer_socket(folder, target)) for target in ("0", "1")]

    def _capture(self) -> None:
        with Capture(self.workers[0]) as capture:
            capture.serve()

    def step(self) -> None:
        """Let both processes make one turn, and take their events."""
        for process in self.processes:
            process.poll_once()
        deliveries = self.events.receive()
        self.events.ack(deliveries)
        for event in (delivery.event for delivery in deliveries):
            if isinstance(event, ResultEvent):
                self.results.append(event)
            elif isinstance(event, StatusEvent):
                self.frames = event.data.frames or self.frames

    def until(self, done: Callable[[], object], what: str) -> None:
        def stepped() -> object:
            self.step()
            return done()

        until(stepped, 20, what)

    def send(self, process: int, command: Any) -> None:
        self._clients[process].send(**command.message())

    def answers(self, process: int, count: int) -> list[Message]:
        """Return the next answers of a process."""
        found: list[Message] = []

        def arrived() -> bool:
            found.extend(self._clients[process].receive())
            return len(found) >= count

        self.until(arrived, "answers")
        return found

    def call(self, process: int, command: Any) -> Message:
        self.send(process, command)
        (answer,) = self.answers(process, 1)
        return answer

    def set_tasks(self, *tasks: dict[str, Any]) -> None:
        """Change the tasks in both processes."""
        for process in (0, 1):
            self.send(process, SetTasks(stream="gate", tasks=list(tasks)))

    def serve(self, process: int, **state: Any) -> None:
        assert self.call(process, ServeStream(stream="gate", **state))["served"]

    def count(self, task: str) -> int:
        return sum(event.subject == task for event in self.results)

    def numbers(self, task: str) -> list[int]:
        """Return the numbers of the frames on which a task ran."""
        return [event.data.frame.seq for event in self.results if event.subject == task]

    def close(self) -> None:
        self.workers[0].stop()
        if self.thread.is_alive():
            self.until(lambda: not self.thread.is_alive(), "the end of capture")
        for process in self.processes:
            process.close()
        for client in self._clients:
            client.close()
        self.events.close()
        for worker in self.workers:
            os.close(worker.stop_fd)
        os.close(self._null)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path)
    try:
        yield agent
    finally:
        agent.close()


def test_stream_goes_on_in_the_next_process(agent: Agent) -> None:
    agent.thread.start()
    agent.serve(0, quarantine=([(("gate", "ocr", None), 1)], *BLOCKED[1:]))
    agent.until(lambda: agent.count("ocr") >= 1 and agent.count("detailed_caption") >= 5, "answers")
    answer = agent.call(0, ReleaseStream(stream="gate"))
    assert answer["released"]
    assert answer["quarantine"] == [[], [[["gate", "caption", None], 1e9]], [[["gate", "caption", None], 1]]]
    assert agent.processes[0].in_flight.quarantine.rows() == ([], [], [])
    known = len(agent.results)
    agent.step()
    assert len(agent.results) == known, "nobody serves it"

    agent.serve(1, schedule=answer["schedule"], quarantine=answer["quarantine"])
    before = agent.numbers("ocr")
    agent.until(lambda: agent.count("ocr") > len(before), "the next answer on the grid")
    assert agent.count("caption") == 1, "its interval goes on"
    first, second = (agent.numbers("ocr")[place] // 60 for place in (len(before) - 1, len(before)))
    assert second > first, "one run in 60 frames"
    captions = [event.data.outcome for event in agent.results if event.subject == "caption"]
    assert captions == ["error"], "blocked"
    runs = [run for device in agent.devices for run in device.runs]
    assert len(set(runs)) == len(runs), "no task runs twice on a frame"
    agent.workers[0].stop()
    agent.until(lambda: not agent.thread.is_alive(), "the end of capture")
    agent.step()
    assert_identity(agent.frames.model_dump())
    assert not agent.frames.dropped.get("worker_lost")


def test_tasks_changed_during_the_move_start_afresh(agent: Agent) -> None:
    agent.thread.start()
    agent.serve(0)
    agent.until(lambda: agent.count("caption") == 1, "the first run")
    answer = agent.call(0, ReleaseStream(stream="gate"))
    agent.set_tasks({"task": "caption", "every": "2h"})
    agent.serve(1, schedule=ScheduleState.model_validate(answer["schedule"]))
    agent.until(lambda: agent.count("caption") == 2, "a run at once, as of a new task")


def test_stream_stays_while_its_capture_is_down(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame was requested, and no capture process runs."""
    monkeypatch.setattr(handover, "RELEASE_S", 0.2)
    agent.serve(0)
    agent.send(0, Ask(stream="gate", task={"task": "caption"}, seconds=60))
    schedule = agent.processes[0].policy.schedules["gate"]
    agent.until(lambda: len(schedule.triggers) == len(TASKS) + 1, "the question is scheduled")
    agent.send(0, ReleaseStream(stream="gate"))
    agent.send(0, SetTasks(stream="gate", tasks=TASKS[:1]))
    found = agent.answers(0, 2)
    assert {answer.get("failed") for answer in found} == {None, "the stream moved to another device: ask again"}
    assert [answer["released"] for answer in found if "released" in answer] == [False]
    assert agent.processes[0].policy.schedules["gate"] is schedule
    assert [trigger.name for trigger in schedule.triggers] == ["caption"], "the changed tasks, without the question"
    agent.thread.start()
    agent.until(lambda: agent.count("caption") == 1, "answers once capture is up")


def test_stream_stays_if_capture_does_not_confirm(agent: Agent) -> None:
    agent.set_tasks({"task": "caption", "at": "0 0 1 1 *"})
    agent.serve(0)
    assert not agent.call(0, ReleaseStream(stream="gate"))["released"]
    assert "gate" in agent.processes[0].policy.schedules


def test_released_stream_that_has_ended_is_given_up(agent: Agent) -> None:
    answer = agent.call(1, ReleaseStream(stream="gate"))
    assert (answer["released"], answer["schedule"]) == (True, None)


def test_run_that_was_due_without_a_process_is_made_up_for(agent: Agent) -> None:
    agent.thread.start()
    agent.set_tasks({"task": "caption", "at": "* * * * *"}, {"task": "ocr", "at": "0 0 1 1 *"})
    agent.serve(0, since=(time.monotonic() - 61, time.time() - 61))
    agent.until(lambda: agent.count("caption") == 1, "the missed run")
    assert agent.count("ocr") == 0


def test_stream_that_is_given_up_leaves_without_its_capture(agent: Agent) -> None:
    agent.thread.start()
    agent.serve(0)
    agent.until(lambda: agent.count("ocr"), "an answer")
    assert agent.call(0, ReleaseStream(stream="gate", is_final=True))["released"]
    assert not agent.processes[0].frames.sockets()
    agent.serve(0)
    agent.until(lambda: agent.processes[0].policy.schedules, "it is served again")
    known = agent.count("detailed_caption")
    agent.until(lambda: agent.count("detailed_caption") > known, "answers go on")
    agent.workers[0].stop()
    agent.until(lambda: not agent.thread.is_alive(), "the end of capture")
    assert_identity(agent.frames.model_dump())
    assert agent.call(0, ReleaseStream(stream="gate", is_final=True))["released"], "no capture confirms it"
    assert not agent.processes[0].frames.sockets()


def test_follow_ups_of_a_stream_that_is_given_up_are_reported(agent: Agent) -> None:
    agent.thread.start()
    follow_up = {"task": "region_to_description", "name": "details", "on": "every"}
    agent.set_tasks({"task": "object_detection", "every": "1h", "then": [follow_up]})
    agent.serve(0)

    def waits() -> bool:
        return any(job.due.parent for job in agent.processes[0].in_flight.jobs(JobState.WAITING))

    agent.until(waits, "a follow-up waits")
    agent.devices[0].batch = 0
    assert agent.call(0, ReleaseStream(stream="gate", is_final=True))["released"]
    (dropped,) = [event.data for event in agent.results if event.subject == "details"]
    assert (dropped.outcome, dropped.error) == ("dropped", "the agent gave up the stream")
