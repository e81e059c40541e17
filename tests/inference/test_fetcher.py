"""Frames of a batch: which ones it waits for, and how long."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from streamer.bus.frame_client import FrameClient, FrameRequest, Reply
from streamer.config.model import from_mapping
from streamer.inference.fetcher import BATCH_WAIT_S, FrameFetcher
from streamer.inference.in_flight import InFlight, JobState
from streamer.inference.policy import Policy
from streamer.inference.schedule import make_schedule
from tests.support.tasks import at, frame

REMOTE = {name: f"streamer://boxa/{name}" for name in ("a", "b")}
LOCAL = {name: "synthetic" for name in ("a", "b")}
START_S, STEP_S = 1000.0, 0.03


class Captures:
    """Stands in for the frame client: keeps the last request of each stream, and replies as the test says."""

    def __init__(self) -> None:
        self.last: dict[str, int] = {}
        self.replies: list[Reply] = []
        self._count = 0

    def connect(self, stream: str) -> None:
        pass

    def disconnect(self, stream: str, is_final: bool) -> bool:
        return True

    def fetch(self, stream: str, request: FrameRequest, next_need: float) -> int:
        return self._next(stream)

    wait = fetch

    def reply(self, stream: str, seq: int | None = None, ready: bool = False) -> None:
        """Answer the last request: with a frame, or without one."""
        found = None if seq is None else replace(frame(seq, stream=stream), triggered=frozenset({"caption"}))
        self.replies.append(Reply(stream, self.last[stream], found, ready or found is not None, ended=False))

    def receive(self) -> list[Reply]:
        replies, self.replies = self.replies, []
        return replies

    def _next(self, stream: str) -> int:
        self._count += 1
        self.last[stream] = self._count
        return self._count


class Batch:
    """A fetcher of two streams that are due at once."""

    def __init__(self, folder: Path, sources: dict[str, str], **keys: Any) -> None:
        task = {"task": "caption", "every": "100ms", **keys}
        config = {name: {"source": source, "tasks": [task]} for name, source in sources.items()}
        streams = from_mapping({"agent": "test", "streams": config}).streams
        self.captures = Captures()
        self.policy = Policy({name: make_schedule(streams, name, at(START_S)) for name in streams}, at(START_S))
        self.in_flight = InFlight(folder, streams, lambda *_: None)
        self.fetcher = FrameFetcher(cast(FrameClient, self.captures), self.policy, self.in_flight)

    def fetch(self, now: float) -> None:
        self.fetcher.fetch(4, at(now))

    def receive(self, now: float, step_s: float = STEP_S) -> float:
        """Handle the replies; return for how many seconds the batch waits."""
        self.fetcher.receive(at(now), step_s)
        return self.fetcher.batch_wait(at(now))

    def waiting(self) -> int:
        return self.in_flight.count(JobState.WAITING)


@pytest.mark.parametrize("step_s", [STEP_S, 9.0])
def test_batch_waits_for_a_frame_of_another_host(tmp_path: Path, step_s: float) -> None:
    """Both would be in different batches otherwise, and the second frame would be older by the first one."""
    batch = Batch(tmp_path, REMOTE)
    batch.fetch(START_S)
    batch.captures.reply("a", 0)
    batch.captures.reply("b")
    assert batch.receive(START_S, step_s) == pytest.approx(min(step_s, BATCH_WAIT_S))
    batch.captures.reply("b", ready=True)
    assert batch.receive(START_S + 0.01) > 0, "the frame has arrived, and is fetched next"
    batch.fetch(START_S + 0.01)
    assert batch.receive(START_S + 0.02) > 0
    batch.captures.reply("b", 0)
    assert batch.receive(START_S + 0.02) == 0
    assert batch.waiting() == 2


def test_batch_waits_no_longer_than_a_batch_takes(tmp_path: Path) -> None:
    """A stream that is down delays the others once, not again and again."""
    batch = Batch(tmp_path, REMOTE)
    batch.fetch(START_S)
    batch.captures.reply("a", 0)
    batch.captures.reply("b")
    assert batch.receive(START_S) > 0
    assert batch.receive(START_S + STEP_S + 0.001) == 0
    assert batch.waiting() == 1
    batch.captures.reply("b")  # capture has held the request for as long as it may
    assert batch.receive(START_S + 1) == 0


@pytest.mark.parametrize(
    ("sources", "keys"), [(LOCAL, {}), (REMOTE, {"when": "motion"})], ids=["this host", "without motion"]
)
def test_batch_waits_for_no_other_frame(tmp_path: Path, sources: dict[str, str], keys: dict[str, Any]) -> None:
    batch = Batch(tmp_path, sources, **keys)
    batch.fetch(START_S)
    batch.captures.reply("a", 0)
    batch.captures.reply("b", 0)
    batch.receive(START_S)
    for job in batch.in_flight.jobs(JobState.WAITING):
        batch.in_flight.finish(job, "ok")
    batch.fetch(START_S + 1)
    batch.captures.reply("a", 25)
    batch.captures.reply("b")
    assert batch.receive(START_S + 1) == 0


def test_nothing_is_awaited_without_a_batch(tmp_path: Path) -> None:
    batch = Batch(tmp_path, REMOTE)
    batch.fetch(START_S)
    batch.captures.reply("b")
    batch.captures.reply("a")
    assert batch.receive(START_S) == 0


def test_stream_that_is_given_up_is_awaited_no_more(tmp_path: Path) -> None:
    batch = Batch(tmp_path, REMOTE)
    batch.fetch(START_S)
    batch.captures.reply("a", 0)
    batch.captures.reply("b")
    assert batch.receive(START_S) > 0
    batch.policy.remove("b")
    assert batch.fetcher.remove("b", is_final=True)
    assert batch.fetcher.batch_wait(at(START_S)) == 0
