"""The crash journal: the file format of the jobs in flight, and recovery from the file of a process that died.

The file is written before the engine runs. Jobs of cameras that a dead process left get the outcome `dropped`. Frames
of recordings are fetched again, so their jobs need no outcome here.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from streamer.config.model import Stream
from streamer.core import atomic_file
from streamer.inference.canary import NO_EPOCH
from streamer.inference.quarantine import Quarantine, Verdict
from streamer.types import DueTask, Frame, FrameId, Job, Result

log = logging.getLogger(__name__)

VERSION = 1
FILE = "infer.journal"
LOST = "the inference process died while it had this job"


class JobRow(NamedTuple):
    """A job without its pixels."""

    stream: str
    name: str
    epoch: int
    seq: int
    pts: float | None
    width: int
    height: int
    captured_at: float
    captured_mono: float

    @classmethod
    def of(cls, job: Job) -> JobRow:
        frame, (height, width) = job.frame, job.frame.image.shape[:2]
        return cls(
            job.due.stream, job.due.task.name, frame.epoch, frame.seq, frame.pts,
            width, height, frame.captured_at, frame.captured_mono,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class State:
    """Content of the file."""

    jobs: Sequence[JobRow] = ()
    running: Sequence[int] = ()
    """Places in `jobs` of those that the engine has."""
    quarantine: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class CrashRecovery:
    lost: Sequence[Result] = field(default_factory=list)
    """The outcomes of the jobs that the dead process left."""
    verdict: Verdict | None = None
    """The task or frame that killed the process, once it is found."""


def write(path: Path, state: State) -> None:
    """Replace the file. Raises OSError.

    It is not synced: it must outlive the process only, and is written twice per engine step.
    """
    content = {"v": VERSION, "jobs": state.jobs, "running": state.running, "quarantine": state.quarantine}
    atomic_file.write(path, json.dumps(content), sync=False)


def read(path: Path) -> State:
    """Return the content of the file, an empty state where there is none, or none of this version."""
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return State()
    except ValueError as error:
        log.error("journal %s unreadable (%s): jobs of the previous process get no outcome", path, error)
        return State()
    if content.get("v") != VERSION:
        return State()
    return State([JobRow(*row) for row in content["jobs"]], content["running"], content["quarantine"])


def recover(previous: State, streams: Mapping[str, Stream], quarantine: Quarantine, was_killed: bool) -> CrashRecovery:
    """Return the outcomes of the jobs that a dead process left, and update the quarantine."""
    if not previous.jobs:
        return CrashRecovery()
    rows = [] if was_killed else [previous.jobs[place] for place in previous.running]
    suspects = [quarantine.suspect_of(row.stream, row.name, FrameId(row.epoch, row.seq)) for row in rows]
    verdict = quarantine.on_crash(suspects, time.monotonic())
    jobs = [job for row in previous.jobs if (job := _job(row, streams)) is not None]
    return CrashRecovery([Result(job, "dropped", error=LOST) for job in jobs], verdict)


def _job(row: JobRow, streams: Mapping[str, Stream]) -> Job | None:
    """Return the camera job of a row with a black picture.

    None for a recording, for the canary and for a task that the config no longer has.
    """
    stream = streams.get(row.stream)
    if stream is None or stream.source.pace == "file" or row.epoch == NO_EPOCH:
        return None
    task = next((task for task in stream.tasks if task.name == row.name), None)
    if task is None:
        return None
    black = np.broadcast_to(np.uint8(0), (row.height, row.width, 3))
    frame = Frame(row.stream, row.epoch, row.seq, row.captured_at, row.captured_mono, row.pts, black)
    return Job(DueTask(row.stream, task, 0.0), frame)
