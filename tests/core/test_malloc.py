"""Freed memory that the allocator keeps or gives back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from streamer.core.malloc import keep_little

PICTURE = 1280 * 720 * 3
"""Bytes of a converted picture."""
MEASURE = """
import threading
from streamer.core.malloc import keep_little

def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) * 1024

def use_pictures():
    for _ in range(2):  # the first one raises the limit from which on the allocator keeps blocks
        bytes(picture)
    kept.append(bytes(60_000))  # above the block, which could otherwise be cut off

keep_little()
kept = []
before = resident()
for picture in range(1_000_000, 9_000_000, 1_000_000):
    thread = threading.Thread(target=use_pictures)
    thread.start()
    thread.join()
print(resident() - before)
"""


def test_freed_pictures_of_threads_are_given_back() -> None:
    kept = [int(subprocess.check_output([sys.executable, "-c", code])) for code in (MEASURE, without_settings())]
    assert kept[0] < 1_500_000
    assert kept[1] > kept[0]


def without_settings() -> str:
    return MEASURE.replace(f"{keep_little.__name__}()\nkept", "kept")


def test_memory_of_a_picture_is_kept_while_pictures_are_frequent() -> None:
    code = """
from tests.core.test_malloc import kept_after_freeing
from streamer.core.malloc import keep_little, keep_pictures

keep_little()
print(kept_after_freeing())
keep_pictures(True)
print(kept_after_freeing())
keep_pictures(False)
print(kept_after_freeing())
"""
    kept = [int(line) for line in subprocess.check_output([sys.executable, "-c", code]).split()]
    assert max(kept[0], kept[2]) < PICTURE / 4
    assert kept[1] > PICTURE / 2


def kept_after_freeing() -> int:
    """Fill and free the memory of a picture; return the bytes by which this process grew."""
    before = resident()
    ones = b"1" * PICTURE
    del ones
    return resident() - before


def resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))
