"""What a process has used of the processor."""

from __future__ import annotations

import os
import time
from pathlib import Path


def process_cpu(pid: int) -> float:
    """Seconds so far, of all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cpu(pid: int, seconds: float) -> float:
    """Seconds that it uses in the next so many."""
    before = process_cpu(pid)
    time.sleep(seconds)
    return process_cpu(pid) - before
