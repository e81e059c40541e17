"""Keeps the memory of converted pictures of a stream while its frames are needed often."""

from __future__ import annotations

from streamer.core.malloc import keep_pictures

OFTEN_S = 1.0
"""Interval of needed frames below which the memory is kept."""


class PictureMemory:
    """Follows the interval in which frames are needed."""

    def __init__(self) -> None:
        self._is_kept = False

    def follow(self, interval: float) -> None:
        """Keep the memory, or give it back to the system, if the interval in seconds has changed so far."""
        if (often := interval < OFTEN_S) != self._is_kept:
            keep_pictures(often)
            self._is_kept = often
