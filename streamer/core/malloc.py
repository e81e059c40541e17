"""Settings of the C library's memory allocator; without effect where it is not glibc."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""Parameters of mallopt(3)."""
_SMALL = 128 << 10
_LARGEST = 32 << 20
"""Bytes; glibc raises its threshold from the first to the second by itself, as large blocks are freed."""
_PLANE = 192 << 10
"""Bytes; more than most packets of a camera, less than each plane and each table of motion vectors of a decoded picture
of 1280x720 pixels. In the heap, those and large packets would leave gaps between them of 1 to 3 MB in all."""


@contextmanager
def large_blocks_freed_at_once() -> Iterator[None]:
    """Give each large block back to the system when it is freed.

    glibc keeps freed blocks of up to 32 MB for later. While a model is read, whose matrices have many sizes, they add
    up to a good part of the model.
    """
    _set_thresholds(_SMALL)
    try:
        yield
    finally:
        # Once set, a threshold no longer adapts by itself. These are the values that it would reach.
        _set_thresholds(_LARGEST)
        release_unused()


def keep_little() -> None:
    """Have this process keep little memory that it has freed. Call it before threads are started.

    Each thread would have an arena with free blocks of its own, and each size of picture would leave blocks that the
    next size does not fit into.
    """
    _function("mallopt")(_ARENA_MAX, 1)
    keep_pictures(False)


def keep_pictures(are_kept: bool) -> None:
    """Set whether the memory of a freed picture is kept for the next one.

    Memory that the system gives anew makes the conversion of a picture five times slower, so keep it while pictures
    are converted often.
    """
    _set_thresholds(_LARGEST if are_kept else _PLANE)
    if not are_kept:
        release_unused()


def release_unused() -> None:
    """Give memory that the C library keeps for later back to the system."""
    _function("malloc_trim")(0)


def _set_thresholds(size: int) -> None:
    """Have blocks from `size` bytes on given back when they are freed, and free memory from twice that."""
    set_parameter = _function("mallopt")
    set_parameter(_MMAP_THRESHOLD, size)
    set_parameter(_TRIM_THRESHOLD, 2 * size)


def _function(name: str) -> Any:
    return getattr(ctypes.CDLL(None), name, lambda *_: None)
