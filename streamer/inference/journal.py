"""What the inference process has taken on, in a file that outlives it: so a dead one leaves no job without an outcome.

The file is written before the engine runs, and read by the next process. Jobs of a camera that were lost with the dead
one are told as `dropped`; those of a recording come again by themselves. What kept killing it is left out.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from streamer.config.model import Stream
from streamer.core import atomic_file
from streamer.events.build import task_event
from streamer.events.schema import StatusEvent
from streamer.inference.canary import NO_EPOCH
from streamer.inference.quarantine import Quarantine, Suspect, Verdict
from streamer.types import DueTask, Frame, FrameId, Job, Result

log = logging.getLogger(__name__)

VERSION = 1
FILE = "infer.docket"
LOST = "the inference process died with it"


class _Row(NamedTuple):
    """A job, without its pixels."""

    stream: str
    name: str
    epoch: int
    seq: int
    pts: float | None
    width: int
    height: int
    captured_at: float
    captured_mono: float


_Key = tuple[str, str, FrameId]


@dataclass(frozen=True, slots=True)
class CrashRecovery:
    """What the process before left behind."""

    lost: list[Result]
    verdict: StatusEvent | None


class InFlightJournal:
    """Jobs are entered when they are taken, marked while the engine has them, and struck when their event is safe."""

    def __init__(self, runtime: Path, agent: str, streams: Mapping[str, Stream]) -> None:
        self._path = runtime / FILE
        self._agent, self._streams = agent, streams
        self._recordings = {name for name, stream in streams.items() if stream.source.pace == "file"}
        self._rows: dict[_Key, _Row] = {}
        self._running: dict[_Key, Suspect] = {}
        self._changed = False
        self._before = self._read()
        self._quarantine = Quarantine(self._recordings, self._before.get("quarantine"))

    def recover(self, was_killed: bool = False) -> CrashRecovery:
        """To be called once; then `write`, tell it, and strike the lost jobs once their events are safe.

        `was_killed`: by somebody outside, so that nobody is suspected.
        """
        before, self._before = self._before, {}
        rows = [_Row(*row) for row in before.get("jobs", ())]
        running = [rows[place] for place in before.get("running", ())]
        if not rows:
            return CrashRecovery([], None)
        suspects = [] if was_killed else [self._question(row) for row in running]
        verdict = self._quarantine.on_crash(suspects, time.monotonic())
        cameras = [row for row in rows if row.stream not in self._recordings and row.epoch != NO_EPOCH]
        lost = {row: job for row in cameras if (job := self._job(row)) is not None}
        self._rows = {key(job): row for row, job in lost.items()}
        self._changed = True
        return CrashRecovery(
            [Result(job, "dropped", error=LOST) for job in lost.values()], verdict and self._told(verdict)
        )

    def add(self, jobs: Iterable[Job]) -> None:
        """These were taken from the schedule."""
        for job in jobs:
            frame, (height, width) = job.frame, job.frame.image.shape[:2]
            self._rows[key(job)] = _Row(
                job.due.stream, job.due.task.name, frame.epoch, frame.seq, frame.pts,
                width, height, frame.captured_at, frame.captured_mono,
            )  # fmt: skip
            self._changed = True

    def admit(self, jobs: Iterable[Job]) -> tuple[list[Job], list[Job], list[Job]]:
        """Which of these may run now, which have to wait, and which are left out."""
        moment = time.monotonic()
        asked = [(job, self._quarantine.suspect(job)) for job in jobs]
        refused = [job for job, question in asked if self._quarantine.is_blocked(question, moment)]
        asked = [(job, question) for job, question in asked if not self._quarantine.is_blocked(question, moment)]
        admitted = self._quarantine.admit([question for _, question in asked], self._running.values())
        now = [job for (job, _), may in zip(asked, admitted, strict=True) if may]
        waiting = [job for (job, _), may in zip(asked, admitted, strict=True) if not may]
        return now, waiting, refused

    def may_run(self, job: Job) -> bool:
        """It is neither left out nor under suspicion."""
        question = self._quarantine.suspect(job)
        return self._quarantine.admit([question], []) == [True] and not self._quarantine.is_blocked(
            question, time.monotonic()
        )

    def start(self, jobs: Iterable[Job]) -> None:
        """The engine gets these next. They are in the file before this returns."""
        for job in jobs:
            self._running[key(job)] = self._quarantine.suspect(job)
            self._changed = True
        self.save()

    def finish(self, job: Job) -> None:
        """The engine has answered."""
        self._quarantine.on_finished(self._running.pop(key(job)))
        self._changed = True

    def remove(self, stream: str, name: str, frame: FrameId) -> None:
        """The job's event is safe."""
        self._rows.pop((stream, name, frame), None)
        self._changed = True

    def save(self) -> None:
        """Bring the file up to date; a kill at any moment leaves the old one or the new one."""
        if not self._changed:
            return
        places = {one: place for place, one in enumerate(self._rows)}
        state = {
            "v": VERSION,
            "jobs": list(self._rows.values()),
            "running": [places[one] for one in self._running],
            "quarantine": self._quarantine.state(),
        }
        atomic_file.write(self._path, json.dumps(state))
        self._changed = False

    def _read(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = json.loads(self._path.read_text())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            log.error("%s cannot be read (%s): jobs of the process before have no outcome", self._path, error)
            return {}
        return state if state.get("v") == VERSION else {}

    def _question(self, row: _Row) -> Suspect:
        frame = FrameId(row.epoch, row.seq) if row.stream in self._recordings else None
        return Suspect(row.stream, row.name, frame)

    def _job(self, row: _Row) -> Job | None:
        """The job with a black picture; None when the config knows its task no more."""
        tasks = self._streams[row.stream].tasks if row.stream in self._streams else ()
        for task in tasks:
            if task.name == row.name:
                black = np.broadcast_to(np.uint8(0), (row.height, row.width, 3))
                frame = Frame(row.stream, row.epoch, row.seq, row.captured_at, row.captured_mono, row.pts, black)
                return Job(DueTask(row.stream, task, 0.0), frame)
        return None

    def _told(self, verdict: Verdict) -> StatusEvent:
        question = verdict.question
        where = f" in frame {question.frame.seq}" if question.frame else ""
        left_out = f"the task is left out for {verdict.pause:g} s" if verdict.pause else "this frame is left out"
        reason = f"task {question.name}{where} ended the inference process {verdict.deaths} times: {left_out}"
        log.error("%s: %s", question.stream, reason)
        return task_event(self._agent, question.stream, question.name, "quarantined", reason, verdict.pause)


def key(job: Job) -> _Key:
    """What tells a job from all others."""
    return job.due.stream, job.due.task.name, job.frame.id
