"""Logging to standard error, one redacted line per record."""

from __future__ import annotations

import json
import logging
import sys
import threading
from datetime import UTC, datetime
from typing import Literal

from streamer.core.printable import counted, printable
from streamer.core.reasons import internal_error
from streamer.core.redact import redact

Format = Literal["text", "json"]

_SILENCED = ("httpx2", "httpcore2")
"""Loggers that write URLs and headers of requests and responses at the levels info and debug."""


class _TextFormatter(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__(f"%(asctime)s %(levelname)-7s {process}: %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        first, *others = redact(super().format(record)).split("\n")
        # The others are indented, so that a text with line ends cannot pass for a record.
        return "\n".join([printable(first), *(f"  {printable(line)}" for line in others)])


class _JsonFormatter(logging.Formatter):
    """One JSON object per line. Texts are redacted before encoding, so redaction cannot break the JSON."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        if record.exc_info:
            fields["error"] = redact(self.formatException(record.exc_info))
        return json.dumps(fields, ensure_ascii=False)


class RareLog:
    """Counts a repeated problem and logs its 1st, 2nd, 4th, 8th … occurrence, so that a flood cannot fill the log."""

    def __init__(
        self, logger: logging.Logger, message: str, level: int = logging.WARNING, *, noun: str | None = None
    ) -> None:
        """`message` formats the count so far, then the arguments of `add`. With `noun` the count is `2 frames`."""
        self.count = 0
        self._logger, self._message, self._level, self._noun = logger, message, level, noun

    def add(self, *args: object) -> None:
        self.count += 1
        if self.count.bit_count() == 1:
            count = self.count if self._noun is None else counted(self.count, self._noun)
            self._logger.log(self._level, self._message, count, *args)


def setup(process: str, level: str = "info", form: Format = "text") -> None:
    """Log to standard error, with the name of this process in each record."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter(process) if form == "json" else _TextFormatter(process))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in _SILENCED:
        logging.getLogger(name).setLevel(logging.WARNING)


def log_uncaught() -> None:
    """Log exceptions that end a thread or the process: Python would print them without redaction.

    A command without a log prints one line.
    """

    def log(error: BaseException | None) -> None:
        if error is None:
            return
        reason = internal_error(error, threading.current_thread().name)
        if not logging.getLogger().hasHandlers():
            print(f"streamer: {redact(reason)}", file=sys.stderr)

    sys.excepthook = lambda _, error, __: log(error)
    threading.excepthook = lambda uncaught: log(uncaught.exc_value)
