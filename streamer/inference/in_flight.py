"""The table of all jobs in flight and of the frames they need.

A job moves through the states fetching, waiting, running, publishing and then leaves the table. `save` writes the
table to the crash journal, `load` recovers it in the next process: no job is lost when the process dies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from streamer.config.model import Stream
from streamer.inference import journal
from streamer.inference.crop import crop_to_zone, to_full_frame
from streamer.inference.journal import CrashRecovery, JobRow
from streamer.inference.quarantine import Quarantine
from streamer.types import Frame, FrameId, FrameOutcome, Job, Outcome, Result, Zone


class JobState(Enum):
    FETCHING = "fetching"
    """A frame was requested from capture. The job has no frame yet."""
    WAITING = "waiting"
    """The frame is here, the engine has no room yet."""
    RUNNING = "running"
    """The engine has the job."""
    PUBLISHING = "publishing"
    """The outcome was sent and emit has not acked it."""


class JobId(NamedTuple):
    stream: str
    name: str
    """Task name."""
    frame: FrameId | None
    """None while the frame is being fetched."""


def id_of(job: Job) -> JobId:
    return JobId(job.due.stream, job.due.task.name, job.frame.id)


@dataclass(slots=True)
class _InFlightJob:
    state: JobState
    job: Job | None = None
    """None while the frame is being fetched."""


@dataclass(slots=True)
class _OpenFrame:
    """A frame whose buffer is in use."""

    frame: Frame
    unfinished: set[JobId]
    outcomes: set[Outcome] = field(default_factory=set)
    stopped: bool = False
    """A job of the frame was discarded because the process stops."""
    crops: dict[Zone, Frame] = field(default_factory=dict)

    @property
    def outcome(self) -> FrameOutcome:
        if self.stopped:
            return "stopped"
        if self.outcomes == {"stale"}:
            return "stale"
        if self.outcomes == {"unchanged"}:
            return "unchanged"
        return "done" if self.outcomes - {"stale", "unchanged", "error"} else "error"


class ClosedFrame(NamedTuple):
    """A frame whose jobs have all left the table: it can be settled."""

    frame: Frame
    outcome: FrameOutcome


class InFlight:
    """Not thread-safe."""

    def __init__(self, runtime: Path, streams: Mapping[str, Stream]) -> None:
        """Read the journal of the previous process in `runtime`; call `load` next."""
        self._path = runtime / journal.FILE
        self._streams = streams
        self._previous = journal.read(self._path)
        recordings = {name for name, stream in streams.items() if stream.source.pace == "file"}
        self.quarantine = Quarantine(recordings, self._previous.quarantine)
        self._jobs: dict[JobId, _InFlightJob] = {}
        self._counts = Counter[JobState]()
        self._frames: dict[tuple[str, FrameId], _OpenFrame] = {}
        self._events: dict[str, JobId] = {}
        """Job of each event that is not acked."""
        self._changed = False

    # -- questions

    def count(self, *states: JobState) -> int:
        return sum(self._counts[state] for state in states)

    def jobs(self, state: JobState) -> list[Job]:
        """Return the jobs in `state`, which is not FETCHING, in the order in which they were added."""
        return [entry.job for entry in self._jobs.values() if entry.state is state and entry.job is not None]

    def is_fetching(self, stream: str) -> bool:
        return any(job_id.stream == stream and job_id.frame is None for job_id in self._jobs)

    # -- transitions

    def start_fetch(self, stream: str, names: Iterable[str]) -> None:
        """A frame was requested for these tasks."""
        for name in names:
            self._set(JobId(stream, name, None), JobState.FETCHING)

    def end_fetch(self, stream: str) -> set[str]:
        """Capture has replied: return the names of the tasks for which the frame was requested."""
        fetched = [job_id for job_id in self._jobs if job_id.stream == stream and job_id.frame is None]
        for job_id in fetched:
            self._remove(job_id)
        return {job_id.name for job_id in fetched}

    def open_frame(self, frame: Frame, jobs: Iterable[Job]) -> None:
        """Add the jobs of a frame as waiting."""
        ids = {id_of(job): job for job in jobs}
        self._frames[frame.stream, frame.id] = _OpenFrame(frame, set(ids))
        for job_id, job in ids.items():
            self._set(job_id, JobState.WAITING, job)

    def start(self, jobs: Iterable[Job]) -> None:
        """The engine gets these jobs next. They are in the journal before this returns."""
        for job in jobs:
            self._set(id_of(job), JobState.RUNNING, job)
        self.save()

    def finish_run(self, job: Job) -> None:
        """The engine has returned the result of a running job, which is published next."""
        self.quarantine.on_finished(self.quarantine.suspect(job))
        self._set(id_of(job), JobState.PUBLISHING, job)

    def add_event(self, job: Job, outcome: Outcome, event: str) -> None:
        """The outcome was sent as the event with the id `event`: the job stays until that is acked."""
        job_id = id_of(job)
        self._set(job_id, JobState.PUBLISHING, job)
        self._events[event] = job_id
        if open_frame := self._frames.get((job_id.stream, job.frame.id)):
            open_frame.outcomes.add(outcome)

    def on_acked(self, events: Iterable[str]) -> list[ClosedFrame]:
        """Remove the jobs of these events; return the frames that can be settled."""
        acked = [self._events.pop(event) for event in events if event in self._events]
        return self._remove_all(acked)

    def finish(self, job: Job, outcome: Outcome) -> list[ClosedFrame]:
        """Remove a job whose outcome needs no ack; return its frame if that can be settled."""
        self._frames[job.due.stream, job.frame.id].outcomes.add(outcome)
        return self._remove_all([id_of(job)])

    def discard_waiting(self) -> list[ClosedFrame]:
        """Remove all waiting jobs, because the process stops; return the frames that can be settled."""
        waiting = self.jobs(JobState.WAITING)
        for job in waiting:
            self._frames[job.due.stream, job.frame.id].stopped = True
        return self._remove_all(map(id_of, waiting))

    # -- pictures

    def crop(self, job: Job) -> Job:
        """Return the job with the part of its frame that its task sees; tasks of one zone share the crop."""
        zone, opened = job.due.task.zone, self._frames[job.due.stream, job.frame.id]
        if zone is None:
            return job
        if zone not in opened.crops:
            opened.crops[zone] = crop_to_zone(zone, opened.frame)
        return Job(job.due, opened.crops[zone])

    def uncrop(self, result: Result) -> Result:
        """Return the result of a cropped job with its places in the full frame."""
        zone = result.job.due.task.zone
        if zone is None:
            return result
        frame = self._frames[result.job.due.stream, result.job.frame.id].frame
        return replace(result, job=Job(result.job.due, frame), answer=to_full_frame(result.answer, zone, frame))

    # -- journal

    def load(self, was_killed: bool = False) -> CrashRecovery:
        """Recover what the previous process left: call this once. Its lost jobs are publishing from now on.

        `was_killed`: the process was ended from outside, so no job is suspected.
        """
        recovery = journal.recover(self._previous, self._streams, self.quarantine, was_killed)
        self._previous = journal.State()
        for result in recovery.lost:
            self._set(id_of(result.job), JobState.PUBLISHING, result.job)
        self._changed = True
        return recovery

    def save(self) -> None:
        """Write the journal if anything changed. A kill at any moment leaves the old file or the new one."""
        if not self._changed:
            return
        entries = [entry for entry in self._jobs.values() if entry.job is not None]
        rows = [JobRow.of(entry.job) for entry in entries if entry.job is not None]
        running = [place for place, entry in enumerate(entries) if entry.state is JobState.RUNNING]
        journal.write(self._path, journal.State(rows, running, self.quarantine.state()))
        self._changed = False

    def _set(self, job_id: JobId, state: JobState, job: Job | None = None) -> None:
        if (old := self._jobs.get(job_id)) is not None:
            self._counts[old.state] -= 1
        self._jobs[job_id] = _InFlightJob(state, job)
        self._counts[state] += 1
        self._changed |= job is not None

    def _remove(self, job_id: JobId) -> None:
        self._counts[self._jobs.pop(job_id).state] -= 1
        self._changed |= job_id.frame is not None

    def _remove_all(self, ids: Iterable[JobId]) -> list[ClosedFrame]:
        closed = []
        for job_id in ids:
            self._remove(job_id)
            assert job_id.frame is not None
            key = job_id.stream, job_id.frame
            if (opened := self._frames.get(key)) is None:
                continue  # the frame was fetched by the previous process
            opened.unfinished.remove(job_id)
            if not opened.unfinished:
                closed.append(ClosedFrame(opened.frame, opened.outcome))
                del self._frames[key]
        return closed
