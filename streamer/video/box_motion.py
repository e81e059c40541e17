"""Extrapolates and interpolates boxes between answers, and fades them when no answer confirms them. Pure.

Times are media seconds of the frames. The motion detector of tasks with `when: motion` is `capture/motion_gate.py`.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from streamer.types import Box

Vector = npt.NDArray[np.float64]
"""Changes of a box's x0, y0, x1 and y1 in fractions of the frame; per second in a velocity. Shape (4,)."""

SMOOTHING_S = 0.4
"""Time constant of the velocity's mean: frequent answers are averaged, rare ones are taken as they are."""
MAX_EXTRAPOLATION = 1.5
"""Intervals after its answer for which a box moves on; then it stops."""
FRESH_INTERVALS, GONE_INTERVALS = 2.0, 5.0
"""Intervals after which a box starts to fade, and after which it is no longer shown."""
MAX_KEYFRAMES = 64
"""Answers that are kept."""


@dataclass(frozen=True, slots=True)
class MovingBox:
    """A box of one answer, with its velocity in fractions of the frame per second."""

    box: Box
    velocity: Vector = field(default_factory=lambda: np.zeros(4))
    step: Vector | None = None
    """Mean velocity since the previous answer."""
    step_s: float = 0.0
    """Seconds since the previous answer."""

    def after(self, seconds: float) -> Box:
        """Return the extrapolated box."""
        return moved(self.box, self.velocity * seconds)


@dataclass(frozen=True, slots=True)
class Keyframe:
    """The boxes of one answer and the time of its frame."""

    at: float
    boxes: tuple[MovingBox, ...]


class BoxMotion:
    """The boxes of one task over time."""

    def __init__(self, interval: float = 1.0) -> None:
        """`interval`: expected seconds between two answers; then measured."""
        self.interval = interval
        self._keyframes: deque[Keyframe] = deque(maxlen=MAX_KEYFRAMES)

    def add(self, at: float, boxes: Sequence[Box]) -> None:
        """Add an answer about the frame of time `at`. It is ignored unless it is newer than the last one."""
        last = self._keyframes[-1] if self._keyframes else None
        if last is None:
            self._keyframes.append(Keyframe(at, tuple(MovingBox(box) for box in boxes)))
        elif at > last.at:
            self.interval += 0.3 * (min(at - last.at, 10 * self.interval) - self.interval)
            self._keyframes.append(Keyframe(at, tuple(_moving(box, last, at) for box in boxes)))

    def strength(self, time: float) -> float:
        """Return the opacity of this task's overlay at `time`: 1 while fresh, 0 once gone."""
        before = self._surrounding(time)[0]
        age = math.inf if before is None else (time - before.at) / self.interval
        return min(1.0, max(0.0, (GONE_INTERVALS - age) / (GONE_INTERVALS - FRESH_INTERVALS)))

    def before(self, time: float) -> Keyframe | None:
        """Return the newest answer about a frame of `time` or earlier."""
        return self._surrounding(time)[0]

    def at(self, time: float, places: Sequence[Box | None] = ()) -> list[Box]:
        """Return the boxes at `time`: interpolated between two answers if both are known, else extrapolated.

        `places`: boxes of `before(time)` as found in the image, in their order; None where not found.
        """
        before, after = self._surrounding(time)
        if before is None:
            return []
        places = places or [None] * len(before.boxes)
        if after is not None:
            return _between(before, after, time, places)
        seconds = min(time - before.at, MAX_EXTRAPOLATION * self.interval)
        return [place or moving.after(seconds) for moving, place in zip(before.boxes, places, strict=True)]

    def _surrounding(self, time: float) -> tuple[Keyframe | None, Keyframe | None]:
        """Return the answers before and after `time`."""
        index = bisect_right(self._keyframes, time + 1e-6, key=lambda keyframe: keyframe.at)
        before, after = (self._keyframes[n] if 0 <= n < len(self._keyframes) else None for n in (index - 1, index))
        return before, after


def _moving(box: Box, last: Keyframe, at: float) -> MovingBox:
    """Return the box with its velocity, from the same object in the previous answer."""
    earlier = _earlier(box, last)
    if earlier is None:
        return MovingBox(box)
    seconds = at - last.at
    step = (corners(box) - corners(earlier.box)) / seconds
    if earlier.step is None:
        return MovingBox(box, step, step, seconds)
    # A step's mean velocity is that at its middle. Extrapolate the change between two middles to the end of the step.
    current = step + (step - earlier.step) * seconds / (seconds + earlier.step_s)
    velocity = current + (earlier.velocity - current) * math.exp(-seconds / SMOOTHING_S)
    return MovingBox(box, velocity, step, seconds)


def _earlier(box: Box, last: Keyframe) -> MovingBox | None:
    """Return the same object in the previous answer, where it may have no id: ids start at the second detection."""
    if box.track is None:
        return None
    for moving in last.boxes:
        if moving.box.track == box.track:
            return moving
    untracked = [moving for moving in last.boxes if moving.box.track is None and moving.box.label == box.label]
    return min(untracked, key=lambda moving: distance(moving.box, box), default=None)


def _between(before: Keyframe, after: Keyframe, time: float, places: Sequence[Box | None]) -> list[Box]:
    """Return the boxes between two answers. A box that only one of them has is shown in its half of the time."""
    share = (time - before.at) / (after.at - before.at)
    boxes = []
    partners = {id(earlier): moving for moving in after.boxes if (earlier := _earlier(moving.box, before)) is not None}
    for earlier, place in zip(before.boxes, places, strict=True):
        later = partners.get(id(earlier))
        if later is not None:
            shift = share * (corners(later.box) - corners(earlier.box))
            boxes.append(replace(place or moved(earlier.box, shift), track=later.box.track))
        elif share < 0.5:
            boxes.append(place or earlier.after(time - before.at))
    if share >= 0.5:
        boxes.extend(moving.box for moving in after.boxes if _earlier(moving.box, before) is None)
    return boxes


def corners(box: Box) -> Vector:
    return np.array((box.x0, box.y0, box.x1, box.y1))


def moved(box: Box, shift: Iterable[float]) -> Box:
    """Return the box with its x0, y0, x1 and y1 changed by `shift`."""
    x0, y0, x1, y1 = map(float, shift)
    return replace(box, x0=box.x0 + x0, y0=box.y0 + y0, x1=box.x1 + x1, y1=box.y1 + y1)


def distance(a: Box, b: Box) -> float:
    """Return the distance of two boxes' centres in fractions of the frame: that along x plus that along y."""
    return (abs(a.x0 + a.x1 - b.x0 - b.x1) + abs(a.y0 + a.y1 - b.y0 - b.y1)) / 2
