"""Writes events to a JSON Lines file, each exactly once, also after kill -9.

Events are on the disk before the position in the ledger advances. When the file is opened, its last line is looked up
in the ledger; that event is the newest one written.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from streamer.core.atomic_file import sync_to_disk
from streamer.core.errors import ConfigError, SinkError
from streamer.core.settings import Name, variable_hint
from streamer.events.sinks._base import SelectiveSinkSettings, SinkContext, SinkProgress
from streamer.types import Sink

_START = b'{"specversion":'
"""First bytes of every event."""
_BLOCK = 1 << 16
"""Bytes read at once when searching for a line end."""


class Jsonl(SelectiveSinkSettings):
    """One event per line in a file that is rotated by size: `events.jsonl`, `events.jsonl.1` (the newest old one), …"""

    kind: Literal["jsonl"] = "jsonl"
    name: Name = "jsonl"
    path: Path
    max_bytes: Annotated[int, Field(ge=1024)] = 64 << 20
    """The file is rotated before it grows beyond this."""
    keep: Annotated[int, Field(ge=1, le=1000)] = 5
    """Number of old files; beyond it the oldest is deleted."""

    def check(self) -> None:
        folder = self.path.absolute().parent
        if not folder.is_dir():
            raise ConfigError(f"cannot write {self.path}: no such directory: {folder}{variable_hint(folder)}")
        if self.path.is_symlink():
            raise ConfigError(f"cannot write {self.path}: it is a symbolic link: give the path that it points to")
        if self.path.exists() and not self.path.is_file():
            raise ConfigError(f"cannot write {self.path}: not a regular file")
        for path in (folder, self.path) if self.path.exists() else (folder,):
            if not os.access(path, os.W_OK):
                raise ConfigError(f"cannot write {self.path}: no permission to write {path}")

    def open(self, context: SinkContext, progress: SinkProgress) -> Sink:
        self.check()
        return _JsonlSink(self, progress.find)


class _JsonlSink:
    """Opens its file at the first write and again after every failure."""

    def __init__(self, settings: Jsonl, find: Callable[[str], int | None]) -> None:
        self._path, self._max_bytes, self._keep = settings.path.absolute(), settings.max_bytes, settings.keep
        self._find = find
        self._fd = -1
        self._size = 0  # bytes that are synced to the disk
        self._written = 0  # ledger position of the newest event in the file

    def write(self, events: Sequence[tuple[int, bytes]]) -> None:
        try:
            if not self._is_open():
                self.close()
                self._open()
            self._append([(position, body + b"\n") for position, body in events if position > self._written])
        except OSError as error:
            self._roll_back()
            raise SinkError(f"cannot write {self._path}: {error.strerror}") from error

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _is_open(self) -> bool:
        """Return True if the open file is still the one at its path: it may have been moved or deleted."""
        if self._fd < 0:
            return False
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.stat(self._path), os.fstat(self._fd))
        return False

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(self._path, flags, 0o640)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            size = _cut_torn_line(fd, self._path)
            sync_to_disk(self._path.parent)
            written = self._last_position(fd, size)
        except BlockingIOError:
            os.close(fd)
            raise SinkError(f"cannot write {self._path}: another process writes it") from None
        except BaseException:
            os.close(fd)
            raise
        self._fd, self._size, self._written = fd, size, written

    def _last_position(self, fd: int, size: int) -> int:
        """Return the ledger position of the newest event in the file, 0 when the ledger does not hold it."""
        line = _last_line(fd, size)
        if not line:  # killed right after a rotation
            with contextlib.suppress(FileNotFoundError), open(self._old(1), "rb", opener=_no_link) as old:
                line = _last_line(old.fileno(), os.fstat(old.fileno()).st_size)
        try:
            event_id = json.loads(line)["id"]
        except (ValueError, KeyError, TypeError):
            return 0
        return (self._find(event_id) if isinstance(event_id, str) else None) or 0

    def _append(self, lines: Sequence[tuple[int, bytes]]) -> None:
        group: list[tuple[int, bytes]] = []
        size = self._size
        for position, line in lines:
            if size and size + len(line) > self._max_bytes:
                self._flush(group)
                self._rotate()
                group, size = [], 0
            group.append((position, line))
            size += len(line)
        self._flush(group)

    def _flush(self, group: Sequence[tuple[int, bytes]]) -> None:
        if not group:
            return
        data = b"".join(line for _, line in group)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._fd, rest) :]
        os.fdatasync(self._fd)
        self._size += len(data)
        self._written = group[-1][0]

    def _rotate(self) -> None:
        for number in range(self._keep - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                os.replace(self._old(number), self._old(number + 1))
        os.replace(self._path, self._old(1))
        self.close()
        self._open()

    def _old(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def _roll_back(self) -> None:
        """Cut what may be half written and close: after a failed sync, the page cache may differ from the disk."""
        with contextlib.suppress(OSError):
            if self._fd >= 0:
                os.ftruncate(self._fd, self._size)
        self.close()


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _cut_torn_line(fd: int, path: Path) -> int:
    """Cut an incomplete last line, which a killed writer leaves, and return the size.

    Raises SinkError when that line is no event.
    """
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise SinkError(f"cannot write {path}: not a regular file")
    size = os.fstat(fd).st_size
    end = _after_line_end(fd, size)
    torn = os.pread(fd, len(_START), end).rstrip(b"\0")  # zeros: allocated, but never written
    if not _START.startswith(torn):
        raise SinkError(f"cannot write {path}: its incomplete last line is no event, is it the right file?")
    if end < size:
        os.ftruncate(fd, end)
    return end


def _last_line(fd: int, size: int) -> bytes:
    """Return the last line of a file that ends in a line end."""
    start = _after_line_end(fd, size - 1)
    return os.pread(fd, size - start, start)


def _after_line_end(fd: int, before: int) -> int:
    """Return the offset after the last line end in the first `before` bytes, 0 when there is none."""
    while before > 0:
        start = max(0, before - _BLOCK)
        found = os.pread(fd, before - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        before = start
    return 0
