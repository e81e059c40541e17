"""The inference process with a real capture behind it and emit's socket before it; only the engine is a simple one."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from streamer.bus.event_channel import EventServer
from streamer.bus.rpc import RpcClient, infer_socket
from streamer.config.model import Config, from_mapping
from streamer.events.schema import ResultEvent, StatusEvent
from streamer.inference import overload, triggers
from streamer.processes.capture import Capture
from streamer.processes.infer import Inference
from streamer.processes.worker import Worker
from streamer.toyworld.world import Scene
from streamer.types import Answer, Box, Image, Job, Result
from tests.support.agents import assert_identity


class Device:
    """An engine that answers each job with a box around all it sees, after `seconds` for each."""

    model = "device"

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


class Rig:
    """Captures in threads, emit's place, and an inference that the test turns by hand."""

    def __init__(self, folder: Path, streams: dict[str, Any], device: Device) -> None:
        self.agent: Config = from_mapping({"agent": "test", "streams": streams})
        self.server = EventServer(folder)
        self.results: list[ResultEvent] = []
        self.statuses: list[StatusEvent] = []
        self._null = os.open(os.devnull, os.O_WRONLY)
        self._captures = [Worker(self.agent, folder, folder, name, self._null) for name in streams]
        self._threads = [threading.Thread(target=self._capture, args=(worker,)) for worker in self._captures]
        self.worker = Worker(self.agent, folder, folder, None, self._null)
        self.inference = Inference(self.worker, device)
        for thread in self._threads:
            thread.start()

    @staticmethod
    def _capture(worker: Worker) -> None:
        with Capture(worker) as capture:
            capture.serve()

    def hear(self) -> None:
        deliveries = self.server.receive()
        self.server.ack(deliveries)
        for delivery in deliveries:
            if isinstance(delivery.event, ResultEvent):
                self.results.append(delivery.event)
            else:
                self.statuses.append(delivery.event)

    def turn_until(self, done: Callable[[], object], timeout: float = 20.0) -> None:
        deadline = time.monotonic() + timeout
        while not done():
            assert time.monotonic() < deadline, "it did not happen in time"
            self.inference.poll_once()
            self.hear()

    def turn_for(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        self.turn_until(lambda: time.monotonic() > until, seconds + 5)

    def stop(self) -> dict[str, dict[str, Any]]:
        """End the captures, settling what is open meanwhile; the last counts of each stream."""
        for worker in self._captures:
            worker.stop()
        self.turn_until(lambda: not any(thread.is_alive() for thread in self._threads))
        self.hear()
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
            self.hear()
        self.server.close()
        os.close(self._null)
        for worker in (self.worker, *self._captures):
            os.close(worker.stop_fd)

    def schedule(self) -> list[StatusEvent]:
        return [event for event in self.statuses if event.subject.startswith("schedule.")]


@contextmanager
def rig(folder: Path, device: Device, **streams: Any) -> Iterator[Rig]:
    made = Rig(folder, streams, device)
    try:
        yield made
    finally:
        made.close()


CAMERA = "synthetic?fps=25&size=320x240"


def test_a_zone_is_all_that_the_task_sees_and_places_are_in_the_full_frame(tmp_path: Path) -> None:
    device = Device()
    tasks = [
        {"task": "object_detection", "name": "part", "every": "100ms", "zone": "right"},
        {"task": "ocr", "name": "too", "every": "100ms", "zone": "right"},
        {"task": "caption", "name": "all", "every": "100ms"},
    ]
    zones = {"right": [[0.5, 0.25], [1, 0.25], [1, 0.75]]}
    with rig(tmp_path, device, cam={"source": CAMERA, "zones": zones, "tasks": tasks}) as made:
        made.turn_until(lambda: len(made.results) >= 9)
        assert device.sizes == {"part": {(120, 160, 3)}, "too": {(120, 160, 3)}, "all": {(240, 320, 3)}}
        for event in made.results:
            assert event.data.frame.width == 320
            assert event.data.result is not None
            (box,) = event.data.result.boxes
            if event.subject == "all":
                assert (event.data.zone, box.box) == (None, (0, 0, 1, 1))
            else:
                assert (event.data.zone, box.box) == ("right", (0.5, 0.25, 1, 0.75))
                assert box.pixels == (160, 60, 320, 180)


def test_a_frame_that_is_too_old_is_answered_stale_and_never_run(tmp_path: Path) -> None:
    device = Device()
    old = {"source": CAMERA, "tasks": [{"task": "ocr", "every": "50ms", "max_age": "0.001ms"}]}
    both = {
        "source": CAMERA,
        "tasks": [{"task": "ocr", "every": "50ms", "max_age": "0.001ms"}, {"task": "caption", "every": "50ms"}],
    }
    with rig(tmp_path, device, old=old, both=both) as made:
        made.turn_until(lambda: len(made.results) >= 20)
        counts = made.stop()
        outcomes = {(event.data.stream, event.subject): event.data.outcome for event in made.results}
        assert outcomes == {("old", "ocr"): "stale", ("both", "ocr"): "stale", ("both", "caption"): "ok"}
        stale = next(event.data for event in made.results if event.data.outcome == "stale")
        assert (stale.result, stale.timing.waited_ms) == (None, None)
        assert stale.error is not None
        assert "`max_age` is 1e-06 s" in stale.error
        assert set(device.ran) == {"caption"}
        assert set(counts["old"]["dropped"]) == {"stale"}
        assert counts["old"]["done"] == 0
        assert counts["both"]["done"] > 0


def test_high_priority_runs_while_low_waits_and_the_stretch_is_told_and_goes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overload, "WINDOW_S", 0.5)
    monkeypatch.setattr(overload, "ENOUGH", 8)
    device = Device(seconds=0.04, batch=2)  # 25 jobs a second, of 50 that are asked for
    tasks = [
        {"task": "ocr", "every": "100ms", "priority": "high"},
        {"task": "caption", "every": "100ms"},
        {"task": "detailed_caption", "every": "200ms", "priority": "low"},
    ]
    cameras = {name: {"source": CAMERA, "tasks": tasks} for name in ("a", "b")}
    with rig(tmp_path, device, **cameras) as made:
        made.turn_until(made.schedule)
        told = made.schedule()[0]
        assert told.subject == "schedule.stretched"
        assert told.source == "/agents/test"
        stretch = told.data.stretch
        assert stretch is not None
        assert set(stretch) == {"a", "b"}
        assert stretch["a"] == stretch["b"]
        assert stretch["a"]["low"] >= stretch["a"]["normal"] > 1
        assert stretch["a"].get("high", 1.0) < stretch["a"]["normal"]
        before = len(device.ran)
        made.turn_for(2.0)
        ran = device.ran[before:]
        assert ran.count("ocr") > ran.count("caption") > 0
        device.seconds = 0.001
        made.turn_until(lambda: made.schedule()[-1].subject == "schedule.normal")
        assert made.schedule()[-1].data.stretch == {}


