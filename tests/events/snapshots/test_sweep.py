"""Deletion of snapshots, with a clock of the test."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from streamer.events.snapshots.folder import KEPT_MODE, SnapshotFolder
from streamer.events.snapshots.settings import Snapshots
from streamer.events.snapshots.sweep import EMPTY_S, SLICE, TEMPORARY_S, UNUSED_S, sweep

NOW = time.time()
DAY = 86400.0
SIZE = 1000


@pytest.fixture
def folder(tmp_path: Path) -> SnapshotFolder:
    return SnapshotFolder(tmp_path)


def add(folder: SnapshotFolder, number: int, age: float, kept: bool = False, stream: str = "gate") -> str:
    event = f"{number:032x}"
    folder.write(stream, event, bytes(SIZE))
    if kept:
        folder.file(stream, event).chmod(KEPT_MODE)
    os.utime(folder.file(stream, event), (NOW - age, NOW - age))
    return event


def left(folder: SnapshotFolder) -> list[int]:
    return sorted(int(path.stem, 16) for path in folder.path.rglob("*.jpg"))


def test_unused_go_after_minutes_and_kept_ones_after_days(folder: SnapshotFolder) -> None:
    add(folder, 1, UNUSED_S - 1)
    add(folder, 2, UNUSED_S + 1)
    add(folder, 3, 7 * DAY - 1, kept=True)
    add(folder, 4, 7 * DAY + 1, kept=True, stream="removed-stream")
    assert sweep(folder, Snapshots(), NOW, NOW) == 2 * SIZE
    assert left(folder) == [1, 3]


def test_nothing_unused_goes_before_the_rules_have_read_all(folder: SnapshotFolder) -> None:
    """An agent that was off for a day reports incidents of its last frames at its next start."""
    add(folder, 1, DAY)
    add(folder, 2, 8 * DAY)
    sweep(folder, Snapshots(), NOW, None)
    assert left(folder) == [1]
    sweep(folder, Snapshots(), NOW, NOW - DAY)  # they have read no further
    assert left(folder) == [1]
    sweep(folder, Snapshots(), NOW, NOW)
    assert left(folder) == []


def test_results_option_keeps_unused_ones_too(folder: SnapshotFolder) -> None:
    add(folder, 1, DAY)
    add(folder, 2, 8 * DAY)
    sweep(folder, Snapshots(results=True), NOW, NOW)
    assert left(folder) == [1]


def test_size_limit_deletes_the_oldest_unused_first(folder: SnapshotFolder) -> None:
    for number in range(1100):
        add(folder, number, age=200 + number / 100, kept=number >= 1090, stream=f"s{number % 2}")
    # 1,100,000 bytes of 1,048,576: 52 must go, the oldest of those that no incident names.
    assert sweep(folder, Snapshots(max_bytes=1 << 20), NOW, NOW) == 1048 * SIZE
    assert left(folder) == [*range(1038), *range(1090, 1100)]


def test_size_limit_deletes_kept_ones_when_all_are(folder: SnapshotFolder) -> None:
    for number in range(1060):
        add(folder, number, age=DAY - number, kept=True)
    assert sweep(folder, Snapshots(max_bytes=1 << 20), NOW, NOW) == 1048 * SIZE
    assert left(folder) == list(range(12, 1060))


def test_renewed_snapshot_counts_as_young(folder: SnapshotFolder) -> None:
    event = add(folder, 1, DAY)
    folder.renew("gate", event)
    sweep(folder, Snapshots(), NOW, folder.file("gate", event).stat().st_mtime)
    assert left(folder) == [1]


def test_what_a_killed_process_left_goes(folder: SnapshotFolder) -> None:
    add(folder, 1, 0)
    (young, old) = (folder.path / "gate" / f"{number:032x}.jpg.new" for number in (2, 3))
    for path, age in ((young, 1), (old, TEMPORARY_S + 1)):
        path.touch()
        os.utime(path, (NOW - age, NOW - age))
    sweep(folder, Snapshots(), NOW, NOW)
    assert young.exists()
    assert not old.exists()


def test_files_of_others_stay(folder: SnapshotFolder, tmp_path: Path) -> None:
    add(folder, 1, DAY, kept=True)
    (tmp_path / "outside.jpg").touch()
    gate = folder.path / "gate"
    (gate / "notes.txt").touch()
    (gate / f"{2:032x}.jpg").symlink_to(tmp_path / "outside.jpg")
    (folder.path / "elsewhere").symlink_to(tmp_path)
    for path in (gate / "notes.txt", tmp_path / "outside.jpg"):
        os.utime(path, (1, 1))
    sweep(folder, Snapshots(keep=1), NOW, NOW)
    assert left(folder) == [2]
    assert (tmp_path / "outside.jpg").exists()
    assert (gate / "notes.txt").exists()


def test_empty_folders_go_when_nothing_is_stored_any_more(folder: SnapshotFolder) -> None:
    event = add(folder, 1, 8 * DAY)
    sweep(folder, Snapshots(), NOW, NOW)
    assert folder.path.exists()
    for path in (folder.path / "gate", folder.path):
        os.utime(path, (NOW - EMPTY_S - 1,) * 2)
    sweep(folder, Snapshots(), NOW, NOW)
    os.utime(folder.path, (NOW - EMPTY_S - 1,) * 2) if folder.path.exists() else None
    sweep(folder, Snapshots(), NOW, NOW)
    assert not folder.path.exists()
    folder.write("gate", event, b"again")
    assert folder.find("gate", event) is not None


def test_long_sweep_pauses(folder: SnapshotFolder) -> None:
    for number in range(2 * SLICE + 1):
        add(folder, number, 0)
    pauses: list[None] = []
    sweep(folder, Snapshots(), NOW, NOW, lambda: pauses.append(None))
    assert len(pauses) == 2


def test_no_folder_is_no_error(folder: SnapshotFolder) -> None:
    assert sweep(folder, Snapshots(), NOW, NOW) == 0
