"""The in-flight table: states of jobs, settling of frames, and the journal."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from streamer.config.model import from_mapping
from streamer.inference import journal
from streamer.inference.in_flight import InFlight, JobState
from streamer.types import DueTask, Frame, FrameOutcome, Job, Outcome, Task
from tests.support.sample_events import frame
from tests.support.tasks import PARAMS

NAMES = ("caption", "ocr")


class Settled(list[tuple[Frame, FrameOutcome]]):
    """Records the frames that were settled."""

    def add(self, frame: Frame, outcome: FrameOutcome) -> None:
        self.append((frame, outcome))


def table(folder: Path, settled: Settled | None = None) -> InFlight:
    tasks = [{"task": name} for name in NAMES]
    streams = from_mapping({"streams": {"gate": {"source": "synthetic", "tasks": tasks}}}).streams
    return InFlight(folder, streams, (Settled() if settled is None else settled).add)


def jobs_of(picture: Frame) -> list[Job]:
    return [Job(DueTask("gate", Task(name, name, PARAMS), 0.0), picture) for name in NAMES]


def test_job_moves_from_fetching_to_publishing(tmp_path: Path) -> None:
    in_flight, jobs = table(tmp_path), jobs_of(frame())
    in_flight.start_fetch("gate", NAMES)
    assert in_flight.count(JobState.FETCHING) == 2
    assert in_flight.is_fetching("gate")
    assert in_flight.end_fetch("gate") == set(NAMES)
    in_flight.open_frame(jobs[0].frame, jobs)
    assert in_flight.jobs(JobState.WAITING) == jobs
    in_flight.start(jobs[:1])
    assert (in_flight.jobs(JobState.WAITING), in_flight.jobs(JobState.RUNNING)) == (jobs[1:], jobs[:1])
    in_flight.finish_run(jobs[0])
    assert [in_flight.count(state) for state in JobState] == [0, 1, 0, 1]


def test_frame_closes_when_all_its_events_are_acked(tmp_path: Path) -> None:
    settled = Settled()
    in_flight, jobs = table(tmp_path, settled), jobs_of(frame())
    in_flight.open_frame(jobs[0].frame, jobs)
    for job in jobs:
        in_flight.add_event(job, "ok", job.due.task.name)
    in_flight.on_acked(["caption", "another process's event"])
    assert settled == []
    in_flight.on_acked(["ocr", "ocr"])
    assert settled == [(jobs[0].frame, "done")]
    assert [in_flight.count(state) for state in JobState] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        (("stale", "stale"), "stale"),
        (("unchanged", "unchanged"), "unchanged"),
        (("stale", "unchanged"), "error"),
        (("error", "stale"), "error"),
        (("empty", "stale"), "done"),
    ],
)
def test_frame_outcome_follows_from_its_jobs(tmp_path: Path, outcomes: tuple[Outcome, Outcome], expected: str) -> None:
    settled = Settled()
    in_flight, jobs = table(tmp_path, settled), jobs_of(frame())
    in_flight.open_frame(jobs[0].frame, jobs)
    for job, outcome in zip(jobs, outcomes, strict=True):
        in_flight.finish(job, outcome)
    assert settled == [(jobs[0].frame, expected)]


def test_discarded_job_stops_its_frame(tmp_path: Path) -> None:
    settled = Settled()
    in_flight, jobs = table(tmp_path, settled), jobs_of(frame())
    in_flight.open_frame(jobs[0].frame, jobs)
    in_flight.start(jobs[:1])
    in_flight.discard_waiting()
    assert settled == [], "the other job is running"
    in_flight.add_event(jobs[0], "ok", "event")
    in_flight.on_acked(["event"])
    assert settled == [(jobs[0].frame, "stopped")]


def test_journal_has_the_jobs_before_the_engine_gets_them(tmp_path: Path) -> None:
    in_flight, jobs = table(tmp_path), jobs_of(frame())
    in_flight.open_frame(jobs[0].frame, jobs)
    in_flight.start(jobs[1:])
    state = journal.read(journal.journal_path(tmp_path, "infer"))
    assert [(row.name, row.running) for row in state.jobs] == [("caption", False), ("ocr", True)]
    assert {result.job.due.task.name for result in table(tmp_path).lost} == set(NAMES)


def test_unreadable_journal_is_reported_and_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = journal.journal_path(tmp_path, "infer")
    path.write_text("{")
    assert not table(tmp_path).lost
    assert "unreadable (not JSON)" in caplog.text
    path.write_text(json.dumps({"v": journal.VERSION + 1}))
    assert not table(tmp_path).lost


@pytest.mark.parametrize(
    "content",
    [
        "garbage",
        "[]",
        "null",
        '{"v": 1, "jobs": [[1]], "running": []}',
        '{"v": 2, "jobs": [[1]], "quarantine": null}',
        '{"v": 2, "jobs": [], "quarantine": {"x": 1}}',
        '{"v": 2, "jobs": [], "quarantine": [[["gate"]], [], []]}',
        '{"v": 2, "jobs": [["caption", true, "gate", 1, 1, 1.0, 1.0, 1.0, [-5, 10, 3]]], "quarantine": null}',
        '{"v": 2, "jobs": [["caption", true, "gate", 1, 1, 1e300, 1.0, 1.0, [5, 10, 3]]], "quarantine": null}',
        '{"v": 2, "jobs": [["caption", true, "gate", 1, 1, NaN, 1.0, 1.0, [5, 10, 3]]], "quarantine": null}',
        '{"v": 2, "jobs": [["\\ud800", true, "gate", 1, 1, 1.0, 1.0, 1.0, [5, 10, 3]]], "quarantine": null}',
        '{"v": 2, "jobs": [' + "9" * 5000 + '], "quarantine": null}',
        '{"v": 2, "jobs": ' + "[" * 3000 + "]" * 3000 + "}",
    ],
    ids=lambda text: text[:40],
)
def test_journal_of_another_shape_counts_as_empty(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    (journal.journal_path(tmp_path, "infer")).write_text(content)
    assert table(tmp_path).lost == []
    (line,) = caplog.messages
    assert "jobs of the previous process get no outcome" in line


@pytest.mark.parametrize("other", ["pipe", "link", "folder"])
def test_journal_that_is_no_file_is_passed_over(tmp_path: Path, other: str) -> None:
    path = journal.journal_path(tmp_path, "infer")
    (tmp_path / "victim").write_text("victim")
    if other == "pipe":
        os.mkfifo(path)
    elif other == "link":
        path.symlink_to(tmp_path / "victim")
    else:
        path.mkdir()
    in_flight = table(tmp_path)
    in_flight.open_frame(frame(), jobs_of(frame()))
    in_flight.save()  # a folder cannot be replaced: work goes on without the journal
    assert (tmp_path / "victim").read_text() == "victim"
