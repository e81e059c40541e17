"""Messages between the parent and its children: the assignment that a child starts with, and the reports it sends back.

Both are one line of JSON. The assignment goes to the child's standard input, because it holds secrets: nothing secret
is ever in an argument or in the environment.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from streamer.bus.stream_state import NO_ROWS, Moment, QuarantineRows
from streamer.core.logs import Format


class Role(StrEnum):
    """Roles of a child process; each is a module of this package with a function `run(worker)`."""

    CAPTURE = "capture"
    INFER = "infer"
    EMIT = "emit"
    VIEW = "view"
    PUSH = "push"
    WEB = "web"
    RULES = "rules"
    SERVE = "serve"


def child_name(role: Role, target: str | None) -> str:
    """Return the name in logs, events and file names, such as `capture:gate`. `target`: as of `Child.target`."""
    return f"{role}:{target}" if target else role.value


class Assignment(BaseModel):
    """Data that a child needs when it starts."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    config: dict[str, Any]
    """The child's part of the config as plain data, secrets included; see `config_part.py`."""
    runtime: Path
    """Folder of sockets and frame buffers, mode 0700, on a tmpfs."""
    state: Path
    """Folder of what outlives the processes, such as the ledger."""
    inference: tuple[str | None, ...] = (None,)
    """Targets of the inference processes, one for each device of the model. None of them if no stream has a task."""
    serves: dict[str, int | None] | None = None
    """For infer: streams that it serves from its start, each with its `lease` as of `ServeStream`. None: those of the
    config, if it is the only one."""
    lease: int | None = None
    """For capture: as of `ServeStream`."""
    running: tuple[str, ...] | None = None
    """For web: streams that run at unix second `made_at`. None: all."""
    made_at: float = 0.0
    host: str | None = None
    """For web: this host in the config's cluster."""
    devices: dict[str, str] = {}
    """For web: names of the devices by their first inference process, if there are several."""
    is_first_start: bool = True
    """No process of this child has been ready yet: what cannot be opened is a config error, which stops the agent."""
    report_fd: int = -1
    """File descriptor that the child writes its reports to."""
    environment: dict[str, str] = {}
    """Variables of the role beside those that every child has."""
    error_counts: dict[str, int] = {}
    """Number of earlier processes of this child that ended with an internal error, by its id; the log has the stack."""
    heartbeat_fd: int = -1
    """File descriptor of the memory of the child's heartbeat."""
    max_events: int | None = None
    """For emit: end the agent after this many results on standard output."""
    was_killed: bool = False
    """The previous process was killed from outside, so nothing that it did is suspected."""
    is_trial: bool = False
    """For infer: another model is running. Check the memory first and try the model on a picture: a failure is an error
    in the choice of the model."""
    quarantine: QuarantineRows = NO_ROWS
    """For infer: suspects and blocked tasks of the streams that it serves from its start."""
    since: Moment | None = None
    """For infer: end of the process before, which served these streams."""
    log_level: str = "info"
    log_format: Format = "text"
    secrets: tuple[str, ...] = ()
    """Texts that the child must redact: those of environment variables are not recognizable in `config`."""


class ReportKind(StrEnum):
    """A report of a child."""

    READY = "ready"
    """It has started its work."""
    FIRST_FRAME = "first_frame"
    """Its camera or file has given a first frame."""
    FINISHED = "finished"
    """The limit `max_events` is reached: the agent should stop."""
    ENDED = "ended"
    """Its work is done, for example because its recording has ended. It is not started again."""
    UNREADABLE = "unreadable"
    """Its recording cannot be read. It tries again."""
    INCOMPLETE = "incomplete"
    """Its recording ended early, and must be whole: the agent fails at its end."""
    SPEED = "speed"
    """It has measured its device. Reported by one of several inference processes."""
    FAILED = "failed"
    """It stops because of a config error. At the first start the agent stops with exit code 2."""
    CRASHED = "crashed"
    """It stops because of an unexpected error and is started again."""


class Report(BaseModel):
    """One report of a child."""

    model_config = ConfigDict(frozen=True)

    kind: ReportKind
    reason: str | None = None
    """Reason of `unreadable`, `incomplete`, `failed` and `crashed`."""
    speed: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Speed of a device relative to the reference device, in `speed`."""
    address: str | None = None
    """Address that web serves, in its `ready`."""
    model: str | None = None
    """Name of the model in events, in `ready` of infer."""
