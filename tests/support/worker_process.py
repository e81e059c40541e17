"""Starts a worker process as the supervisor does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import IO

from streamer.processes.assignment import Assignment


def start_worker(
    command: list[str], assignment: Assignment, log: Path, stdout: int | IO[bytes] | None = None
) -> tuple[subprocess.Popen[bytes], int]:
    """Start a role. `command`: the role and its target. Return the process and the descriptor to read its reports."""
    reports, report_fd = os.pipe()
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "streamer.processes.worker", *command],
            stdin=subprocess.PIPE, stdout=stdout, stderr=errors, pass_fds=[report_fd],
        )  # fmt: skip
    os.close(report_fd)
    assert process.stdin is not None
    assignment = assignment.model_copy(update={"report_fd": report_fd})
    process.stdin.write(assignment.model_dump_json().encode() + b"\n")
    process.stdin.flush()
    return process, reports
