"""Snapshots made by the inference process, with real captures and real files."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from streamer.events.schema import ResultEvent
from streamer.events.snapshots.folder import SnapshotFolder
from streamer.events.snapshots.picture import picture_of
from streamer.events.snapshots.settings import Snapshots
from streamer.events.snapshots.sweep import UNUSED_S, sweep
from streamer.inference import snapshots
from streamer.toyworld.world import World
from streamer.types import Answer, Box, Result
from tests.processes.test_infer import Agent, Device
from tests.support.small_disk import resize, small_disk

SEED, SIZE = 3, (320, 240)
CAMERA = f"synthetic?seed={SEED}&fps=25&size=320x240"
FIND = {"task": "object_detection", "name": "find", "every": "100ms"}
RULES = {"rings": {"when": {"label": "ring", "task": "find", "min_score": 0.6}}}


class Finder(Device):
    """Finds rings with these scores, one after the other; None: nothing."""

    def __init__(self, scores: Sequence[float | None] = (0.9,), batch: int = 4) -> None:
        super().__init__(batch=batch)
        self._scores, self._number = scores, 0

    def step(self) -> list[Result]:
        return [self._answer(result) for result in super().step()]

    def _answer(self, result: Result) -> Result:
        score = self._scores[self._number % len(self._scores)]
        self._number += 1
        if score is None:
            return replace(result, outcome="empty", answer=Answer())
        return replace(result, answer=Answer(boxes=(Box(0.2, 0.2, 0.6, 0.7, "ring", score),)))


def agent(folder: Path, device: Device, rules: Any = RULES, **keys: Any) -> closing[Agent]:
    streams = {"cam": {"source": CAMERA, "tasks": [FIND, {"task": "caption", "name": "words", "every": "100ms"}]}}
    return closing(Agent(folder, streams, device, rules=rules, **keys))


def found(agent: Agent, name: str = "find") -> list[ResultEvent]:
    return [event for event in agent.results if event.subject == name]


def difference(jpeg: bytes, pts: float) -> float:
    """Return the mean difference of a JPEG and the camera's frame, in levels of 255."""
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    width, height = image.shape[1], image.shape[0]
    frame = cv2.resize(World(SEED).scene(pts).paint(*SIZE), (width, height), interpolation=cv2.INTER_AREA)
    return float(np.abs(image.astype(int) - frame).mean())


def test_result_that_a_rule_needs_has_its_frame(tmp_path: Path) -> None:
    with agent(tmp_path, Finder([0.9, 0.5, None, None])) as running:
        running.poll_until(lambda: len(found(running)) >= 8)
        running.stop()
        for event in found(running):
            snapshot, result = event.data.snapshot, event.data.result
            assert result is not None
            # A rule with `min_score: 0.6` needs neither a worse nor an empty answer.
            assert (snapshot is not None) == any((box.score or 0) >= 0.6 for box in result.boxes)
            if snapshot is not None:
                jpeg = picture_of(tmp_path, event)
                assert (snapshot.sha256, snapshot.bytes) == (hashlib.sha256(jpeg).hexdigest(), len(jpeg))
                assert (snapshot.width, snapshot.height) == SIZE
                assert event.data.frame.pts is not None
                assert difference(jpeg, event.data.frame.pts) < 5
                assert difference(jpeg, event.data.frame.pts + 1) > 8
        assert any(event.data.snapshot for event in found(running))
        assert not any(event.data.snapshot for event in found(running, "words"))


def test_wide_frame_is_made_smaller(tmp_path: Path) -> None:
    with agent(tmp_path, Finder(), snapshots={"width": 160, "quality": 70}) as running:
        running.poll_until(lambda: len(found(running)) >= 2)
        event = found(running)[0]
        assert event.data.snapshot is not None
        assert (event.data.snapshot.width, event.data.snapshot.height) == (160, 120)
        assert event.data.frame.pts is not None
        assert difference(picture_of(tmp_path, event), event.data.frame.pts) < 8


def test_results_option_stores_each_answer(tmp_path: Path) -> None:
    with agent(tmp_path, Finder([0.1, None]), {}, snapshots={"results": True}) as running:
        running.poll_until(lambda: len(running.results) >= 10)
        assert all((event.data.snapshot is not None) == (event.data.outcome == "ok") for event in running.results)


