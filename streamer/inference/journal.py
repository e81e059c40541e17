"""The crash journal: the file format of the jobs in flight, and recovery from the file of a process that died.

The file is written before the engine runs. Jobs of cameras that a dead process left get the outcome `dropped`. Frames
of recordings are fetched again, so their jobs need no outcome here. The parent reads the quarantine in it before it
starts the next process.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from streamer.bus.stream_state import NO_ROWS, QuarantineRows, Whole
from streamer.config.follow_up import all_follow_ups
from streamer.config.model import Stream
from streamer.core import atomic_file
from streamer.core.ipc import wrong_part
from streamer.inference.follow_ups import follow_up_job
from streamer.types import DueTask, Frame, Job, Parent, Region, Result

log = logging.getLogger(__name__)

VERSION: Literal[3] = 3
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
    parent: Parent | None = None


class State(NamedTuple):
    """Content of the file."""

    jobs: Sequence[JobRow] = ()
    quarantine: QuarantineRows = NO_ROWS


_Time = Annotated[float, Field(ge=0, lt=1e11, allow_inf_nan=False)]
"""A unix or monotonic second."""
_MediaTime = Annotated[float, Field(allow_inf_nan=False)]
_Side = Annotated[int, Field(gt=0, le=65_536)]
_Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_Region = tuple[_Fraction, _Fraction, _Fraction, _Fraction]
_Parent = tuple[str, tuple[Whole, ...], str | None, Whole | None, _Region | None]
_Row = tuple[
    str, bool, str, Whole, Whole, _Time, _Time, _MediaTime | None, tuple[_Side, _Side, Literal[3]], _Parent | None
]


class _File(BaseModel):
    """The file as `write` writes it. Another program may have changed it, and earlier versions wrote other shapes."""

    model_config = ConfigDict(extra="forbid")

    v: Literal[3]
    jobs: list[_Row]
    quarantine: QuarantineRows


def journal_path(runtime: Path, process: str) -> Path:
    """Return the path of the journal of an inference process with this name."""
    return runtime / f"{process}.journal"


def write(path: Path, state: State) -> None:
    """Replace the file. Raises OSError.

    It is not synced: it must outlive the process only, and is written twice per engine step.
    """
    jobs = [
        (name, running, one.stream, one.epoch, one.seq, one.captured_at, one.captured_mono, one.pts, one.image.shape,
         None if parent is None else astuple(parent))
        for name, running, one, parent in state.jobs
    ]  # fmt: skip
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
        return _unreadable(path, wrong_part(error))
    jobs = []
    for name, running, stream, epoch, seq, captured_at, captured_mono, pts, shape, parent in content.jobs:
        black = np.broadcast_to(np.uint8(0), shape)
        lost = Frame(stream, epoch, seq, captured_at, captured_mono, pts, black)
        jobs.append(JobRow(name, running, lost, parent and _parent(*parent)))
    return State(jobs, content.quarantine)


def _unreadable(path: Path, reason: object) -> State:
    log.error("journal %s unreadable (%s): jobs of the previous process get no outcome", path, reason)
    return State()


def lost_jobs(previous: State, streams: Mapping[str, Stream]) -> list[Result]:
    """Return the outcomes of the jobs that a dead process left."""
    jobs = [job for row in previous.jobs if (job := _job(row, streams)) is not None]
    return [Result(job, "dropped", error=LOST) for job in jobs]


def _job(row: JobRow, streams: Mapping[str, Stream]) -> Job | None:
    """Return the camera job of a row.

    None for a recording, for the canary and for a task that the config no longer has.
    """
    stream = streams.get(row.frame.stream)
    if stream is None or stream.source.pace == "file" or row.frame.epoch == NO_EPOCH:
        return None
    if row.parent is not None:
        follow_ups = [one for task in stream.tasks for one in all_follow_ups(task) if one.name == row.name]
        return follow_up_job(follow_ups[0], row.parent, row.frame, 0.0) if follow_ups else None
    task = next((task for task in stream.tasks if task.name == row.name), None)
    return None if task is None else Job(DueTask(row.frame.stream, task, 0.0), row.frame)


def _parent(event: str, path: tuple[int, ...], label: str | None, track: int | None, region: _Region | None) -> Parent:
    return Parent(event, path, label, track, None if region is None else Region(*region))
