"""Logging to standard error: one line per record, credentials hidden whatever a library put into it."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal

from streamer.core.redact import redact

Form = Literal["text", "json"]


class _Text(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__(f"%(asctime)s %(levelname)-7s {process}: %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class _Json(logging.Formatter):
    """One object per line; what was hidden in its texts cannot break it."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        words = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        if record.exc_info:
            words["error"] = redact(self.formatException(record.exc_info))
        return json.dumps(words, ensure_ascii=False)


class RareLog:
    """Counts a repeated problem and logs its 1st, 2nd, 4th, 8th … occurrence, so that a flood cannot fill the log."""

    def __init__(self, logger: logging.Logger, message: str, level: int = logging.WARNING) -> None:
        """`message` formats the count so far, then the arguments of `add`."""
        self.count = 0
        self._logger, self._message, self._level = logger, message, level

    def add(self, *args: object) -> None:
        self.count += 1
        if self.count.bit_count() == 1:
            self._logger.log(self._level, self._message, self.count, *args)


def setup(process: str, level: str = "info", form: Form = "text") -> None:
    """Send this process's records to standard error, each marked with the process's name."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json(process) if form == "json" else _Text(process))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
