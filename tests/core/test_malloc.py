"""What the memory allocator keeps of freed memory."""

from __future__ import annotations

import subprocess
import sys

from streamer.core.malloc import keep_little

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
