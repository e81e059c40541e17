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
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from streamer.config.model import Stream
from streamer.core import atomic_file
from streamer.inference.quarantine import Quarantine, Verdict
from streamer.types import DueTask, Frame, Job, Result

log = logging.getLogger(__name__)

VERSION: Literal[2] = 2
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


_Whole = Annotated[int, Field(ge=0, lt=1 << 53)]
_Time = Annotated[float, Field(ge=0, lt=1e11, allow_inf_nan=False)]
"""A unix or monotonic second."""
_MediaTime = Annotated[float, Field(allow_inf_nan=False)]
_Side = Annotated[int, Field(gt=0, le=65_536)]
_Row = tuple[str, bool, str, _Whole, _Whole, _Time, _Time, _MediaTime | None, tuple[_Side, _Side, Literal[3]]]
_Suspect = tuple[str, str, tuple[_Whole, _Whole] | None]


class _File(BaseModel):
    """The file as `write` writes it. Another program may have changed it, and earlier versions wrote other shapes."""

    model_config = ConfigDict(extra="forbid")

    v: Literal[2]
    jobs: list[_Row]
    quarantine: tuple[list[tuple[_Suspect, _Whole]], list[tuple[_Suspect, float]], list[tuple[_Suspect, _Whole]]] | None


class CrashRecovery(NamedTuple):
    lost: Sequence[Result] = ()
    """The outcomes of the jobs that the dead process left."""
    verdict: Verdict | None = None
    """The task or frame that killed the process, once it is found."""


def journal_path(runtime: Path, process: str) -> Path:
    """Return the path of the journal of an inference process with this name."""
    return runtime / f"{process}.journal"


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
        content = _File.model_validate_json(atomic_file.read(path))
    except FileNotFoundError:
        return State()
    except OSError as error:
        return _unreadable(path, error.strerror)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        return _unreadable(path, f"`{'.'.join(map(str, first['loc']))}` is missing or wrong")
    jobs = []
    for name, running, stream, epoch, seq, captured_at, captured_mono, pts, shape in content.jobs:
        black = np.broadcast_to(np.uint8(0), shape)
        jobs.append(JobRow(name, running, Frame(stream, epoch, seq, captured_at, captured_mono, pts, black)))
    return State(jobs, content.quarantine)


def _unreadable(path: Path, reason: object) -> State:
    log.error("journal %s unreadable (%s): jobs of the previous process get no outcome", path, reason)
    return State()


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
