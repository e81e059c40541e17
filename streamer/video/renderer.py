"""Renders the images of a view: a frame with its overlays, the greyed last frame of a lost camera, or a card."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

import numpy as np

from streamer.types import Image, Zone
from streamer.video.draw import NO_LINES, Lines, Painter
from streamer.video.overlay import Overlays, media_time
from streamer.video.pacing import PacedFrame

CARD_AFTER_S = 3.0
"""Seconds without any frame after which a card is shown."""
CARD_SIZE = 1280, 720
"""Width and height of the card, until the camera's own size is known."""


class Renderer:
    """Draws one stream's overlays at the size of its frames."""

    def __init__(self, now: float, lines: Lines = NO_LINES) -> None:
        """`lines`: those of the stream, with their names."""
        self.overlays = Overlays({}, None, now)
        self._zones: list[Zone] = []
        self._lines = lines
        self._painter = Painter(*CARD_SIZE, lines=lines)
        self._started = now

    def set_tasks(
        self, intervals: Mapping[str, float], shortest: float | None, zones: Iterable[Zone], now: float
    ) -> None:
        """Replace the tasks whose answers and zones are drawn; see `Overlays.set_tasks`."""
        self.overlays.set_tasks(intervals, shortest, now)
        self._zones = list(dict.fromkeys(zones))
        self._painter = Painter(*self._painter.size, self._zones, self._lines)

    def render(self, paced: PacedFrame, now: float) -> Image | None:
        """Return the image to show, or None at the start, while the camera may still send its first frame."""
        frame, wait_s = paced.frame, now - self._started
        if frame is None and wait_s < CARD_AFTER_S:
            return None
        # A copy, because the pacer may repeat the frame and the next overlay differs.
        image = np.zeros((CARD_SIZE[1], CARD_SIZE[0], 3), np.uint8) if frame is None else frame.image.copy()
        height, width = image.shape[:2]
        if self._painter.size != (width, height):
            self._painter = Painter(width, height, self._zones, self._lines)
        if frame is None:
            self._painter.draw_lost(image, f"no picture for {wait_s:.0f} s", time.time())
        elif paced.lost_s is not None:
            self._painter.draw_lost(image, f"camera lost {paced.lost_s:.0f} s", time.time())
        else:
            at = media_time(frame.id.epoch, frame.pts, frame.captured_at)
            self.overlays.add_image(frame.id, at, frame.image)
            self._painter.draw(image, self.overlays.at(frame.id, at, now), frame.captured_at)
        return image
