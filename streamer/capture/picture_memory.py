"""Keeps the memory of converted pictures of a stream while its frames are needed often."""

from __future__ import annotations

from streamer.core.malloc import keep_pictures, release_unused

OFTEN_S = 1.0
"""Interval of needed frames below which the memory is kept."""
RELEASE_S = 5.0
"""Interval in which unused memory is given back while frames are needed seldom. Packets that waited for the decoder, as
those of a large key frame do, leave about 1 MB of free blocks between others that are in use."""


class PictureMemory:
    """Follows the interval in which frames are needed."""

    def __init__(self) -> None:
        self._is_kept = False
        self._release_at = 0.0

    def follow(self, interval: float, now: float) -> None:
        """Keep the memory, or give it back to the system, by the interval in seconds. `now`: monotonic second."""
        if (often := interval < OFTEN_S) != self._is_kept:
            keep_pictures(often)
            self._is_kept = often
        if not often and now >= self._release_at:
            release_unused()
            self._release_at = now + RELEASE_S
