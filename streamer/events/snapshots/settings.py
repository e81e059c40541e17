"""The `snapshots` of a config."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from streamer.core.settings import Seconds, Settings


class Snapshots(Settings):
    """Frames of answers as JPEG files. The oldest are deleted first, those that no incident names before others."""

    incidents: bool = True
    """Keep the best frame of each incident."""
    results: bool = False
    """Keep the frame of each answer in which the model found something, follow-ups left out."""
    keep: Seconds = 7 * 86400.0
    """Older snapshots are deleted."""
    max_bytes: Annotated[int, Field(ge=1 << 20)] = 1 << 30
    """The oldest snapshots are deleted when all together are larger than this."""
    quality: Annotated[int, Field(ge=1, le=100)] = 85
    """Quality of the JPEG, 1 to 100."""
    width: Annotated[int, Field(ge=64, le=7680)] = 1920
    """Largest width in pixels; wider frames are scaled down."""
