"""Compares two pictures of a stream: noise of the camera and light do not count as a difference."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from streamer.inference.crop import box_of
from streamer.types import Frame, Image, Zone

WIDTH = 160
"""Largest width of a compared picture, in pixels."""
MIN_LEVELS, MIN_SHARE = 14.0, 0.08
"""Smallest deviation of a colour channel that has changed: in levels of 255, and as a share of its value."""
SPREADS = 5.0
"""Deviation of such a channel, in multiples of the usual deviation of all pixels."""
MAX_NOISE = 6.0
"""Usual deviation in levels, from which on no picture is taken for still: the noise could hide an object."""
BRIGHT = 235.0
"""Level from which on a channel may be at its limit, so that more light does not show."""
MIN_PIXELS = 6
"""Connected pixels that make a difference."""

_Channel = npt.NDArray[np.float32]
"""Shape (height, width)."""


def small_picture(frame: Frame, zone: Zone | None) -> Image:
    """Return a copy of the frame, or of the bounding box of a zone, at most `WIDTH` pixels wide."""
    height, width = frame.image.shape[:2]
    left, top, right, bottom = (0, 0, width, height) if zone is None else box_of(zone, width, height)
    share = min(1.0, WIDTH / (right - left))
    size = max(1, round((right - left) * share)), max(1, round((bottom - top) * share))
    return np.asarray(cv2.resize(frame.image[top:bottom, left:right], size, interpolation=cv2.INTER_AREA), np.uint8)


def is_still(before: Image, now: Image) -> bool:
    """Return whether two small pictures show the same; False if noise leaves it open."""
    if before.shape != now.shape:
        return False
    changed = np.zeros(before.shape[:2], np.uint8)
    for channel in range(before.shape[2]):
        old, new = before[..., channel].astype(np.float32), now[..., channel].astype(np.float32)
        expected = old * _light(old, new)
        deviation = np.abs(new - expected)
        deviation[(new >= expected) & (old >= BRIGHT) | (new >= BRIGHT) & (expected >= BRIGHT)] = 0
        noise = 1.5 * float(np.median(deviation))
        if noise > MAX_NOISE:
            return False
        changed |= deviation > np.maximum(max(MIN_LEVELS, SPREADS * noise), MIN_SHARE * expected)
    _, _, stats, _ = cv2.connectedComponentsWithStats(cv2.medianBlur(changed, 3))
    return bool(stats[1:, cv2.CC_STAT_AREA].max(initial=0) < MIN_PIXELS)


def _light(before: _Channel, now: _Channel) -> _Channel:
    """Return how much brighter a channel became, by what is equal along columns (passing shadow) and rows (lamp)."""
    ratio = np.log((now + 1) / (before + 1))
    columns = np.median(ratio, axis=0, keepdims=True)
    return np.asarray(np.exp(columns + np.median(ratio - columns, axis=1, keepdims=True)), np.float32)
