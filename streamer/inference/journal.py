"""The crash journal: the file format of the jobs in flight, and recovery from the file of a process that died.

The file is written before the engine runs. Jobs of cameras that a dead process left get the outcome `dropped`. Frames
of recordings are fetched again, so their jobs need no outcome here.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from streamer.config.model import Stream
from streamer.core import atomic_file
from streamer.inference.quarantine import Quarantine, Verdict
from streamer.types import DueTask, Frame, Job, Result

log = logging.getLogger(__name__)

VERSION = 2
FILE = "infer.journal"
NO_EPOCH = 0
"""The epoch of a picture that no camera made."""
LOST = "the inference process died while it had this job"


class JobRow(NamedTuple):
    """A job. The file has no pixels: the picture of a frame that was read from it is black."""

    name: str
    """Task name."""
    running: bool
    """The engine has the job."""
    frame: Frame


class State(NamedTuple):
    """Content of the file."""

    jobs: Sequence[JobRow] = ()
    quarantine: Sequence[Any] | None = None


class CrashRecovery(NamedTuple):
    lost: Sequence[Result] = ()
    """The outcomes of the jobs that the dead process left."""
    verdict: Verdict | None = None
    """The task or frame that killed the process, once it is found."""


def write(path: Path, state: State) -> None:
    """Replace the file. Raises OSError.

    It is not synced: it must outlive the process only, and is written twice per engine step.
    """
    jobs = [
        (name, running, one.stream, one.epoch, one.seq, one.captured_at, one.captured_mono, one.pts, one.image.shape)
        for name, running, one in state.jobs
    ]
    atomic_file.write(path, json.dumps({"v": VERSION, "jobs": jobs, "quarantine": state.quarantine}), sync=False)


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
    jobs = []
    for name, running, *frame, shape in content["jobs"]:
        frame.append(np.broadcast_to(np.uint8(0), shape))
        jobs.append(JobRow(name, running, Frame(*frame)))
    return State(jobs, content["quarantine"])


def recover(previous: State, streams: Mapping[str, Stream], quarantine: Quarantine, was_killed: bool) -> CrashRecovery:
    """Return the outcomes of the jobs that a dead process left, and update the quarantine."""
    running = [] if was_killed else [row for row in previous.jobs if row.running]
    suspects = [quarantine.suspect_of(row.frame.stream, row.name, row.frame.id) for row in running]
    verdict = quarantine.on_crash(suspects, time.monotonic())
    jobs = [job for row in previous.jobs if (job := _job(row, streams)) is not None]
    return CrashRecovery([Result(job, "dropped", error=LOST) for job in jobs], verdict)


def _job(row: JobRow, streams: Mapping[str, Stream]) -> Job | None:
    """Return the camera job of a row.

    None for a recording, for the canary and for a task that the config no longer has.
    """
    stream = streams.get(row.frame.stream)
    if stream is None or stream.source.pace == "file" or row.frame.epoch == NO_EPOCH:
        return None
    task = next((task for task in stream.tasks if task.name == row.name), None)
    return None if task is None else Job(DueTask(row.frame.stream, task, 0.0), row.frame)
