"""Whether something moves or has changed in a stream's pictures, told from small copies of their brightness. Pure.

A pixel's brightness is compared with what it was in the last seconds, in a way that light does not touch: logarithms,
so that more light only adds, less the median of their row and of their column, so that what it adds is gone. Light that
falls on a part of the picture leaves what it shows alike, and is known by that. How much a pixel varies by itself
(noise, leaves, rain) is learnt, and only what goes beyond counts. Thin lines do not; a share of an area does, in two
copies in a row.
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
"""Pixels of a small copy, at most."""
EVERY_S = 0.1
"""Between two pictures that are looked at."""
WHOLE = ""
"""The area that is the whole picture, without what is ignored."""

_WARM = 20
"""Pictures that are looked at before anything is told."""
_SLOW, _QUICK, _LEARN = 0.012, 0.1, 0.012
"""Weight of the newest picture in the background, in what is compared for changes, and in the spread."""
_SPREADS = 4.0
"""How far beyond its usual spread a pixel has to be."""
_LOG = np.log(np.arange(256, dtype=np.float32) + 16)
_ALL = 0.6
"""When so much is different at once, it is the light or the camera, and the background is learnt anew."""
_ALIKE = 0.75
"""So it is when what is different still looks the same: its correlation with what was there."""
_STRONG = 0.5
_MIN_PIXELS = 6

Sensitivity = Literal["low", "normal", "high"]
Values = npt.NDArray[np.float32]


class _Limits(NamedTuple):
    least: float
    """Logarithm of brightness by which a pixel has to differ."""
    share: float
    """Of an area that has to; half of it keeps a movement going."""


_LIMITS: dict[Sensitivity, _Limits] = {
    "low": _Limits(0.10, 0.015),
    "normal": _Limits(0.05, 0.005),
    "high": _Limits(0.03, 0.002),
}


class MotionSettings(Settings):
    """What counts as something that happens in a stream's pictures, for tasks with `when: motion` or `change`."""

    sensitivity: Sensitivity = "normal"
    """`normal` sees what covers a hundredth of the picture, `high` a two-hundredth, `low` a thirtieth."""
    ignore: tuple[Name, ...] = ()
    """Zones of the stream in which nothing counts: a road behind the fence, a clock."""


@dataclass(frozen=True, slots=True)
class SceneState:
    """What one connection has shown up to one of its pictures."""

    moved: Mapping[str, int]
    """By area: the number of the last frame in which something moved."""
    seen: Values
    """The last second or so: logarithms of the brightness."""
    spread: Values
    counted: Mapping[str, npt.NDArray[np.bool_]]
    """The pixels of each area."""
    limits: _Limits

    def differs(self, earlier: SceneState, area: str) -> bool:
        """Something is there that was not, or is gone."""
        if earlier.seen.shape != self.seen.shape:
            return True
        far = _beyond(
            _remove_illumination(self.seen - earlier.seen), np.maximum(self.spread, earlier.spread), self.limits
        )
        return _enough(far, self.counted[area], self.limits.share) and not _is_alike(self.seen, earlier.seen, far)


