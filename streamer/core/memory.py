"""Memory of this computer that a new process can use."""

from __future__ import annotations

from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def available_memory() -> int:
    """Return the free bytes, within the limit of the control group."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    try:
        limit, used = ((_CGROUP / file).read_text().strip() for file in ("memory.max", "memory.current"))
        files = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())["inactive_file"]
        # Files that the kernel keeps in memory count as used; it drops them when memory is needed.
        return free if limit == "max" else min(free, int(limit) - int(used) + int(files))
    except OSError:  # no control group of its own
        return free
