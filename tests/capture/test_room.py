"""Shortage of space or descriptors for frames."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from streamer.capture.room import FIRST_HOLD_S, Room


@pytest.mark.parametrize(
    ("number", "cause", "remedy"),
    [
        (errno.ENOSPC, "6.2 MB needed for one of 1920x1080", "enlarge its file system"),
        (errno.EMFILE, "Too many open files", "raise the limit of open files"),
    ],
)
def test_shortage_names_its_cause_and_remedy(tmp_path: Path, number: int, cause: str, remedy: str) -> None:
    room = Room(tmp_path, "infer")
    room.on_failure(100.0, OSError(number, os.strerror(number)), 1920, 1080)
    assert room.problem is not None
    assert cause in room.problem
    assert remedy in room.problem
    assert not room.may_store(100.1)
    room.on_success(101.0)
    assert room.problem is not None
    room.on_success(100.0 + FIRST_HOLD_S + 1)
    assert room.problem is None
