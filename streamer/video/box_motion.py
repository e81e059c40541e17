"""Extrapolates and interpolates boxes between answers, and fades them when no answer confirms them. Pure.

Times are media seconds of the frames. The motion detector of tasks with `when: motion` is `capture/motion_gate.py`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from streamer.types import Box

Vector = tuple[float, float, float, float]

SMOOTHING_S = 0.4
"""Time constant of the velocity's mean: frequent answers are averaged, rare ones are taken as they are."""
MAX_EXTRAPOLATION = 1.5
"""Intervals after its answer for which a box moves on; then it stops."""
FRESH_INTERVALS, GONE_INTERVALS = 2.0, 5.0
"""Intervals after which a box starts to fade, and after which it is no longer shown."""
MAX_KEYFRAMES = 64
"""Answers that are kept."""
_ZERO: Vector = (0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class MovingBox:
    """A box of one answer, with its velocity in fractions of the frame per second."""

    box: Box
    velocity: Vector = _ZERO
    step: Vector | None = None
    """Mean velocity since the previous answer."""
    step_s: float = 0.0
    """Seconds since the previous answer."""

    def after(self, seconds: float) -> Box:
        """Return the extrapolated box."""
        return _moved(self.box, _scaled(self.velocity, seconds))


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
        found = dict(enumerate(places))
        if after is not None:
            return _between(before, after, time, found)
        seconds = min(time - before.at, MAX_EXTRAPOLATION * self.interval)
        return [found.get(number) or moving.after(seconds) for number, moving in enumerate(before.boxes)]

    def _surrounding(self, time: float) -> tuple[Keyframe | None, Keyframe | None]:
        """Return the answers before and after `time`."""
        before = after = None
        for keyframe in reversed(self._keyframes):
            if keyframe.at <= time + 1e-6:
                before = keyframe
                break
            after = keyframe
        return before, after


def _moving(box: Box, last: Keyframe, at: float) -> MovingBox:
    """Return the box with its velocity, from the same object in the previous answer."""
    earlier = _earlier(box, last)
    if earlier is None:
        return MovingBox(box)
    seconds = at - last.at
    step = _scaled(_displacement(earlier.box, box), 1 / seconds)
    if earlier.step is None:
        return MovingBox(box, step, step, seconds)
    # A step's mean velocity is that at its middle. Extrapolate the change between two middles to the end of the step.
    current = _interpolate(earlier.step, step, 1 + seconds / (seconds + earlier.step_s))
    velocity = _interpolate(earlier.velocity, current, 1 - math.exp(-seconds / SMOOTHING_S))
    return MovingBox(box, velocity, step, seconds)


def _earlier(box: Box, last: Keyframe) -> MovingBox | None:
    """Return the same object in the previous answer, where it may have no id: ids start at the second detection."""
    if box.track is None:
        return None
    for moving in last.boxes:
        if moving.box.track == box.track:
            return moving
    untracked = [moving for moving in last.boxes if moving.box.track is None and moving.box.label == box.label]
    return min(untracked, key=lambda moving: _distance(moving.box, box), default=None)


def _between(before: Keyframe, after: Keyframe, time: float, found: Mapping[int, Box | None]) -> list[Box]:
    """Return the boxes between two answers. A box that only one of them has is shown in its half of the time."""
    share = (time - before.at) / (after.at - before.at)
    boxes = []
    partners = {id(earlier): moving for moving in after.boxes if (earlier := _earlier(moving.box, before)) is not None}
    for number, earlier in enumerate(before.boxes):
        later = partners.get(id(earlier))
        place = found.get(number)
        if later is not None:
            shift = _scaled(_displacement(earlier.box, later.box), share)
            boxes.append(replace(place or _moved(earlier.box, shift), track=later.box.track))
        elif share < 0.5:
            boxes.append(place or earlier.after(time - before.at))
    if share >= 0.5:
        boxes.extend(moving.box for moving in after.boxes if _earlier(moving.box, before) is None)
    return boxes


def _displacement(start: Box, end: Box) -> Vector:
    return end.x0 - start.x0, end.y0 - start.y0, end.x1 - start.x1, end.y1 - start.y1


def _scaled(vector: Vector, factor: float) -> Vector:
    x0, y0, x1, y1 = vector
    return x0 * factor, y0 * factor, x1 * factor, y1 * factor


def _interpolate(a: Vector, b: Vector, share: float) -> Vector:
    """Return the vector at `share` of the way from `a` to `b`; above 1 it extrapolates."""
    x0, y0, x1, y1 = (start + share * (end - start) for start, end in zip(a, b, strict=True))
    return x0, y0, x1, y1


def _moved(box: Box, shift: Vector) -> Box:
    x0, y0, x1, y1 = shift
    return replace(box, x0=box.x0 + x0, y0=box.y0 + y0, x1=box.x1 + x1, y1=box.y1 + y1)


def _distance(a: Box, b: Box) -> float:
    return abs(a.x0 + a.x1 - b.x0 - b.x1) + abs(a.y0 + a.y1 - b.y0 - b.y1)