class MotionDetector:
    """Looks at the pictures of one connection, one after the other. Not thread-safe."""

    def __init__(self, settings: MotionSettings, zones: Mapping[str, Sequence[Point]]) -> None:
        self._limits = _LIMITS[settings.sensitivity]
        self._ignored = [zones[name] for name in settings.ignore]
        self._zones = dict(zones)
        self._counted: dict[str, npt.NDArray[np.bool_]] = {}
        self._moved: dict[str, int] = {}
        self._consecutive_hits: dict[str, int] = {}
        """By area: copies in a row in which enough moved."""
        self._pictures = 0
        self._background = self._seen = self._spread = np.zeros((0, 0), np.float32)

    def update(self, luma: Luma, seq: int) -> SceneState:
        """The next picture, as a small copy of its brightness, and its number. Sizes may change in between."""
        values = np.asarray(cv2.LUT(luma, _LOG), np.float32)
        if values.shape != self._background.shape:
            self._begin(values)
        else:
            self._compare(values, seq)
        return SceneState(dict(self._moved), self._seen, self._spread, self._counted, self._limits)

    def _begin(self, values: Values) -> None:
        self._background = self._seen = values
        self._spread = np.full_like(values, self._limits.least / _SPREADS / 2)
        self._counted = self._areas(values.shape)
        self._consecutive_hits = dict.fromkeys(self._counted, 0)
        self._pictures = 1

    def _compare(self, values: Values, seq: int) -> None:
        self._pictures += 1
        warm, newest = self._pictures > _WARM, 1 / self._pictures
        difference = _remove_illumination(values - self._background)
        far = _beyond(difference, self._spread, self._limits)
        usual = np.abs(difference)
        if warm:  # what moves through must not make the pixel deaf: it counts as a little noise
            usual = np.minimum(usual, 0.5 * np.maximum(_SPREADS * self._spread, self._limits.least))
        self._spread = self._spread + max(_LEARN, newest) * (usual - self._spread)
        count = np.count_nonzero(far)
        if count > _ALL * far.size or (
            warm and count > self._limits.share * far.size and _is_alike(values, self._background, far)
        ):
            self._background = self._seen = values
            return
        if warm:
            for area, counted in self._counted.items():
                self._judge(area, far, counted, seq)
        self._background = self._background + max(_SLOW, newest) * (values - self._background)
        self._seen = self._seen + max(_QUICK, newest) * (values - self._seen)

    def _judge(self, area: str, far: npt.NDArray[np.bool_], counted: npt.NDArray[np.bool_], seq: int) -> None:
        going = self._consecutive_hits[area] >= 2
        if not _enough(far, counted, self._limits.share / 2 if going else self._limits.share):
            self._consecutive_hits[area] = 0
            return
        self._consecutive_hits[area] += 1
        if self._consecutive_hits[area] >= 2:
            self._moved[area] = seq

    def _areas(self, shape: tuple[int, ...]) -> dict[str, npt.NDArray[np.bool_]]:
        kept = ~_inside(self._ignored, shape)
        return {WHOLE: kept, **{name: _inside([points], shape) & kept for name, points in self._zones.items()}}


def _remove_illumination(difference: Values) -> Values:
    """Without what the light added: alike along a row (a flickering lamp), alike along a column (a passing shade)."""
    for axis in (1, 0):
        difference = difference - _median(difference, axis)
    return difference


def _median(values: Values, axis: int) -> Values:
    """As `np.median` with the axis kept, but quicker: numpy sorts floats faster than it finds their middle."""
    middle = values.shape[axis] // 2
    pair = np.take(np.sort(values, axis=axis), [middle - (values.shape[axis] + 1) % 2, middle], axis=axis)
    return np.asarray(pair.mean(axis=axis, keepdims=True), np.float32)


def _beyond(difference: Values, spread: Values, limits: _Limits) -> npt.NDArray[np.bool_]:
    """Which pixels differ by more than they are wont to, in pieces of some size."""
    far = (np.abs(difference) > np.maximum(_SPREADS * spread, limits.least)).astype(np.uint8)
    _, pieces, stats, _ = cv2.connectedComponentsWithStats(cv2.medianBlur(far, 5))
    large = stats[:, cv2.CC_STAT_AREA] >= limits.share / 4 * far.size
    large[0] = False  # what does not differ
    return np.asarray(large[pieces], np.bool_)


def _is_alike(values: Values, before: Values, far: npt.NDArray[np.bool_]) -> bool:
    """What is different in brightness shows the same as before: the light is another one."""
    if np.count_nonzero(far) < _MIN_PIXELS:
        return False
    a, b = values[far], before[far]
    a, b = a - a.mean(), b - b.mean()
    common, now, then = float((a * b).sum()), float((a * a).sum()), float((b * b).sum())
    # As strong as it was, too: a trace of what was there is left in a mean over time.
    return common > _ALIKE * (now * then) ** 0.5 and common > _STRONG * then


def _enough(far: npt.NDArray[np.bool_], counted: npt.NDArray[np.bool_], share: float) -> bool:
    return bool(np.count_nonzero(far & counted) >= max(_MIN_PIXELS, share * np.count_nonzero(counted)))


def _inside(polygons: Sequence[Sequence[Point]], shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    mask = np.zeros(shape, np.uint8)
    for points in polygons:
        corners = np.array(points) * (shape[1], shape[0]) - 0.5
        cv2.fillPoly(mask, [np.rint(corners * 16).astype(np.int32)], (1,), shift=4)
    return mask.astype(np.bool_)


def shrink(luma: Luma) -> Luma:
    """A copy of a picture's brightness, at most `WIDTH` wide."""
    height, width = luma.shape
    ratio = min(1.0, WIDTH / width)
    if ratio == 1.0:
        return luma.copy()
    size = max(1, round(width * ratio)), max(1, round(height * ratio))
    return np.asarray(cv2.resize(luma, size, interpolation=cv2.INTER_AREA), np.uint8)
