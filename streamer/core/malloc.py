"""Settings of the C library's memory allocator; without effect where it is not glibc."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8
"""Parameters of mallopt(3)."""
_SMALL = 128 << 10
_LARGEST = 32 << 20
"""Bytes; glibc raises its threshold from the first to the second by itself, as large blocks are freed."""
_FRUGAL = 64 << 10
"""Threshold in bytes of a process that keeps little. Parts of a decoded picture are larger."""


@contextmanager
def large_blocks_freed_at_once() -> Iterator[None]:
    """Give each large block back to the system when it is freed.

    glibc keeps freed blocks of up to 32 MB for later. While a model is read, whose matrices have many sizes, they add
    up to a good part of the model.
    """
    set_parameter = _function("mallopt")
    set_parameter(_MMAP_THRESHOLD, _SMALL)
    try:
        yield
    finally:
        # Once set, a threshold no longer adapts by itself. These are the values that it would reach.
        set_parameter(_MMAP_THRESHOLD, _LARGEST)
        set_parameter(_TRIM_THRESHOLD, 2 * _LARGEST)
        release_unused()


def keep_little() -> None:
    """Have this process keep little memory that it has freed. Call it before threads are started.

    Each thread would have an arena with free blocks of its own, and each size of picture would leave blocks that the
    next size does not fit into. Pictures, of which there are few in a second, are then mapped anew each time.
    """
    set_parameter = _function("mallopt")
    set_parameter(_ARENA_MAX, 1)
    set_parameter(_MMAP_THRESHOLD, _FRUGAL)
    set_parameter(_TRIM_THRESHOLD, _FRUGAL)
    set_parameter(_TOP_PAD, _FRUGAL)


def release_unused() -> None:
    """Give memory that the C library keeps for later back to the system."""
    _function("malloc_trim")(0)


def _function(name: str) -> Any:
    return getattr(ctypes.CDLL(None), name, lambda *_: None)
