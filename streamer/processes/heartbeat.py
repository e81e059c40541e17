"""A sign of life in shared memory: what a child's work loop does now, and by when it will say so again.

Each child has two words in a file of the runtime directory. Its work loop writes them, never a thread beside it, so
that they stand still when the work does, even inside a library that never returns. The parent reads them at no cost to
the child, also of one that is stopped or dead.
"""

from __future__ import annotations

import math
import mmap
import os
import time
from pathlib import Path
from typing import Literal, NamedTuple, get_args

State = Literal["loading", "idle", "batch"]
_STATES: tuple[State, ...] = get_args(State)

STARTING_S = 60.0
"""From its start until a child's first sign, when many start at once on few cores."""
LOADING_S = 300.0
"""For a large model from a slow disk, or one that is being downloaded; a download goes on where it was."""
IDLE_S = 8.0
"""From one turn of a work loop, which takes a second at most, to the next."""
_SIZE = 16


class HeartbeatState(NamedTuple):
    state: State
    deadline: float
    """Monotonic second from which on the child counts as stuck."""


class Heartbeat:
    """One child's sign. Written by the child, read by the parent; without a path it is nobody else's."""

    def __init__(self, path: Path | None = None) -> None:
        if path is None:
            self._memory = mmap.mmap(-1, _SIZE)
            return
        path.parent.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.ftruncate(descriptor, _SIZE)
            self._memory = mmap.mmap(descriptor, _SIZE)
        finally:
            os.close(descriptor)

    def beat(self, state: State = "idle", within: float = IDLE_S) -> None:
        """The next sign will come `within` so many seconds."""
        self._write(0, int((time.monotonic() + within) * 1e9) << 2 | _STATES.index(state))

    def mark_commit(self, at: float) -> None:
        """At that monotonic second work came out: of emit, events were committed."""
        self._write(1, int(at * 1e9))

    def read(self) -> HeartbeatState:
        word = self._read(0)
        return HeartbeatState(_STATES[word & 3], (word >> 2) / 1e9)

    @property
    def committed_at(self) -> float:
        """Monotonic second at which work last came out; -inf before."""
        return self._read(1) / 1e9 or -math.inf

    # One aligned word at a time, so that the parent never reads half of an old and half of a new one.
    def _write(self, place: int, word: int) -> None:
        memoryview(self._memory).cast("Q")[place] = word

    def _read(self, place: int) -> int:
        return memoryview(self._memory).cast("Q")[place]


def heartbeat_file(runtime: Path, name: str) -> Path:
    """Where the child called `name` has its sign of life."""
    return runtime / "pulse" / name


def dump_file(runtime: Path, name: str) -> Path:
    """Where it leaves its stacks when it is asked to, or dies of a fatal signal."""
    return runtime / "pulse" / f"{name}.stacks"
