"""Messages between the parent and its children: the assignment that a child starts with, and the reports it sends back.

Both are one line of JSON. The assignment goes to the child's standard input, because it holds secrets: nothing secret
is ever in an argument or in the environment.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from streamer.core.errors import WireError
from streamer.core.logs import Format


class Role(StrEnum):
    """Roles of a child process; each is a module of this package with a function `run(worker)`."""

    CAPTURE = "capture"
    INFER = "infer"
    EMIT = "emit"
    VIEW = "view"
    PUSH = "push"
    WEB = "web"


def child_name(role: Role, target: str | None) -> str:
    """Return the name in logs, events and file names, such as `capture:gate`. `target`: as of `Child.target`."""
    return f"{role}:{target}" if target else role.value


@dataclass(frozen=True, slots=True)
class Assignment:
    """Data that a child needs when it starts."""

    config: dict[str, Any]
    """Plain data of the config, secrets included."""
    runtime: str
    """Folder of sockets and frame buffers."""
    state: str
    """Folder of what outlives the processes."""
    report_fd: int
    """File descriptor that the child writes its reports to."""
    max_events: int | None = None
    """For emit: end the agent after this many results on standard output."""
    was_killed: bool = False
    """The previous process was killed from outside, so none of its jobs is a suspect."""
    log_level: str = "info"
    log_format: Format = "text"

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> Assignment:
        return cls(**json.loads(line))


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
    FAILED = "failed"
    """It stops because of a config error: the agent stops with exit code 2."""
    CRASHED = "crashed"
    """It stops because of an unexpected error and is started again."""
    STUCK = "stuck"
    """A library call does not return: the parent must replace the process."""


@dataclass(frozen=True, slots=True)
class Report:
    """One report of a child."""

    kind: ReportKind
    reason: str | None = None
    """Reason of `failed`, `crashed` and `stuck`."""
    address: str | None = None
    """Address that web serves, in its `ready`."""

    def encode(self) -> bytes:
        given = {key: value for key, value in asdict(self).items() if value is not None}
        return json.dumps(given).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> Report:
        """Raises WireError."""
        try:
            given = json.loads(line)
            return cls(ReportKind(given["kind"]), given.get("reason"), given.get("address"))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise WireError(f"not a report ({type(error).__name__}): {line[:80]!r}") from None
