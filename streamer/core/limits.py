"""Limits that the operating system sets for this process and its children (`ulimit`): raised, or refused in words."""

from __future__ import annotations

import os
import resource

from streamer.core.errors import ConfigError

MAX_OPEN_FILES = 65_536
"""Descriptors up to which the limit is raised; some systems allow a billion, for which libraries reserve memory."""
BASE_OPEN_FILES, OPEN_FILES_PER_STREAM = 64, 4
"""Descriptors that a process needs."""
MIN_ADDRESS_SPACE = 8 << 30
"""Bytes of virtual memory that the inference process needs: libraries, model, and frame buffers of which little is
used."""
MIN_PROCESSES = 200
"""Processes and threads that a user must be allowed to have, besides `PROCESSES_PER_STREAM`."""
PROCESSES_PER_STREAM = 20


def prepare(streams: int) -> None:
    """Raise the limit of open files, which children inherit. Raises ConfigError for a limit that is too small."""
    raise_open_files()
    if problem := problem_of(streams):
        raise ConfigError(problem)


def raise_open_files() -> None:
    """Raise the limit of open files to what is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def problem_of(streams: int) -> str | None:
    """Return which limit is too small for an agent with so many streams, and how to raise it; None if all are fine."""
    processes = MIN_PROCESSES + PROCESSES_PER_STREAM * streams
    needed: list[tuple[int, int, str, str]] = [
        (
            resource.RLIMIT_NOFILE,
            BASE_OPEN_FILES + OPEN_FILES_PER_STREAM * streams,
            "open files",
            "-n {}, LimitNOFILE=",
        ),
        (resource.RLIMIT_AS, MIN_ADDRESS_SPACE, "bytes of virtual memory", "-v unlimited, LimitAS="),
    ]
    if os.geteuid() != 0:  # root has no such limit
        needed.append((resource.RLIMIT_NPROC, processes, "processes and threads", "-u {}, LimitNPROC="))
    for limit, least, what, remedy in needed:
        allowed, _ = resource.getrlimit(limit)
        if allowed != resource.RLIM_INFINITY and allowed < least:
            fix = remedy.format(2 * least)
            return f"the limit is {allowed} {what}, {least} are needed: raise it (ulimit {fix} of systemd)"
    return None
