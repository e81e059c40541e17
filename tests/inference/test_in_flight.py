"""The in-flight table: states of jobs, settling of frames, and the journal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from streamer.config.model import from_mapping
from streamer.inference import journal
from streamer.inference.in_flight import InFlight, JobState
from streamer.inference.quarantine import Suspect
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
    state = journal.read(tmp_path / journal.FILE)
    assert [(row.name, row.running) for row in state.jobs] == [("caption", False), ("ocr", True)]
    next_process = table(tmp_path)
    assert {result.job.due.task.name for result in next_process.recovery.lost} == set(NAMES)
    assert next_process.quarantine.may_run([Suspect("gate", "caption", None), Suspect("gate", "ocr", None)], []) == [
        False,
        True,
    ], "the task that was running is a suspect"


def test_unreadable_journal_is_reported_and_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / journal.FILE
    path.write_text("{")
    assert not table(tmp_path).recovery.lost
    assert "unreadable" in caplog.text
    path.write_text(json.dumps({"v": journal.VERSION + 1}))
    assert not table(tmp_path).recovery.lost
