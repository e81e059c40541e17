"""Names the instructions that kernels run with: those of the processor, and the limits set for oneDNN."""

from __future__ import annotations

import os
from pathlib import Path

_LIMITS = "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"
"""Environment variables that limit the instructions of oneDNN."""
_KEYS = ("vendor_id", "cpu family", "model", "stepping", "model name", "flags", "CPU part", "Features")
"""Lines of /proc/cpuinfo that tell processors apart, on x86 and ARM."""


def instructions() -> str:
    """Return a text that is the same for equal processors with equal limits."""
    return "\n".join([*(os.environ.get(name, "") for name in _LIMITS), processor()])


def processor() -> str:
    """Return lines that are the same for equal processors."""
    try:
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        return ""
    return "\n".join(line for line in first.splitlines() if line.partition("\t")[0].strip() in _KEYS)
