"""Retention of events in the ledger."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from streamer.core.settings import Seconds, Settings


class Retention(Settings):
    """Retention of accepted events, whether delivered or not. The oldest are deleted first."""

    keep: Seconds = 7 * 86400.0
    """Older events are deleted."""
    max_bytes: Annotated[int, Field(ge=1 << 20)] = 1 << 30
    """The oldest events are deleted when the file would grow beyond this size."""