@pytest.mark.parametrize(("rules", "keys"), [({}, {}), (RULES, {"snapshots": {"incidents": False}})])
def test_agent_without_snapshots_makes_no_thread(tmp_path: Path, rules: Any, keys: dict[str, Any]) -> None:
    with agent(tmp_path, Finder(), rules, **keys) as running:
        running.poll_until(lambda: len(running.results) >= 4)
        assert running.inference.snapshots is None
        assert not SnapshotFolder(tmp_path).path.exists()
        assert "snapshots" not in {thread.name for thread in threading.enumerate()}


def test_full_disk_costs_pictures_and_no_results(tmp_path: Path) -> None:
    with small_disk(tmp_path / "snapshots", "16k") as disk, agent(tmp_path, Finder()) as running:
        running.poll_until(lambda: len(found(running)) >= 6)
        (down,) = [event for event in running.statuses if event.subject == "snapshots.down"]
        assert down.data.reason == "No space left on device"
        assert any(event.data.snapshot is None for event in found(running))
        assert not list(disk.rglob("*.new"))
        resize(disk, "8m")
        running.poll_until(lambda: any(event.subject == "snapshots.up" for event in running.statuses))
        running.stop()
        assert [event for event in found(running)][-1].data.snapshot is not None


def test_event_does_not_wait_for_a_disk_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results come without pictures, in the order of their frames, and each frame is settled."""
    free = threading.Event()
    monkeypatch.setattr(snapshots, "MAX_WAIT_S", 0.2)
    monkeypatch.setattr(SnapshotFolder, "write", lambda *_: free.wait())
    with agent(tmp_path, Finder()) as running:
        running.poll_until(lambda: len(found(running)) >= 6)
        frames = [event.data.frame.seq for event in running.results]
        assert frames == sorted(frames)
        (down,) = [event for event in running.statuses if event.subject == "snapshots.down"]
        assert down.data.reason is not None
        assert down.data.reason.startswith("not stored within")
        assert not any(event.data.snapshot for event in running.results)
        free.set()
        running.stop()


def test_slow_disk_changes_no_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = SnapshotFolder.write

    def slow(folder: SnapshotFolder, stream: str, event: str, jpeg: bytes) -> None:
        time.sleep(0.15)
        write(folder, stream, event, jpeg)

    monkeypatch.setattr(SnapshotFolder, "write", slow)
    with agent(tmp_path, Finder([0.9, None, None])) as running:
        running.poll_until(lambda: len(found(running)) >= 10)
        running.stop()
        assert any(event.data.snapshot for event in running.results)
        frames = [event.data.frame.seq for event in running.results]
        assert frames == sorted(frames)


def test_crash_between_file_and_event_leaves_nothing(tmp_path: Path) -> None:
    """The next process reports the frame as dropped, without a picture; the file is deleted as unused."""
    with agent(tmp_path, Finder()) as running:
        inference, files = running.inference, SnapshotFolder(tmp_path).path / "cam"
        inference.outbox.send_ready = lambda *_: None  # type: ignore[method-assign]
        running.poll_until(lambda: list(files.glob("*.jpg")))
        lost = {path.stem for path in files.glob("*.jpg")}
        assert not lost & {event.id for event in running.results}
        inference.__exit__(None, None, None)  # its table of jobs is on the disk, as after SIGKILL
        running.inference = type(inference)(running.worker, Finder([None]))
        running.inference.report_crash = lambda: None  # type: ignore[method-assign]
        running.inference.publisher.publish_recovery()
        running.poll_until(lambda: lost <= {event.id for event in running.results})
        dropped = [event.data for event in running.results if event.id in lost]
        assert {(data.outcome, data.snapshot) for data in dropped} == {("dropped", None)}
        now = time.time()
        assert sweep(SnapshotFolder(tmp_path), Snapshots(), now, now) > 0
        assert sweep(SnapshotFolder(tmp_path), Snapshots(), now, now + UNUSED_S + 1) == 0


@pytest.fixture(autouse=True)
def _few_threads() -> Iterator[None]:
    """Check that no thread of a test is left, which would look like one of the next test."""
    yield
    left = [thread for thread in threading.enumerate() if thread.name == "snapshots"]
    for thread in left:
        thread.join(60)
    assert not any(thread.is_alive() for thread in left)
