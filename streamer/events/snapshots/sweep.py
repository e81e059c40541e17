"""Deletes old snapshots, those that no incident names, and what killed processes left."""

from __future__ import annotations

import heapq
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from streamer.core.atomic_file import TEMPORARY
from streamer.events.snapshots.folder import KEPT_MODE, SUFFIX, SnapshotFolder
from streamer.events.snapshots.settings import Snapshots

UNUSED_S = 300.0
"""Seconds after which a snapshot is deleted that no incident has named and none needs. The rules renew the age of those
that an incident may still name more often than this."""
TEMPORARY_S = 60.0
"""Age from which an incomplete file is that of a killed process."""
EMPTY_S = 3600.0
"""Age from which an empty folder is deleted."""
MAX_DELETED = 2000
"""Snapshots that one sweep deletes for their size at most."""
SLICE = 200
"""Files that are looked at between two pauses."""


class _File(NamedTuple):
    is_kept: bool
    """An incident names it."""
    changed: float
    """Unix second from which on its age counts."""
    path: str
    size: int


def sweep(
    folder: SnapshotFolder,
    settings: Snapshots,
    now: float,
    renewed: float | None,
    pause: Callable[[], object] = lambda: None,
) -> int:
    """Delete what is too old or too much; return the bytes that are left.

    `now`: unix second. `renewed`: the one at which the rules had read all events and renewed what they need; None if
    they have not yet. `pause` is called after each `SLICE` files.
    """
    left = 0

    def remaining() -> Iterator[_File]:
        nonlocal left
        for number, file in enumerate(_files(folder.path, now), 1):
            if not (_is_expired(file, settings, now, renewed) and _delete(file.path)):
                left += file.size
                yield file
            if number % SLICE == 0:
                pause()

    for file in heapq.nsmallest(MAX_DELETED, remaining()):
        if left <= settings.max_bytes:
            break
        if _delete(file.path):
            left -= file.size
    return left


def _is_expired(file: _File, settings: Snapshots, now: float, renewed: float | None) -> bool:
    if file.changed < now - settings.keep:
        return True
    return not (file.is_kept or settings.results) and renewed is not None and file.changed < renewed - UNUSED_S


def _files(path: Path, now: float) -> Iterator[_File]:
    """Yield the snapshots in the folder. Delete incomplete files and empty folders that are old."""
    for stream in _entries(path):
        if not stream.is_dir(follow_symlinks=False):
            continue
        for entry in _entries(stream):
            with suppress(OSError):  # deleted meanwhile
                found = entry.stat(follow_symlinks=False)
                if not stat.S_ISREG(found.st_mode):
                    continue
                if entry.name.endswith(SUFFIX):
                    is_kept = stat.S_IMODE(found.st_mode) == KEPT_MODE
                    yield _File(is_kept, found.st_mtime, entry.path, found.st_size)
                elif entry.name.endswith(SUFFIX + TEMPORARY) and found.st_mtime < now - TEMPORARY_S:
                    os.unlink(entry.path)
        _delete_if_empty(stream.path, now)
    _delete_if_empty(path, now)


def _entries(path: os.PathLike[str]) -> Iterator[os.DirEntry[str]]:
    """Yield what is in a folder; nothing if it cannot be read."""
    with suppress(OSError), os.scandir(path) as entries:
        yield from entries


def _delete(path: str) -> bool:
    with suppress(OSError):
        os.unlink(path)
        return True
    return False


def _delete_if_empty(path: os.PathLike[str] | str, now: float) -> None:
    with suppress(OSError):
        if os.stat(path, follow_symlinks=False).st_mtime < now - EMPTY_S:
            os.rmdir(path)