def test_a_task_on_the_clock_does_not_wait_for_a_task_that_counts_frames(tmp_path: Path) -> None:
    device = Device()
    tasks = [{"task": "ocr", "every": "200ms"}, {"task": "caption", "every_n_frames": 1000}]
    with rig(tmp_path, device, cam={"source": CAMERA, "tasks": tasks}) as made:
        made.turn_until(lambda: len(made.results) >= 2)
        before = device.ran.count("ocr")
        made.turn_for(1.5)
        assert device.ran.count("ocr") - before >= 5
        assert device.ran.count("caption") == 1


def test_nothing_of_a_file_is_lost_beside_cameras_that_ask_for_too_much(tmp_path: Path) -> None:
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
    with rig(tmp_path, device, file=file, cam=camera) as made:
        made.turn_until(lambda: [event for event in made.statuses if event.subject == "stream.ended"], 40)
        frames = [(event.subject, event.data.frame.seq) for event in made.results if event.data.stream == "file"]
        assert sorted(seq for name, seq in frames if name == "ocr") == list(range(0, 50, 2))
        assert sorted(seq for name, seq in frames if name == "caption") == list(range(0, 50, 5))
        assert sorted(seq for name, seq in frames if name == "object_detection") == list(range(0, 50, 5))
        counts = made.stop()
        assert (counts["file"]["in_flight"], counts["file"]["dropped"]) == (0, {})
        assert counts["cam"]["done"] > 0


