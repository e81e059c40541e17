"""The inference process with real captures and a real event channel; only the engine is a simple one."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from streamer.bus.event_channel import EventServer
from streamer.bus.rpc import RpcClient, infer_socket
from streamer.bus.stream_state import Moment
from streamer.config.model import Config, from_mapping
from streamer.events.schema import ResultEvent, StatusEvent
from streamer.inference import overload, triggers
from streamer.processes.assignment import Assignment
from streamer.processes.capture import Capture
from streamer.processes.infer import Inference
from streamer.processes.worker import Worker
from streamer.toyworld.world import Scene
from streamer.types import Answer, Box, Image, Job, Result
from tests.support.agents import assert_identity


class Device:
    """An engine that needs `seconds` per job and answers each with a box around its whole picture."""

    model = "device"
    description = "a stand-in"
    warnings: Sequence[str] = ()

    def __init__(self, seconds: float = 0.0, batch: int = 4) -> None:
        self.seconds, self.batch = seconds, batch
        self.jobs: list[Job] = []
        self.sizes: dict[str, set[tuple[int, ...]]] = {}
        self.ran: list[str] = []

    def free(self) -> int:
        return self.batch - len(self.jobs)

    def admit(self, jobs: Sequence[Job]) -> None:
        assert len(jobs) <= self.free()
        self.jobs += jobs

    def step(self) -> list[Result]:
        jobs, self.jobs = self.jobs, []
        started, took = time.monotonic(), self.seconds * len(jobs)
        time.sleep(took)  # this is the device at work
        for job in jobs:
            self.ran.append(job.due.task.name)
            self.sizes.setdefault(job.due.task.name, set()).add(job.frame.image.shape)
        answer = Answer(boxes=(Box(0, 0, 1, 1, "all"),))
        return [Result(job, "ok", answer, None, started, took, len(jobs)) for job in jobs]


class Agent:
    """Captures in threads, the server side of the event channel, and an Inference whose loop the test runs."""

    def __init__(
        self, folder: Path, streams: dict[str, Any], device: Device, since: Moment | None = None, **keys: Any
    ) -> None:
        self.config: Config = from_mapping({"agent": "test", "streams": streams, **keys})
        self.server = EventServer(folder)
        self.results: list[ResultEvent] = []
        self.statuses: list[StatusEvent] = []
        self._null = os.open(os.devnull, os.O_WRONLY)
        assignment = Assignment(config=self.config.raw, runtime=folder, state=folder, report_fd=self._null, since=since)
        self._captures = [Worker(assignment, name) for name in streams]
        self._threads = [threading.Thread(target=self._capture, args=(worker,)) for worker in self._captures]
        self.worker = Worker(assignment)
        self.inference = Inference(self.worker, device)
        for thread in self._threads:
            thread.start()

    @staticmethod
    def _capture(worker: Worker) -> None:
        with Capture(worker) as capture:
            capture.serve()

    def receive(self) -> None:
        deliveries = self.server.receive()
        self.server.ack(deliveries)
        for delivery in deliveries:
            if isinstance(delivery.event, ResultEvent):
                self.results.append(delivery.event)
            elif isinstance(delivery.event, StatusEvent):
                self.statuses.append(delivery.event)

    def poll_until(self, done: Callable[[], object], timeout: float = 60.0) -> None:
        deadline = time.monotonic() + timeout
        while not done():
            assert time.monotonic() < deadline, "timed out"
            self.inference.poll_once()
            self.receive()

    def poll_for(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        self.poll_until(lambda: time.monotonic() > until, seconds + 5)

    def stop(self) -> dict[str, dict[str, Any]]:
        """Stop the captures, poll until their frames are settled, and return the last counts of each stream."""
        for worker in self._captures:
            worker.stop()
        self.poll_until(lambda: not any(thread.is_alive() for thread in self._threads))
        self.receive()
        stopped = [event.data for event in self.statuses if event.subject in ("stream.stopped", "stream.ended")]
        counts = {str(data.stream): data.frames.model_dump() for data in stopped if data.frames}
        for frames in counts.values():
            assert_identity(frames)
        return counts

    def close(self) -> None:
        self.inference.__exit__(None, None, None)
        for worker in self._captures:
            worker.stop()
        while any(thread.is_alive() for thread in self._threads):
            self.receive()
        self.server.close()
        os.close(self._null)
        for worker in (self.worker, *self._captures):
            os.close(worker.stop_fd)

    def schedule_events(self) -> list[StatusEvent]:
        return [event for event in self.statuses if event.subject.startswith("schedule.")]


@contextmanager
def running(folder: Path, device: Device, **streams: Any) -> Iterator[Agent]:
    agent = Agent(folder, streams, device)
    try:
        yield agent
    finally:
        agent.close()


CAMERA = "synthetic?fps=25&size=320x240"


def test_task_sees_only_its_zone(tmp_path: Path) -> None:
    device = Device()
    tasks = [
        {"task": "object_detection", "name": "part", "every": "100ms", "zone": "right"},
        {"task": "ocr", "name": "too", "every": "100ms", "zone": "right"},
        {"task": "caption", "name": "all", "every": "100ms"},
    ]
    zones = {"right": [[0.5, 0.25], [1, 0.25], [1, 0.75]]}
    with running(tmp_path, device, cam={"source": CAMERA, "zones": zones, "tasks": tasks}) as agent:
        agent.poll_until(lambda: len(agent.results) >= 9)
        assert device.sizes == {"part": {(120, 160, 3)}, "too": {(120, 160, 3)}, "all": {(240, 320, 3)}}
        for event in agent.results:
            assert event.data.frame.width == 320
            assert event.data.result is not None
            (box,) = event.data.result.boxes
            if event.subject == "all":
                assert (event.data.zone, box.box) == (None, (0, 0, 1, 1))
            else:
                assert (event.data.zone, box.box) == ("right", (0.5, 0.25, 1, 0.75))
                assert box.pixels == (160, 60, 320, 180)


def test_follow_up_sees_native_crop_of_its_frame(tmp_path: Path) -> None:
    """All crops of a frame are in one batch, and the answers are mapped back to the full frame."""

    class Detector(Device):
        def step(self) -> list[Result]:
            small = Answer(boxes=(Box(0.5, 0.5, 0.53125, 0.5625, "a", 0.9), Box(0.25, 0.25, 0.28125, 0.3125, "b", 0.8)))
            return [
                replace(result, answer=small) if result.job.due.task.name == "find" else result
                for result in super().step()
            ]

    device = Detector()
    then = [{"task": "region_to_segmentation", "name": "close", "crop": "native"}]
    tasks = [{"task": "object_detection", "name": "find", "every": "100ms", "then": then}]
    with running(tmp_path, device, cam={"source": "synthetic?fps=25&size=1024x512", "tasks": tasks}) as agent:
        agent.poll_until(lambda: sum(_has_answer(event, "close") for event in agent.results) >= 4)
        agent.stop()
        assert device.sizes == {"find": {(512, 1024, 3)}, "close": {(192, 192, 3)}}
        for event in agent.results:
            if not _has_answer(event, "close"):  # the others saw no crop
                assert event.data.crop is None
                continue
            assert event.data.crop in ((432, 176, 624, 368), (176, 48, 368, 240))
            assert event.data.region in ((0.5, 0.5, 0.53125, 0.5625), (0.25, 0.25, 0.28125, 0.3125))
            assert event.data.frame.width == 1024
            assert event.data.result is not None
            assert event.data.result.boxes[0].pixels == event.data.crop


def _has_answer(event: ResultEvent, task: str) -> bool:
    return event.subject == task and event.data.outcome == "ok"


class BrokenDevice(Device):
    """An engine that returns no valid numbers, except in each fourth result."""

    def step(self) -> list[Result]:
        return [self._damage(result, number) for number, result in enumerate(super().step(), len(self.ran))]

    @staticmethod
    def _damage(result: Result, number: int) -> Result:
        if number % 4 == 0:
            return result
        if number % 4 == 1:
            return replace(result, answer=Answer(boxes=(Box(0.1, 0.1, math.nan, 0.5, "all"),)))
        if number % 4 == 2:
            return replace(result, answer=Answer(boxes=(Box(-1e300, 0.1, 0.2, 0.5, "all"),)))
        return replace(result, inference_s=math.inf, batch=0)


def test_invalid_numbers_of_the_engine_are_errors(tmp_path: Path) -> None:
    tasks = [{"task": "object_detection", "name": "boxes", "every": "50ms"}]
    with running(tmp_path, BrokenDevice(), cam={"source": CAMERA, "tasks": tasks}) as agent:
        agent.poll_until(lambda: {event.data.error for event in agent.results} == {
            None, "the engine returned invalid coordinates", "the engine returned invalid times",
        })  # fmt: skip
        assert {event.data.outcome for event in agent.results} == {"ok", "error"}
        agent.stop()


def test_frame_older_than_max_age_is_stale_and_never_runs(tmp_path: Path) -> None:
    device = Device()
    old = {"source": CAMERA, "tasks": [{"task": "ocr", "every": "50ms", "max_age": "0.001ms"}]}
    both = {
        "source": CAMERA,
        "tasks": [{"task": "ocr", "every": "50ms", "max_age": "0.001ms"}, {"task": "caption", "every": "50ms"}],
    }
    with running(tmp_path, device, old=old, both=both) as agent:
        agent.poll_until(lambda: len(agent.results) >= 20)
        counts = agent.stop()
        outcomes = {(event.data.stream, event.subject): event.data.outcome for event in agent.results}
        assert outcomes == {("old", "ocr"): "stale", ("both", "ocr"): "stale", ("both", "caption"): "ok"}
        stale = next(event.data for event in agent.results if event.data.outcome == "stale")
        assert (stale.result, stale.timing.waited_ms) == (None, None)
        assert stale.error is not None
        assert "`max_age` is 1e-06 s" in stale.error
        assert set(device.ran) == {"caption"}
        assert set(counts["old"]["dropped"]) == {"stale"}
        assert counts["old"]["done"] == 0
        assert counts["both"]["done"] > 0


def test_overload_is_reported_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overload, "WINDOW_S", 0.6)
    monkeypatch.setattr(overload, "MIN_WINDOW_JOBS", 5)
    device = Device(seconds=0.08, batch=2)  # 12.5 of the 25 due jobs per second
    tasks = [
        {"task": "ocr", "every": "200ms", "priority": "high"},
        {"task": "caption", "every": "200ms"},
        {"task": "detailed_caption", "every": "400ms", "priority": "low"},
    ]
    cameras = {name: {"source": CAMERA, "tasks": tasks} for name in ("a", "b")}
    with running(tmp_path, device, **cameras) as agent:
        agent.poll_until(agent.schedule_events)
        stretched = agent.schedule_events()[0]
        assert stretched.subject == "schedule.stretched"
        assert stretched.source == "/agents/test"
        stretch = stretched.data.stretch
        assert stretch is not None
        assert set(stretch) == {"a", "b"}
        assert stretch["a"] == stretch["b"]
        assert stretch["a"]["low"] >= stretch["a"]["normal"] > 1
        assert stretch["a"].get("high", 1.0) < stretch["a"]["normal"]
        before = len(device.ran)
        # Stretched 20 times, the most that is possible, a caption is due every 4 s.
        agent.poll_until(lambda: device.ran[before:].count("ocr") >= 16 and "caption" in device.ran[before:])
        ran = device.ran[before:]
        assert ran.count("ocr") > ran.count("caption")
        device.seconds = 0.001
        agent.poll_until(lambda: agent.schedule_events()[-1].subject == "schedule.normal")
        assert agent.schedule_events()[-1].data.stretch == {}


def test_interval_task_does_not_wait_for_frame_count_task(tmp_path: Path) -> None:
    device = Device()
    tasks = [{"task": "ocr", "every": "200ms"}, {"task": "caption", "every_n_frames": 1000}]
    with running(tmp_path, device, cam={"source": CAMERA, "tasks": tasks}) as agent:
        agent.poll_until(lambda: len(agent.results) >= 2)
        before = device.ran.count("ocr")
        agent.poll_until(lambda: device.ran.count("ocr") - before >= 5)  # the other task is due 40 s after the first
        assert device.ran.count("caption") == 1


def test_file_loses_no_frame_beside_overloading_cameras(tmp_path: Path) -> None:
    device = Device(seconds=0.01, batch=3)
    file = {
        "source": "synthetic?fps=25&pace=file&seconds=2s&size=64x64",
        "tasks": [
            {"task": "ocr", "every_n_frames": 2, "priority": "low"},
            {"task": "caption", "every_n_frames": 5},
            {"task": "object_detection", "every": "200ms"},
        ],
    }
    camera = {"source": CAMERA, "tasks": [{"task": "ocr", "every": "10ms"}, {"task": "caption", "every": "10ms"}]}
    with running(tmp_path, device, file=file, cam=camera) as agent:
        agent.poll_until(lambda: [event for event in agent.statuses if event.subject == "stream.ended"])
        frames = [(event.subject, event.data.frame.seq) for event in agent.results if event.data.stream == "file"]
        assert sorted(seq for name, seq in frames if name == "ocr") == list(range(0, 50, 2))
        assert sorted(seq for name, seq in frames if name == "caption") == list(range(0, 50, 5))
        assert sorted(seq for name, seq in frames if name == "object_detection") == list(range(0, 50, 5))
        counts = agent.stop()
        assert (counts["file"]["in_flight"], counts["file"]["dropped"]) == (0, {})
        assert counts["cam"]["done"] > 0


def test_motion_task_runs_when_something_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triggers, "UNCHANGED_S", 1.5)
    yard = np.full((240, 320, 3), 120, np.uint8)
    yard[::16] = 90
    moved = yard.copy()

    def paint(_: Scene, width: int, height: int) -> Image:
        image = moved if walking else yard
        return cv2.resize(image, (width, height))  # type: ignore[return-value]

    walking = False
    monkeypatch.setattr(Scene, "paint", paint)
    device = Device()
    tasks = [
        {"task": "object_detection", "name": "walker", "every": "100ms", "when": "motion"},
        {"task": "caption", "name": "scene", "every": "100ms", "when": "change"},
    ]
    with running(tmp_path, device, cam={"source": CAMERA, "tasks": tasks}) as agent:
        unchanged: list[ResultEvent] = []

        def both_are_unchanged() -> bool:
            unchanged[:] = [event for event in agent.results if event.data.outcome == "unchanged"]
            return {event.subject for event in unchanged} == {"walker", "scene"}

        agent.poll_until(both_are_unchanged)
        quiet = len(device.ran)
        assert 2 <= quiet <= 6
        assert len(unchanged) <= 4
        answered = {event.time for event in agent.results if event.data.outcome == "ok"}
        assert all(event.data.since in answered and event.data.result is None for event in unchanged)
        walking = True
        for step in range(600):  # both run while it moves
            moved = yard.copy()
            left = 20 * (step % 12)
            moved[100:160, left : left + 60] = 250
            agent.poll_for(0.1)
            if {"walker", "scene"} == set(device.ran[quiet:]):
                break
        else:
            raise AssertionError(device.ran[quiet:])
        frames = agent.stop()["cam"]
        assert frames["dropped"]["unchanged"] >= 1
        assert frames["done"] + sum(frames["dropped"].values()) < frames["captured"]


def request(agent: Agent, caller: RpcClient, **message: Any) -> dict[str, Any]:
    """Send a message as the parent does and return the reply."""
    number = caller.send(**message)
    answers: list[dict[str, Any]] = []

    def received() -> list[dict[str, Any]]:
        answers.extend(answer for answer in caller.receive() if answer["id"] == number)
        return answers

    agent.poll_until(received)
    return answers[0]


def test_one_shot_request_runs_in_the_next_batch(tmp_path: Path) -> None:
    device = Device(seconds=0.08, batch=4)
    tasks = [{"task": task, "every": "50ms", "priority": "high"} for task in ("ocr", "caption", "object_detection")]
    with running(tmp_path, device, **{name: {"source": CAMERA, "tasks": tasks} for name in "abcd"}) as agent:
        agent.poll_until(lambda: len(agent.results) > 12)
        caller = RpcClient(infer_socket(tmp_path))
        task = {"task": "open_vocabulary_detection", "name": "ask", "text": "a red van"}
        for stream in "abcd":
            before = len(device.ran)
            answer = request(agent, caller, op="ask", stream=stream, task=task, seconds=60.0)
            ran = [name in ("ocr", "caption", "object_detection") for name in device.ran[before:]]
            assert ran.index(False) < 3 * device.batch, "the twelve tasks that are always due do not go first"
            assert answer["event"]["data"]["text"] == "a red van"
            assert answer["event"]["data"]["outcome"] == "ok"
        refused = request(agent, caller, op="ask", stream="a", task={"task": "ocr", "text": "x"}, seconds=60.0)
        assert refused["error"] == "text: ocr takes no text"
        caller.close()
        for frames in agent.stop().values():
            assert frames["in_flight"] == 0
        assert not [event for event in agent.results if event.data.task == "open_vocabulary_detection"]


def test_one_shot_request_replaces_a_pending_wait(tmp_path: Path) -> None:
    device = Device()
    with running(tmp_path, device, cam={"source": CAMERA, "tasks": [{"task": "ocr", "every_n_frames": 1000}]}) as agent:
        agent.poll_until(lambda: agent.results)
        agent.poll_for(0.3)
        caller = RpcClient(infer_socket(tmp_path))
        answer = request(agent, caller, op="ask", stream="cam", task={"task": "caption"}, seconds=20.0)
        assert answer["event"]["data"]["outcome"] == "ok"
        replaced = [{"task": "caption", "every": "100ms"}, {"task": "ocr", "every": "100ms", "paused": True}]
        caller.send(op="tasks", stream="cam", tasks=replaced)
        before = len(device.ran)
        agent.poll_until(lambda: len(device.ran) > before + 3)
        assert set(device.ran[before:]) == {"caption"}
        caller.close()


def test_one_shot_task_has_another_name_in_the_next_process(tmp_path: Path) -> None:
    device = Device()
    for process in ("first", "second"):
        folder = tmp_path / process
        folder.mkdir()
        with running(folder, device, cam={"source": CAMERA, "tasks": [{"task": "ocr", "at": "0 0 1 1 *"}]}) as agent:
            caller = RpcClient(infer_socket(folder))
            request(agent, caller, op="ask", stream="cam", task={"task": "caption"}, seconds=60.0)
            caller.close()
    first, second = device.ran
    assert first != second, "a request inherits no suspicion from a request that a dead process had"


def test_warning_while_running_is_published_once(tmp_path: Path) -> None:
    device = Device()
    with running(tmp_path, device, cam={"source": CAMERA, "tasks": [{"task": "caption", "every": "50ms"}]}) as agent:
        for warnings in (["graphs are off"], ["memory is short", "graphs are off"]):
            device.warnings = warnings
            count = len(agent.results) + 2
            agent.poll_until(lambda count=count: len(agent.results) >= count)  # type: ignore[misc]
        degraded = [event.data.reason for event in agent.statuses if event.subject == "agent.degraded"]
        assert degraded == ["graphs are off", "memory is short"]


def test_run_that_was_due_during_a_restart_is_made_up_for(tmp_path: Path) -> None:
    tasks = [{"task": "ocr", "at": "* * * * *"}, {"task": "caption", "at": "0 0 1 1 *"}]
    died = time.monotonic() - 61, time.time() - 61
    with closing(Agent(tmp_path, {"cam": {"source": CAMERA, "tasks": tasks}}, Device(), died)) as agent:
        agent.poll_until(lambda: agent.results)
        assert [event.subject for event in agent.results] == ["ocr"]
