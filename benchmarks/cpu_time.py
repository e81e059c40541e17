"""CPU time of a process."""

from __future__ import annotations

import os
import time
from pathlib import Path


def process_cpu(pid: int) -> float:
    """Return the CPU seconds that all threads of a process have used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cpu(pid: int, seconds: float) -> float:
    """Return the CPU seconds that a process uses in the next `seconds`."""
    before = process_cpu(pid)
    time.sleep(seconds)
    return process_cpu(pid) - before
