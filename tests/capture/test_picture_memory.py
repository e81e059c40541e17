"""Memory that a capture process gives back while its frames are needed seldom."""

from __future__ import annotations

import subprocess
import sys

BLOCKS, BLOCK = 200, 60_000
"""Blocks of which each second one is freed, and their bytes: less than those that are given back at once."""
MEASURE = f"""
from streamer.capture.picture_memory import OFTEN_S, RELEASE_S, PictureMemory
from streamer.core.malloc import keep_little
from tests.core.test_malloc import resident

keep_little()
memory = PictureMemory()
memory.follow(2 * OFTEN_S, 0.0)
blocks = [bytes([number + 1]) * {BLOCK} for number in range({BLOCKS})]
before = resident()
del blocks[::2]
memory.follow(2 * OFTEN_S, RELEASE_S - 0.1)
print(before - resident())
memory.follow(2 * OFTEN_S, RELEASE_S)
print(before - resident())
"""


def test_memory_between_blocks_in_use_is_given_back() -> None:
    freed, given_back = map(int, subprocess.check_output([sys.executable, "-c", MEASURE]).split())
    assert freed < BLOCKS / 2 * BLOCK / 4
    assert given_back > BLOCKS / 2 * BLOCK * 3 / 4
