"""The table of all jobs in flight and of the frames they need.

A job moves through the states fetching, waiting, running, publishing and then leaves the table. `save` writes the
table to the crash journal, the table of the next process recovers it: no job is lost when the process dies.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from streamer.bus.stream_state import NO_ROWS, QuarantineRows
from streamer.config.model import Stream
from streamer.core.logs import RareLog
from streamer.inference import journal
from streamer.inference.crop import View, crop, uncrop
from streamer.inference.journal import NO_EPOCH, JobRow
from streamer.inference.quarantine import Quarantine
from streamer.types import Frame, FrameId, FrameOutcome, Job, Outcome, Result

log = logging.getLogger(__name__)


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
    """Task name, or the key of a follow-up."""
    frame: FrameId | None
    """None while the frame is being fetched."""


def id_of(job: Job) -> JobId:
    return JobId(job.due.stream, job.due.key, job.frame.id)


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
    outcomes: set[Outcome | FrameOutcome] = field(default_factory=set)
    """`stopped` if a job of the frame was discarded because the process stops."""
    pictures: dict[View, Frame] = field(default_factory=dict)
    """Parts of the frame that tasks see."""

    @property
    def outcome(self) -> FrameOutcome:
        """`done` if a job was answered, else the common outcome of all jobs, else `error`."""
        if "stopped" in self.outcomes:
            return "stopped"
        if self.outcomes == {"stale"}:
            return "stale"
        if self.outcomes == {"unchanged"}:
            return "unchanged"
        return "done" if self.outcomes - {"stale", "unchanged", "error"} else "error"


class InFlight:
    """The jobs in flight, and the frames whose buffers they use. Not thread-safe."""

    def __init__(
        self,
        runtime: Path,
        streams: Mapping[str, Stream],
        settle: Callable[[Frame, FrameOutcome], object],
        quarantine: QuarantineRows = NO_ROWS,
        process: str = "infer",
    ) -> None:
        """Recover from the journal of the previous process in `runtime`.

        `settle` is called for each frame of a camera or a recording once its jobs have all left the table.
        `quarantine`: rows of the streams that this process serves from its start. `process`: its name.
        """
        self._path = journal.journal_path(runtime, process)
        self._failed_saves = RareLog(log, "journal not written, %s: %s: %s", noun="time")
        self._settle = settle
        previous = journal.read(self._path)
        recordings = {name for name, stream in streams.items() if stream.source.pace == "file"}
        self.quarantine = Quarantine(recordings, quarantine)
        self.lost = journal.lost_jobs(previous, streams)
        """Outcomes of the jobs that the previous process left. The jobs are in state PUBLISHING."""
        self._jobs: dict[JobId, _InFlightJob] = {}
        self._frames: dict[tuple[str, FrameId | None], _OpenFrame] = {}
        self._events: dict[str, JobId] = {}
        """Job of each event that is not acked."""
        self._changed = True
        for result in self.lost:
            self._set(result.job, JobState.PUBLISHING)

    # -- questions

    def count(self, *states: JobState) -> int:
        return sum(entry.state in states for entry in self._jobs.values())

    def jobs(self, state: JobState) -> list[Job]:
        """Return the jobs in `state`, which is not FETCHING, in the order in which they were added."""
        return [entry.job for entry in self._jobs.values() if entry.state is state and entry.job is not None]

    def has_jobs_of(self, stream: str) -> bool:
        return any(job_id.stream == stream for job_id in self._jobs)

    def is_fetching(self, stream: str) -> bool:
        return any(job_id.stream == stream and job_id.frame is None for job_id in self._jobs)

    # -- transitions

    def start_fetch(self, stream: str, names: Iterable[str]) -> None:
        """Add jobs in state FETCHING: a frame was requested for these tasks."""
        for name in names:
            self._jobs[JobId(stream, name, None)] = _InFlightJob(JobState.FETCHING)

    def end_fetch(self, stream: str) -> set[str]:
        """Remove the fetching jobs of a stream; return the names of their tasks."""
        fetched = [job_id for job_id in self._jobs if job_id.stream == stream and job_id.frame is None]
        for job_id in fetched:
            del self._jobs[job_id]
        return {job_id.name for job_id in fetched}

    def open_frame(self, frame: Frame, jobs: Collection[Job]) -> None:
        """Add the jobs of a frame as waiting."""
        self._frames[frame.stream, frame.id] = _OpenFrame(frame, set(map(id_of, jobs)))
        for job in jobs:
            self._set(job, JobState.WAITING)

    def add_follow_ups(self, jobs: Iterable[Job]) -> None:
        """Add jobs about a frame that is open: its buffer stays in use until they have left the table."""
        for job in jobs:
            self._frames[job.due.stream, job.frame.id].unfinished.add(id_of(job))
            self._set(job, JobState.WAITING)

    def start(self, jobs: Iterable[Job]) -> None:
        """Move jobs to RUNNING, and save the journal before the engine gets them."""
        for job in jobs:
            self._set(job, JobState.RUNNING)
        self.save()

    def finish_run(self, job: Job) -> None:
        """Move a job to PUBLISHING: the engine has returned its result."""
        self.quarantine.on_finished(self.quarantine.as_suspect(job))
        self._set(job, JobState.PUBLISHING)

    def add_event(self, job: Job, outcome: Outcome, event: str) -> None:
        """Record that the outcome was sent as the event with the id `event`; the job stays until that is acked."""
        self._set(job, JobState.PUBLISHING)
        self._events[event] = id_of(job)
        if open_frame := self._frames.get((job.due.stream, job.frame.id)):
            open_frame.outcomes.add(outcome)

    def on_acked(self, events: Iterable[str]) -> None:
        """Remove the jobs of these events."""
        for event in events:
            if (job_id := self._events.pop(event, None)) is not None:
                self._remove(job_id)

    def finish(self, job: Job, outcome: Outcome) -> None:
        """Remove a job whose outcome needs no ack."""
        self._frames[job.due.stream, job.frame.id].outcomes.add(outcome)
        self._remove(id_of(job))

    def discard_waiting(self, stream: str | None = None) -> None:
        """Remove the waiting jobs of a stream that is given up, or all, because the process stops."""
        for job in [job for job in self.jobs(JobState.WAITING) if stream in (None, job.due.stream)]:
            self._frames[job.due.stream, job.frame.id].outcomes.add("stopped")
            self._remove(id_of(job))

    # -- quarantine

    def take_stream(self, rows: QuarantineRows) -> None:
        """Serve a stream with this quarantine."""
        self.quarantine.add(rows)
        self._changed = True

    def give_stream(self, stream: str) -> QuarantineRows:
        """Return the quarantine of a stream, and forget it: another process will serve the stream."""
        rows = self.quarantine.rows({stream})
        self.quarantine.forget(stream)
        self._changed = True
        return rows

    # -- pictures

    def crop(self, job: Job) -> Job:
        """Return the job with the part of its frame that its task sees."""
        return crop(job, self._frames[job.due.stream, job.frame.id].pictures)

    def uncrop(self, result: Result) -> Result:
        """Return the result of a cropped job as that of the job in the table, with its places in the full frame."""
        job = self._jobs[id_of(result.job)].job
        assert job is not None
        return uncrop(result, job)

    # -- journal

    def save(self) -> None:
        """Write the journal if anything changed. A kill at any moment leaves the old file or the new one.

        While it cannot be written, work goes on: after a crash, fewer outcomes would be known.
        """
        if not self._changed:
            return
        rows = [
            JobRow(entry.job.due.task.name, entry.state is JobState.RUNNING, entry.job.frame, entry.job.due.parent)
            for job_id, entry in self._jobs.items()
            if entry.job is not None
        ]
        try:
            journal.write(self._path, journal.State(rows, self.quarantine.rows()))
        except OSError as error:
            self._failed_saves.add(self._path, error.strerror)
        else:
            self._changed = False

    def _set(self, job: Job, state: JobState) -> None:
        self._jobs[id_of(job)] = _InFlightJob(state, job)
        self._changed = True

    def _remove(self, job_id: JobId) -> None:
        """Remove a job; settle its frame if that has no other."""
        del self._jobs[job_id]
        self._changed = True
        opened = self._frames.get((job_id.stream, job_id.frame))
        if opened is None:
            return  # the frame was fetched by the previous process
        opened.unfinished.remove(job_id)
        if not opened.unfinished:
            del self._frames[job_id.stream, job_id.frame]
            if opened.frame.epoch != NO_EPOCH:
                self._settle(opened.frame, opened.outcome)
