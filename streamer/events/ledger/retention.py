"""How long the ledger keeps events."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from streamer.core.settings import Seconds, Settings


class Retention(Settings):
    """How long accepted events are kept, delivered or not; the oldest go first."""

    keep: Seconds = 7 * 86400.0
    """Older events are deleted."""
    max_bytes: Annotated[int, Field(ge=1 << 20)] = 1 << 30
    """And the oldest when the file would become larger than this."""
