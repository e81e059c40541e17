"""Where boxes are between two answers: they go on as they went, and fade when nothing confirms them. Pure.

Times are seconds of one clock, the frames' own.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from streamer.types import Box

Vector = tuple[float, float, float, float]

SMOOTHING_S = 0.4
"""Time constant of the velocity's mean: answers that come fast are averaged, rare ones are believed."""
MAX_DISTANCE = 1.5
"""Intervals for which a box goes on after the answer that it comes from; then it stands still."""
FRESH, GONE = 2.0, 5.0
"""Intervals after which a box begins to fade, and after which it is no longer shown."""
KEPT = 64
"""Answers."""
_STILL: Vector = (0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class MovingBox:
    """A box as one answer had it, with its velocity in fractions of the frame per second."""

    box: Box
    velocity: Vector = _STILL
    step: Vector | None = None
    """Mean velocity since the answer before."""
    since: float = 0.0
    """Seconds since the answer before."""

    def after(self, seconds: float) -> Box:
        return _moved(self.box, _scaled(self.velocity, seconds))


@dataclass(frozen=True, slots=True)
class Keyframe:
    """One answer and its moment."""

    at: float
    boxes: tuple[MovingBox, ...]


class BoxMotion:
    """The boxes of one task over time."""

    def __init__(self, interval: float = 1.0) -> None:
        """`interval`: seconds expected between two answers, until they have shown it themselves."""
        self.interval = interval
        self._answers: deque[Keyframe] = deque(maxlen=KEPT)

    def clear(self) -> None:
        """A new connection: nothing of the old one is where it was."""
        self._answers.clear()

    def add(self, at: float, boxes: Sequence[Box]) -> None:
        """An answer about the frame of that moment. One that is not newer than the last is ignored."""
        last = self._answers[-1] if self._answers else None
        if last is None:
            self._answers.append(Keyframe(at, tuple(MovingBox(box) for box in boxes)))
        elif at > last.at:
            self.interval += 0.3 * (min(at - last.at, 10 * self.interval) - self.interval)
            self._answers.append(Keyframe(at, tuple(_follow(box, last, at) for box in boxes)))

    def strength(self, time: float) -> float:
        """How much an overlay of this task is worth at `time`: 1 fresh … 0 gone."""
        before = self._around(time)[0]
        age = math.inf if before is None else (time - before.at) / self.interval
        return min(1.0, max(0.0, (GONE - age) / (GONE - FRESH)))

    def before(self, time: float) -> Keyframe | None:
        """The newest answer about that moment or an earlier one."""
        return self._around(time)[0]

    def at(self, time: float, places: Sequence[Box | None] = ()) -> list[Box]:
        """The boxes of that moment: between two answers where both are known, else as the last one went on.

        `places`: where the boxes of `before(time)` have been seen, in their order, None for those that have not.
        """
        before, after = self._around(time)
        if before is None:
            return []
        seen = dict(enumerate(places))
        if after is not None:
            return _between(before, after, time, seen)
        seconds = min(time - before.at, MAX_DISTANCE * self.interval)
        return [seen.get(number) or moving.after(seconds) for number, moving in enumerate(before.boxes)]

    def _around(self, time: float) -> tuple[Keyframe | None, Keyframe | None]:
        before = after = None
        for answer in reversed(self._answers):
            if answer.at <= time + 1e-6:
                before = answer
                break
            after = answer
        return before, after


def _follow(box: Box, last: Keyframe, at: float) -> MovingBox:
    """A box with the velocity that it has shown since the answer before."""
    earlier = _earlier(box, last)
    if earlier is None:
        return MovingBox(box)
    seconds = at - last.at
    step = _scaled(_way(earlier.box, box), 1 / seconds)
    if earlier.step is None:
        return MovingBox(box, step, step, seconds)
    # The mean velocity of a step is that of its middle; what changed between two middles goes on to the step's end.
    now = _mixed(earlier.step, step, 1 + seconds / (seconds + earlier.since))
    velocity = _mixed(earlier.velocity, now, 1 - math.exp(-seconds / SMOOTHING_S))
    return MovingBox(box, velocity, step, seconds)


def _earlier(box: Box, last: Keyframe) -> MovingBox | None:
    """The same object in the answer before. An id begins with the second sight, so it may have had none then."""
    if box.track is None:
        return None
    for moving in last.boxes:
        if moving.box.track == box.track:
            return moving
    nameless = [moving for moving in last.boxes if moving.box.track is None and moving.box.label == box.label]
    return min(nameless, key=lambda moving: _distance(moving.box, box), default=None)


def _between(before: Keyframe, after: Keyframe, time: float, seen: Mapping[int, Box | None]) -> list[Box]:
    share = (time - before.at) / (after.at - before.at)
    shown = []
    partners = {id(earlier): moving for moving in after.boxes if (earlier := _earlier(moving.box, before)) is not None}
    for number, earlier in enumerate(before.boxes):
        later = partners.get(id(earlier))
        place = seen.get(number)
        if later is not None:
            way = _scaled(_way(earlier.box, later.box), share)
            shown.append(replace(place or _moved(earlier.box, way), track=later.box.track))
        elif share < 0.5:
            shown.append(place or earlier.after(time - before.at))
    if share >= 0.5:
        shown.extend(moving.box for moving in after.boxes if _earlier(moving.box, before) is None)
    return shown


def _way(start: Box, end: Box) -> Vector:
    return end.x0 - start.x0, end.y0 - start.y0, end.x1 - start.x1, end.y1 - start.y1


def _scaled(vector: Vector, factor: float) -> Vector:
    x0, y0, x1, y1 = vector
    return x0 * factor, y0 * factor, x1 * factor, y1 * factor


def _mixed(a: Vector, b: Vector, share: float) -> Vector:
    """From `a` so much of the way to `b`; beyond it when `share` is above 1."""
    x0, y0, x1, y1 = (one + share * (other - one) for one, other in zip(a, b, strict=True))
    return x0, y0, x1, y1


def _moved(box: Box, way: Vector) -> Box:
    x0, y0, x1, y1 = way
    return replace(box, x0=box.x0 + x0, y0=box.y0 + y0, x1=box.x1 + x1, y1=box.y1 + y1)


def _distance(a: Box, b: Box) -> float:
    return abs(a.x0 + a.x1 - b.x0 - b.x1) + abs(a.y0 + a.y1 - b.y0 - b.y1)
