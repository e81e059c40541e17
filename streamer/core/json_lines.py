"""A file that grows line by line: one JSON text per line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streamer.core.closing import Closing
from streamer.core.errors import ConfigError


class JsonLinesFile(Closing):
    """Appends lines to a file. A line that was cut off by a crash is removed when the file is opened."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError for a file that cannot be used."""
        self.path = path
        try:
            self._file = path.open("ab+")
            self._file.seek(0)
            content_end = end = 0
            for line in self._file:
                end += len(line)
                if line.endswith(b"\n"):
                    content_end = end
            self._file.truncate(content_end)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be opened: {error.strerror}") from None

    def add_line(self, content: bytes) -> None:
        """Append a JSON text. Raises ConfigError if the disk does not take it."""
        with self._written():
            self._file.write(content + b"\n")
            self._file.flush()

    def close(self) -> None:
        """Return once all lines are on the disk. Raises ConfigError."""
        with self._written(), self._file:
            os.fsync(self._file.fileno())

    @contextmanager
    def _written(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be written: {error.strerror}") from None
