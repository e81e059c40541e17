"""The memory limit of a process that decodes: a base, and room for pictures of the size that its stream has.

The limit counts the writable memory of the process alone (RLIMIT_DATA), not shared memory, files or libraries. Beyond
it the kernel refuses more memory, which FFmpeg and Python report as an error.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path

from streamer.core.picture_limits import MAX_PIXELS

HEADROOM_BYTES = 192 << 20
"""Memory beyond what the process has at its start, for libraries, stacks of threads, packets and lists. A camera takes
about 100 MB of it, half of which are stacks that are never touched."""
BYTES_PER_PIXEL = 80
"""Measured: up to 59 for H.264 with 16 reference pictures and four threads, HEVC with 10 bits, and one BGR copy."""


def limit_memory() -> None:
    """Limit this process to what it has and `HEADROOM_BYTES`. `allow_pictures` may raise the limit."""
    has = int(Path("/proc/self/statm").read_text().split()[5]) * os.sysconf("SC_PAGE_SIZE")
    base = has + HEADROOM_BYTES
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    highest = base + BYTES_PER_PIXEL * MAX_PIXELS
    hard = highest if hard == resource.RLIM_INFINITY else min(highest, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (min(base, hard), hard))


def allow_pictures(pixels: int) -> None:
    """Raise the limit to what a stream with pictures of so many pixels needs. A process without limit stays so."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if resource.RLIM_INFINITY not in (soft, hard):
        base = hard - BYTES_PER_PIXEL * MAX_PIXELS
        resource.setrlimit(resource.RLIMIT_DATA, (max(soft, base + BYTES_PER_PIXEL * min(pixels, MAX_PIXELS)), hard))


def over_limit() -> str:
    """Return the reason of a failure for lack of memory."""
    soft, _ = resource.getrlimit(resource.RLIMIT_DATA)
    return "no memory is left" if soft == resource.RLIM_INFINITY else f"reached its memory limit of {soft >> 20} MB"
