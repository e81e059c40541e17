"""The engine's job queue: which jobs start next, how many run at once, and the order of their results."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.florence2.fast.speculative import Key
from pipelines.florence2.processor import result
from streamer.types import Answer, Frame, Job, Result

RECOVERY = 16
"""Successful answers after which a reduced batch limit is doubled."""


@dataclass(slots=True, eq=False)
class EngineJob:
    """A job in the engine."""

    job: Job
    prompt: Sequence[int] = ()
    """Token ids behind the image placeholders; set when the job starts."""
    max_tokens: int = 0
    """Maximum length of the answer in tokens; set when the job starts."""
    started: float = 0.0
    """Monotonic second of the job's first start; 0 before it."""
    result: Result | None = None

    @property
    def key(self) -> Key:
        return self.job.due.stream, self.job.due.task.name


class Scheduler:
    """Queue of admitted jobs with a batch limit that shrinks after failures and recovers.

    Results of one stream and task are returned in the order of their jobs, so that no answer is overtaken by the
    answer about a later frame.
    """

    def __init__(self, capacity: int, frames_per_step: int) -> None:
        """`capacity` is the maximum number of unfinished jobs; `frames_per_step` frames start together."""
        self.capacity = self.limit = capacity
        """`limit` is the number of jobs that may run now; less than `capacity` after a failure."""
        self._frames_per_step = frames_per_step
        self._waiting: deque[EngineJob] = deque()
        self._unfinished = 0
        self._in_order: dict[Key, deque[EngineJob]] = {}
        """Jobs whose results were not returned yet, in order of admission."""
        self._since_failure = 0
        """Successful answers since the last failure."""

    def free(self) -> int:
        return self.capacity - self._unfinished

    def add(self, jobs: Sequence[Job]) -> None:
        """Queue jobs. Raises ValueError when there are more than `free()`."""
        if len(jobs) > self.free():
            raise ValueError(f"{len(jobs)} jobs for {self.free()} free places")
        for job in jobs:
            added = EngineJob(job)
            self._waiting.append(added)
            self._in_order.setdefault(added.key, deque()).append(added)
        self._unfinished += len(jobs)

    def images_in_use(self) -> set[int]:
        """Return the ids of the images of unfinished jobs."""
        return {id(job.job.frame.image) for jobs in self._in_order.values() for job in jobs if job.result is None}

    def next_jobs(self) -> list[EngineJob]:
        """Take jobs from the queue: all about the next `frames_per_step` frames that fit into the batch limit."""
        room = self.limit - (self._unfinished - len(self._waiting))
        frames: list[Frame] = []
        chosen: list[EngineJob] = []
        for job in self._waiting:
            if len(chosen) >= room:
                break
            if all(job.job.frame.image is not frame.image for frame in frames):
                if len(frames) == self._frames_per_step:
                    continue
                frames.append(job.job.frame)
            chosen.append(job)
        for job in chosen:
            self._waiting.remove(job)
            job.started = job.started or time.monotonic()
        return chosen

    def finish(self, job: EngineJob, answer: Answer | str, draft: tuple[int, int] | None = None, near: int = 0) -> None:
        """Set the job's result. An answer of type str is an error message; `draft` and `near` as in `Result`."""
        seconds = time.monotonic() - job.started
        job.result = result(job.job, answer, job.started, seconds, self._unfinished, draft, near)
        self._unfinished -= 1
        if not isinstance(answer, str):
            self._since_failure += 1
            if self.limit < self.capacity and self._since_failure >= RECOVERY:
                self._since_failure, self.limit = 0, min(self.capacity, 2 * self.limit)

    def retry(self, jobs: Sequence[EngineJob], limit: int) -> None:
        """Put jobs back to the front of the queue, and reduce the batch limit."""
        self.limit = max(1, limit)
        self._waiting.extendleft(reversed(jobs))

    def record_failure(self) -> None:
        """Restart the count of successful answers that must pass before the batch limit grows."""
        self._since_failure = 0

    def pop_finished(self) -> list[Result]:
        """Return finished results, each after those of earlier jobs of its stream and task."""
        finished: list[Result] = []
        for key, jobs in list(self._in_order.items()):
            while jobs and (ended := jobs[0].result):
                jobs.popleft()
                finished.append(ended)
            if not jobs:
                del self._in_order[key]
        return finished
