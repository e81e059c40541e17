"""Counts starts that ended while graphs were recorded: a crash of a driver leaves no exception to fall back from."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streamer.core import atomic_file

log = logging.getLogger(__name__)

LIMIT = 2
"""Unfinished starts after which graphs are not tried again. One may also be a stop of the service."""


class UnfinishedStarts:
    """A file with the number of starts that began to record graphs and did not finish."""

    def __init__(self, folder: Path, *identity: str) -> None:
        """`identity` names card, driver and libraries: with other ones graphs are tried again."""
        self.file = folder / hashlib.sha256("\n".join(identity).encode()).hexdigest()[:16]

    @property
    def count(self) -> int:
        try:
            return int(self.file.read_text())
        except (OSError, ValueError):
            return 0

    @property
    def refusal(self) -> str | None:
        """Return why graphs must not be tried, None if they may."""
        if self.count < LIMIT:
            return None
        return (
            f"{self.count} starts ended while graphs were recorded or tried: no graphs, which is slower; "
            f"remove {self.file} to try them again"
        )

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count this start as unfinished until the block ends without an exception."""
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            atomic_file.write(self.file, f"{self.count + 1}\n")
        except OSError as error:
            log.info("graphs: this start cannot be marked in %s: %s", self.file, error.strerror)
        yield
        self.file.unlink(missing_ok=True)
