"""Frames that the inference process collects, with real captures and real files."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from streamer.config.collect import Collect
from streamer.core.picture_blocks import picture_blocks
from streamer.events.collected import CollectedFolder
from streamer.inference.collect_reasons import Disagreements
from streamer.inference.collect_store import CollectStore
from streamer.inference.collector import StreamCollection
from streamer.types.dataset import CollectedPicture
from tests.processes.test_infer import Agent, Device
from tests.processes.test_infer_snapshots import CAMERA, FIND, Finder, difference
from tests.support.small_disk import resize, small_disk

ZONES = {"left": [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]}


def agent(folder: Path, device: Device, **collect: Any) -> closing[Agent]:
    stream = {"source": CAMERA, "tasks": [FIND], "zones": ZONES}
    return closing(Agent(folder, {"cam": {**stream, "collect": collect} if collect else stream}, device))


def stored(folder: Path) -> list[CollectedPicture]:
    return [one.picture for one in CollectedFolder(folder).stored("cam")]


def has(folder: Path, count: int) -> Callable[[], bool]:
    return lambda: len(stored(folder)) >= count


def image_of(folder: Path, picture: CollectedPicture) -> tuple[bytes, Any]:
    jpeg = CollectedFolder(folder).read(picture)
    assert jpeg is not None
    return jpeg, cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)


def test_unsure_answers_are_stored_with_their_frames(tmp_path: Path) -> None:
    with agent(tmp_path, Finder([0.9, 0.5]), scores=[0.4, 0.6]) as running:
        running.poll_until(has(tmp_path, 2))
        running.stop()
        events = {(event.data.epoch, event.data.frame.seq): event for event in running.results}
        for picture in stored(tmp_path):
            record = picture.record
            assert (picture.agent, record.stream) == ("test", "cam")
            assert any(reason == "score: find: ring 0.50" for reason in record.reasons)
            assert record.epoch is not None
            assert record.seq is not None
            event = events[record.epoch, record.seq]
            jpeg, _ = image_of(tmp_path, picture)
            assert hashlib.sha256(jpeg).hexdigest() == record.sha256
            assert event.data.frame.pts is not None
            assert difference(jpeg, event.data.frame.pts) < 5
            (answer,) = [one for one in picture.answers if one.task == "object_detection"]
            assert (answer.model, answer.stream, answer.image) == ("device", "cam", record.image)
            assert [(box.label, box.score) for box in answer.answer.boxes] == [("ring", 0.5)]


def test_masked_places_are_black_and_have_no_answers(tmp_path: Path) -> None:
    with agent(tmp_path, Finder([0.5]), every="8m", masks=["left"]) as running:
        running.poll_until(has(tmp_path, 1))
        (picture,) = stored(tmp_path)
        _, image = image_of(tmp_path, picture)
        assert image[:, :140].max() < 16
        assert image[:, 180:].max() > 60
        # The greater part of the object lies in the mask.
        assert [one.answer.is_empty for one in picture.answers] == [True]


def test_frame_in_which_a_tracked_object_is_missing(tmp_path: Path) -> None:
    with agent(tmp_path, Finder([0.9] * 8 + [None]), tracks=True) as running:
        running.poll_until(has(tmp_path, 1))
        running.stop()
        empty = {event.data.frame.seq for event in running.results if event.data.outcome == "empty"}
        for picture in stored(tmp_path):
            assert picture.record.reasons == ("gap: find: ring was not found",)
            assert picture.record.seq in empty


def test_restart_repeats_nothing(tmp_path: Path) -> None:
    """Stored pictures count for the limits of the next process, which does not store them again."""
    with agent(tmp_path, Finder([0.5]), scores=[0, 1]) as running:
        running.poll_until(has(tmp_path, 1))
        blocks = {picture.record.blocks for picture in stored(tmp_path)}
        assert len(blocks) == len(stored(tmp_path))
    collected, seen = CollectedFolder(tmp_path), list[tuple[str, int, Any]]()
    settings = running.config.streams["cam"].collect
    assert settings is not None
    loaded = threading.Event()

    def on_loaded(stream: str, times: Any, pictures: Any) -> None:
        seen.append((stream, len(times), pictures))
        loaded.set()

    with CollectStore(collected, {"cam": settings}, running.config.snapshots, on_loaded):
        assert loaded.wait(30)
    ((stream, count, pictures),) = seen
    assert (stream, count) == ("cam", len(stored(tmp_path)))
    _, image = image_of(tmp_path, stored(tmp_path)[0])
    again = picture_blocks(image)
    assert again is not None
    assert not pictures.add(again)


def test_limits_of_a_day_and_an_hour() -> None:
    settings = Collect(every=3600, per_day=30)
    collection = StreamCollection(settings, (), Disagreements({}))
    taken = []
    for minute in range(48 * 60):
        now = 1e9 + 60 * minute
        if collection.has_room(now):
            collection.times.append(now)
            taken.append(minute)
    for begin in range(0, 24 * 60, 30):
        assert sum(begin <= minute < begin + 24 * 60 for minute in taken) <= 30
        assert sum(begin <= minute < begin + 60 for minute in taken) <= 3
    assert len(taken) == 60


def test_full_disk_costs_pictures_and_no_results(tmp_path: Path) -> None:
    with small_disk(tmp_path / "collected", "8k") as disk, agent(tmp_path, Finder([0.5]), scores=[0, 1]) as running:
        running.poll_until(lambda: len(running.results) >= 20)
        assert not stored(tmp_path)
        resize(disk, "8m")
        running.poll_until(has(tmp_path, 1))
        assert not list(disk.rglob("*.new"))


def test_agent_without_collect_pays_nothing(tmp_path: Path) -> None:
    with agent(tmp_path, Finder()) as running:
        running.poll_until(lambda: len(running.results) >= 4)
        assert running.inference.collector is None
        assert "collect" not in {thread.name for thread in threading.enumerate()}
        assert not (tmp_path / "collected").exists()
    loaded = "import sys, streamer.processes.infer, streamer.processes.rules; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout.split()
    assert not {
        "streamer.inference.collector",
        "streamer.processes.wrong_incidents",
        "streamer.events.collected",
    } & set(modules)
