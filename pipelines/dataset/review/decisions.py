"""People's decisions on pictures, as a file that only grows: one JSON line per decision or withdrawal.

Several processes may append to one file: each locks it, reads what others have appended, and then writes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from streamer.core import atomic_file
from streamer.core.boxes import Rect
from streamer.core.errors import ConfigError
from streamer.core.json_input import MAX_LINE, parse_json
from streamer.types import Point

FILE = "review.jsonl"
"""Name of the file in the dataset's folder."""
LOCK_S = 10.0
"""Longest wait for another process that writes; one write takes milliseconds."""
_LOCK_AGAIN_S = 0.005

Verdict = Literal["right", "wrong", "changed", "added"]


@dataclass(frozen=True, slots=True)
class Original:
    """Label and box of an object before a reviewer changed it."""

    label: str
    box: Rect


@dataclass(frozen=True, slots=True)
class DecidedObject:
    """One object with the verdict on it."""

    verdict: Verdict
    label: str
    box: Rect
    outline: tuple[tuple[Point, ...], ...] = ()
    score: float | None = None
    """Score that the model gave it."""
    was: Original | None = None
    """Set if it was changed."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The objects of one picture as a person left them; or, if withdrawn, the end of that person's newest decision."""

    image: str
    """Path of the picture, relative to the dataset's folder."""
    by: str
    at: float
    """Unix seconds."""
    labels: str = ""
    """Name of the reviewed set."""
    objects: tuple[DecidedObject, ...] = ()
    """Objects of the set in its order, then added ones."""
    withdrawn: bool = False


_ADAPTER: TypeAdapter[Decision] = TypeAdapter(Decision)


class DecisionFile:
    """The decisions of a dataset. The newest decision on a picture that is not withdrawn is valid."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._end = self._lines = 0
        self._valid: dict[str, list[Decision]] = {}
        self._by: dict[str, list[Decision]] = defaultdict(list)

    def refresh(self) -> None:
        """Read what was appended since. Raises ConfigError for a file that cannot be read, with the line."""
        try:
            with self._opened(os.O_RDONLY) as file:
                self._read(file)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be read: {error.strerror}") from None

    def add(self, decision: Decision) -> None:
        """Append a decision and return once it is on the disk. Raises OSError, ConfigError, ValueError if too long."""
        line = _ADAPTER.dump_json(decision, exclude_defaults=True) + b"\n"
        if len(line) > MAX_LINE:
            raise ValueError(f"the outlines of the picture need more than {MAX_LINE >> 20} MiB")
        with self._opened(os.O_RDWR | os.O_CREAT | os.O_APPEND) as file:
            _lock(file)
            self._read(file)
            os.ftruncate(file, self._end)  # removes a line that a crash has cut
            try:
                left = line
                while left:
                    left = left[os.write(file, left) :]
                os.fsync(file)
                if self._end == 0:
                    atomic_file.sync_to_disk(self.path.parent)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(file, self._end)
                raise
        self._take(line)

    def valid(self, image: str) -> Decision | None:
        """Return the valid decision on a picture."""
        decisions = self._valid.get(image)
        return decisions[-1] if decisions else None

    def newest(self, by: str) -> Decision | None:
        """Return the newest decision of a person that is not withdrawn."""
        decisions = self._by[by]
        return decisions[-1] if decisions else None

    def __iter__(self) -> Iterator[Decision]:
        """Yield the valid decision on each picture, in the order of first decisions."""
        return (decisions[-1] for decisions in self._valid.values() if decisions)

    @contextmanager
    def _opened(self, flags: int) -> Iterator[int]:
        file = os.open(self.path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            yield file
        finally:
            os.close(file)

    def _read(self, file: int) -> None:
        """Take the complete lines that were not read yet."""
        size = os.fstat(file).st_size
        if size < self._end:
            raise ConfigError(f"{self.path}: was shortened while it is in use; start the review again")
        with os.fdopen(os.dup(file), "rb") as lines:
            lines.seek(self._end)
            while (line := lines.readline(MAX_LINE + 1)).endswith(b"\n"):
                self._take(line)
            if len(line) > MAX_LINE:
                raise ConfigError(f"{self.path}:{self._lines + 1}: longer than {MAX_LINE} bytes")

    def _take(self, line: bytes) -> None:
        decision = parse_json(f"{self.path}:{self._lines + 1}", _ADAPTER, line, "line")
        self._end += len(line)
        self._lines += 1
        own, of_image = self._by[decision.by], self._valid.setdefault(decision.image, [])
        if not decision.withdrawn:
            own.append(decision)
            of_image.append(decision)
        elif ended := next((one for one in reversed(own) if one.image == decision.image), None):
            own.remove(ended)
            of_image.remove(ended)


def _lock(file: int) -> None:
    """Lock a file until it is closed. Raises TimeoutError if another process keeps it."""
    until = time.monotonic() + LOCK_S
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise TimeoutError(errno.ETIMEDOUT, "another process keeps the file locked") from None
        time.sleep(_LOCK_AGAIN_S)
