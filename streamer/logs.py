"""Logging to standard error: one line per record, credentials hidden whatever a library put into it."""

from __future__ import annotations

import logging
import sys

from streamer.redact import redact


class _Redacting(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def setup(process: str, level: str = "info") -> None:
    """Send this process's records to standard error, each marked with the process's name."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Redacting(f"%(asctime)s %(levelname)-7s {process}: %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