def test_a_still_camera_is_asked_about_when_something_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    with rig(tmp_path, device, cam={"source": CAMERA, "tasks": tasks}) as made:
        made.turn_for(3.0)
        quiet = len(device.ran)
        assert 2 <= quiet <= 6
        unchanged = [event for event in made.results if event.data.outcome == "unchanged"]
        assert {event.subject for event in unchanged} == {"walker", "scene"}
        assert len(unchanged) <= 4
        answered = {event.time for event in made.results if event.data.outcome == "ok"}
        assert all(event.data.since in answered and event.data.result is None for event in unchanged)
        walking = True
        asked_at = []
        for step in range(12):
            moved = yard.copy()
            moved[100:160, 20 * step : 20 * step + 60] = 250
            made.turn_for(0.1)
            asked_at += [step] if len(device.ran) > quiet else []
        assert asked_at[0] <= 5, "as it moves"
        assert {"walker", "scene"} == set(device.ran[quiet:])
        frames = made.stop()["cam"]
        assert frames["dropped"]["unchanged"] >= 1
        assert frames["done"] + sum(frames["dropped"].values()) < 40 < frames["captured"]


def asked(made: Rig, caller: RpcClient, **message: Any) -> dict[str, Any]:
    """The answer to one message of the parent."""
    number = caller.send(**message)
    answers: list[dict[str, Any]] = []

    def heard() -> list[dict[str, Any]]:
        answers.extend(answer for answer in caller.receive() if answer["id"] == number)
        return answers

    made.turn_until(heard)
    return answers[0]


def test_a_question_goes_before_everything_and_is_answered_within_a_batch_of_the_load(tmp_path: Path) -> None:
    device = Device(seconds=0.08, batch=4)
    tasks = [{"task": task, "every": "50ms", "priority": "high"} for task in ("ocr", "caption", "object_detection")]
    with rig(tmp_path, device, **{name: {"source": CAMERA, "tasks": tasks} for name in "abcd"}) as made:
        made.turn_until(lambda: len(made.results) > 12)
        caller = RpcClient(infer_socket(tmp_path))
        question = {"task": "open_vocabulary_detection", "name": "ask", "text": "a red van"}
        for stream in "abcd":
            started = time.monotonic()
            answer = asked(made, caller, op="ask", stream=stream, task=question, seconds=10.0)
            assert time.monotonic() - started < 2 * 4 * 0.08 + 0.15, "a running batch and its own"
            assert answer["event"]["data"]["text"] == "a red van"
            assert answer["event"]["data"]["outcome"] == "ok"
            assert answer["age_s"] < 4 * 0.08 + 0.15
        refused = asked(made, caller, op="ask", stream="a", task={"task": "ocr", "text": "x"}, seconds=1.0)
        assert refused["error"] == "text: ocr takes no text"
        caller.close()
        for frames in made.stop().values():
            assert frames["in_flight"] == 0
        assert not [event for event in made.results if event.data.task == "open_vocabulary_detection"]


def test_a_question_is_not_held_up_by_a_frame_that_is_waited_for(tmp_path: Path) -> None:
    device = Device()
    with rig(tmp_path, device, cam={"source": CAMERA, "tasks": [{"task": "ocr", "every_n_frames": 1000}]}) as made:
        made.turn_until(lambda: made.results)
        made.turn_for(0.3)
        caller = RpcClient(infer_socket(tmp_path))
        started = time.monotonic()
        answer = asked(made, caller, op="ask", stream="cam", task={"task": "caption"}, seconds=10.0)
        assert time.monotonic() - started < 0.5
        assert answer["event"]["data"]["outcome"] == "ok"
        replaced = [{"task": "caption", "every": "100ms"}, {"task": "ocr", "every": "100ms", "paused": True}]
        caller.send(op="tasks", stream="cam", tasks=replaced)
        before = len(device.ran)
        made.turn_until(lambda: len(device.ran) > before + 3)
        assert set(device.ran[before:]) == {"caption"}
        caller.close()
