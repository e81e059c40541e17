"""Detects motion and changes in a stream from small luma images. Pure.

Each pixel's log luma is compared with its recent mean. Illumination is removed first: in the logarithm it only adds, so
the medians of rows and columns are subtracted. Illumination of a part of the picture keeps the structure there, and is
recognised by correlation. The usual deviation of each pixel (noise, leaves, rain) is learnt; only larger deviations
count. Motion is a minimum share of an area in two consecutive images, without thin lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from streamer.core.settings import Name, Settings
from streamer.types import Luma, Point

WIDTH = 160
"""Largest width of a luma image, in pixels."""
INTERVAL_S = 0.1
"""Seconds between analysed images."""
WHOLE = ""
"""Name of the area that is the whole picture without the ignored zones."""

_WARM_UP = 20
"""Images before the first result."""
_BACKGROUND_RATE, _RECENT_RATE, _SPREAD_RATE = 0.012, 0.1, 0.012
"""Weight of the newest image in the background (motion), in the recent mean (changes) and in the deviations."""
_SPREADS = 4.0
"""Deviation of a changed pixel, in multiples of its usual deviation."""
_LOG = np.log(np.arange(256, dtype=np.float32) + 16)
_RESET_SHARE = 0.6
"""Share of changed pixels from which on the illumination or the camera changed, and the background is learnt anew."""
_MIN_CORRELATION = 0.75
"""Correlation of changed pixels with their earlier values from which on only the illumination changed."""
_MIN_GAIN = 0.5
"""Minimum contrast of such pixels, relative to before. A faint remainder in a mean has less."""
_MIN_PIXELS = 6
"""Fewer changed pixels are never motion."""

Sensitivity = Literal["low", "normal", "high"]
Values = npt.NDArray[np.float32]
"""Log luma, shape (height, width)."""
Mask = npt.NDArray[np.bool_]
"""Pixels, shape (height, width)."""


class _Limits(NamedTuple):
    min_deviation: float
    """Minimum deviation of a changed pixel, in log luma."""
    share: float
    """Minimum share of changed pixels in an area. Half of it continues a motion."""


_LIMITS: dict[Sensitivity, _Limits] = {
    "low": _Limits(0.10, 0.015),
    "normal": _Limits(0.05, 0.005),
    "high": _Limits(0.03, 0.002),
}


class MotionSettings(Settings):
    """Motion detection of a stream, for tasks with `when: motion` or `when: change`."""

    sensitivity: Sensitivity = "normal"
    """Smallest object detected, as a share of the picture: `high` 1/200, `normal` 1/100, `low` 1/30."""
    ignore: tuple[Name, ...] = ()
    """Zones of the stream without motion detection, such as a road or a clock."""


@dataclass(frozen=True, slots=True)
class SceneState:
    """State of a MotionDetector after one frame."""

    moved: Mapping[str, int]
    """Number of the last frame with motion, by area."""
    recent: Values
    """Mean of about the last second."""
    spread: Values
    """Usual deviation of each pixel."""
    masks: Mapping[str, Mask]
    """Pixels of each area, without ignored ones."""
    limits: _Limits

    def differs(self, earlier: SceneState, area: str) -> bool:
        """Return True when something appeared or disappeared in the area since `earlier`."""
        if earlier.recent.shape != self.recent.shape:
            return True
        deviation = _remove_illumination(self.recent - earlier.recent)
        changed = _changed_pixels(deviation, np.maximum(self.spread, earlier.spread), self.limits)
        if not _covers(changed, self.masks[area], self.limits.share):
            return False
        return not _is_illumination(self.recent, earlier.recent, changed)


class MotionDetector:
    """Analyses the luma images of one connection in order. Not thread-safe."""

    def __init__(self, settings: MotionSettings, zones: Mapping[str, Sequence[Point]]) -> None:
        self._limits = _LIMITS[settings.sensitivity]
        self._ignored = [zones[name] for name in settings.ignore]
        self._zones = dict(zones)
        self._masks: dict[str, Mask] = {}
        self._moved: dict[str, int] = {}
        self._consecutive_hits: dict[str, int] = {}
        """Consecutive images with enough changed pixels, by area."""
        self._images = 0
        self._background = self._recent = self._spread = np.zeros((0, 0), np.float32)

    def update(self, luma: Luma, seq: int) -> SceneState:
        """Analyse the next image, of frame `seq`, as `shrink` makes it. A new image size restarts the detector."""
        values = np.asarray(cv2.LUT(luma, _LOG), np.float32)
        if values.shape != self._background.shape:
            self._restart(values)
        else:
            self._compare(values, seq)
        return SceneState(dict(self._moved), self._recent, self._spread, self._masks, self._limits)

    def _restart(self, values: Values) -> None:
        self._background = self._recent = values
        self._spread = np.full_like(values, self._limits.min_deviation / _SPREADS / 2)
        self._masks = self._make_masks(values.shape)
        self._consecutive_hits = dict.fromkeys(self._masks, 0)
        self._images = 1

    def _compare(self, values: Values, seq: int) -> None:
        self._images += 1
        warm, newest = self._images > _WARM_UP, 1 / self._images
        deviation = _remove_illumination(values - self._background)
        changed = _changed_pixels(deviation, self._spread, self._limits)
        usual = np.abs(deviation)
        if warm:  # limits what passing objects add, which would make the pixel insensitive
            usual = np.minimum(usual, 0.5 * np.maximum(_SPREADS * self._spread, self._limits.min_deviation))
        self._spread = self._spread + max(_SPREAD_RATE, newest) * (usual - self._spread)
        count = np.count_nonzero(changed)
        if count > _RESET_SHARE * changed.size or (
            warm and count > self._limits.share * changed.size and _is_illumination(values, self._background, changed)
        ):
            self._background = self._recent = values
            return
        if warm:
            for area, mask in self._masks.items():
                self._update_area(area, changed, mask, seq)
        self._background = self._background + max(_BACKGROUND_RATE, newest) * (values - self._background)
        self._recent = self._recent + max(_RECENT_RATE, newest) * (values - self._recent)

    def _update_area(self, area: str, changed: Mask, mask: Mask, seq: int) -> None:
        in_motion = self._consecutive_hits[area] >= 2
        if not _covers(changed, mask, self._limits.share / 2 if in_motion else self._limits.share):
            self._consecutive_hits[area] = 0
            return
        self._consecutive_hits[area] += 1
        if self._consecutive_hits[area] >= 2:
            self._moved[area] = seq

    def _make_masks(self, shape: tuple[int, ...]) -> dict[str, Mask]:
        kept = ~_inside(self._ignored, shape)
        return {WHOLE: kept, **{name: _inside([points], shape) & kept for name, points in self._zones.items()}}


def _remove_illumination(deviation: Values) -> Values:
    """Subtract what is equal along a row (flickering lamp) and along a column (passing shadow)."""
    for axis in (1, 0):
        deviation = deviation - _median(deviation, axis)
    return deviation


def _median(values: Values, axis: int) -> Values:
    """Return `np.median(..., keepdims=True)`; faster, because numpy sorts floats faster than it partitions them."""
    middle = values.shape[axis] // 2
    pair = np.take(np.sort(values, axis=axis), [middle - (values.shape[axis] + 1) % 2, middle], axis=axis)
    return np.asarray(pair.mean(axis=axis, keepdims=True), np.float32)


def _changed_pixels(deviation: Values, spread: Values, limits: _Limits) -> Mask:
    """Return the pixels that deviate more than usual, without thin lines and small components."""
    changed = (np.abs(deviation) > np.maximum(_SPREADS * spread, limits.min_deviation)).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(cv2.medianBlur(changed, 5))
    large = stats[:, cv2.CC_STAT_AREA] >= limits.share / 4 * changed.size
    large[0] = False  # the background component
    return np.asarray(large[labels], np.bool_)


def _is_illumination(values: Values, before: Values, changed: Mask) -> bool:
    """Return True when the changed pixels show the same structure as before: only the illumination changed."""
    if np.count_nonzero(changed) < _MIN_PIXELS:
        return False
    a, b = values[changed], before[changed]
    a, b = a - a.mean(), b - b.mean()
    common, now, then = float((a * b).sum()), float((a * a).sum()), float((b * b).sum())
    return common > _MIN_CORRELATION * (now * then) ** 0.5 and common > _MIN_GAIN * then


def _covers(changed: Mask, mask: Mask, share: float) -> bool:
    return bool(np.count_nonzero(changed & mask) >= max(_MIN_PIXELS, share * np.count_nonzero(mask)))


def _inside(polygons: Sequence[Sequence[Point]], shape: tuple[int, ...]) -> Mask:
    mask = np.zeros(shape, np.uint8)
    for points in polygons:
        corners = np.array(points) * (shape[1], shape[0]) - 0.5
        cv2.fillPoly(mask, [np.rint(corners * 16).astype(np.int32)], (1,), shift=4)
    return mask.astype(np.bool_)


def shrink(luma: Luma) -> Luma:
    """Return a copy of a luma image, at most `WIDTH` pixels wide."""
    height, width = luma.shape
    ratio = min(1.0, WIDTH / width)
    if ratio == 1.0:
        return luma.copy()
    size = max(1, round(width * ratio)), max(1, round(height * ratio))
    return np.asarray(cv2.resize(luma, size, interpolation=cv2.INTER_AREA), np.uint8)
