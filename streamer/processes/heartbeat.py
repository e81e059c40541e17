"""A child's heartbeat in shared memory: the state of its main loop, and the time of its next beat at the latest.

Each child has two 64-bit words in memory that the parent shares with it. Only its main loop writes them, so they stop
changing when the loop hangs, even inside a library call. The parent reads them without a message to the child. The
memory has no name in a folder and a fixed size: another program could otherwise cut it, which kills who reads it.
"""

from __future__ import annotations

import fcntl
import math
import mmap
import os
import time
from pathlib import Path
from typing import Literal, NamedTuple, get_args

State = Literal["loading", "idle", "batch"]
_STATES: tuple[State, ...] = get_args(State)

STARTING_S = 60.0
"""Longest time from the start of a child to its first beat, when many start at once on few cores."""
LOADING_S = 300.0
"""Longest time to load a model, from a slow disk or a download. After a restart a download continues where it was."""
IDLE_S = 8.0
"""Longest time between two beats of a main loop, whose turn takes a second at most."""
_SIZE = 16


class HeartbeatState(NamedTuple):
    state: State
    deadline: float
    """Monotonic second after which the child counts as stuck."""


class Heartbeat:
    """One child's heartbeat. The child writes it, the parent reads it."""

    def __init__(self, descriptor: int | None = None) -> None:
        """`descriptor`: memory that the parent has made. None: make it."""
        self.descriptor = _shared_memory() if descriptor is None else descriptor
        # Aligned words, written one at a time: the parent never reads half of an old and half of a new value.
        self._memory = mmap.mmap(self.descriptor, _SIZE)
        self._words = memoryview(self._memory).cast("Q")

    def close(self) -> None:
        """Release the memory that this process has of it."""
        self._words.release()
        self._memory.close()
        os.close(self.descriptor)

    def beat(self, state: State = "idle", within: float = IDLE_S) -> None:
        """Report `state`, and that the next beat comes within so many seconds."""
        self._words[0] = int((time.monotonic() + within) * 1e9) << 2 | _STATES.index(state)

    def beat_loading(self) -> None:
        """Report that a model or libraries are loaded, which may take long."""
        self.beat("loading", LOADING_S)

    def mark_commit(self, at: float) -> None:
        """Record that emit committed events at monotonic second `at`."""
        self._words[1] = int(at * 1e9)

    def read(self) -> HeartbeatState:
        word = self._words[0]
        state = min(word & 3, len(_STATES) - 1)  # a child that was taken over may write any number
        return HeartbeatState(_STATES[state], (word >> 2) / 1e9)

    @property
    def committed_at(self) -> float:
        """Monotonic second of the last commit; -inf before the first."""
        return self._words[1] / 1e9 or -math.inf


def _shared_memory() -> int:
    """Return the descriptor of new memory of a fixed size. Raises OSError when memory or descriptors are short."""
    descriptor = os.memfd_create("heartbeat", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(descriptor, bytes(_SIZE))  # takes the memory now: a shortage is no OSError later
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return descriptor


def dump_file(runtime: Path, name: str) -> Path:
    """Return the path to which the child `name` writes its stacks, on SIGUSR1 or a fatal signal."""
    return runtime / "stacks" / name
