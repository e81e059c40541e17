"""Follows boxes from the picture that was asked about to the one that is shown, by what is in them.

An answer is about a picture of some time ago, and no velocity tells of a turn. So each box's content is searched for,
in small copies of the pictures since, near where it was. The content is always that of the answer's own picture, so
that nothing drifts. What is not found again is left to its velocity. So are all boxes of a task when that had the
better of the last answers: a box full of still background stays where it is while the object in it walks off.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from streamer.types import Box, Image
from streamer.video.box_motion import Keyframe

WIDTH = 160
"""Pixels of the small copies, at most; a box is followed to one of them, 0.6 % of the picture."""
KEPT_S = 12.0
MAX_KEPT = 400
REACH = 8
"""Pixels that are searched around the expected place."""
MIN_SIDE_PX = 4
ALIKE = 0.5
"""Correlation from which on a box is found again."""
MAX_BOXES = 16
"""Of one answer: following more would cost too much."""
MAX_STEPS = 15
"""Pictures looked at on the way from an answer's picture to the present."""
SPEED_S = 0.2


@dataclass(frozen=True, slots=True)
class _Seen:
    at: float
    image: Image


@dataclass(slots=True)
class _Patch:
    """The content of one box, and where it is now: its upper left corner in the small copy."""

    content: Image
    start: tuple[float, float]
    place: tuple[float, float]
    at: float
    speed: tuple[float, float] = (0.0, 0.0)
    found: bool = True

    def step(self, seen: _Seen) -> None:
        """Find it in the next picture."""
        seconds = seen.at - self.at
        (height, width), (high, wide) = seen.image.shape[:2], self.content.shape[:2]
        left = _within(self.place[0] + self.speed[0] * seconds - REACH, width - wide - 2 * REACH)
        top = _within(self.place[1] + self.speed[1] * seconds - REACH, height - high - 2 * REACH)
        window = seen.image[top : top + high + 2 * REACH, left : left + wide + 2 * REACH]
        _, alike, _, (x, y) = cv2.minMaxLoc(cv2.matchTemplate(window, self.content, cv2.TM_CCOEFF_NORMED))
        self.found = bool(alike >= ALIKE)
        if not self.found:
            return
        place = (float(left + x), float(top + y))
        weight = min(1.0, seconds / SPEED_S)
        step = ((place[0] - self.place[0]) / seconds, (place[1] - self.place[1]) / seconds)
        self.speed = (
            self.speed[0] + weight * (step[0] - self.speed[0]),
            self.speed[1] + weight * (step[1] - self.speed[1]),
        )
        self.place, self.at = place, seen.at


@dataclass(slots=True)
class _Followed:
    """One answer of one task."""

    answered: Keyframe
    patches: list[_Patch | None]
    reached: float
    history: deque[tuple[float, list[Box | None]]] = field(default_factory=lambda: deque(maxlen=MAX_KEPT))


class TemplateFollower:
    """The boxes of all tasks of one stream. Times are the frames' own seconds, as in motion."""

    def __init__(self) -> None:
        self._seen: deque[_Seen] = deque(maxlen=MAX_KEPT)
        self._tasks: dict[str, _Followed] = {}
        self._lead: dict[str, float] = {}

    def clear(self) -> None:
        """A new connection."""
        self._seen.clear()
        self._tasks.clear()

    def see(self, at: float, image: Image) -> None:
        """The picture that is shown now, later than the one before it."""
        if self._seen and at <= self._seen[-1].at:
            return
        height, width = image.shape[:2]
        ratio = min(1.0, WIDTH / width)
        size = max(1, round(width * ratio)), max(1, round(height * ratio))
        self._seen.append(_Seen(at, np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)))
        while at - self._seen[0].at > KEPT_S:
            self._seen.popleft()

    def places(self, name: str, answered: Keyframe) -> list[Box | None]:
        """The answer's boxes in the picture that was seen last; None for those that are left to their velocity."""
        followed = self._tasks.get(name)
        if followed is None or followed.answered is not answered:
            if followed is not None:
                self._compare(name, followed, answered)
            followed = self._tasks[name] = self._begin(answered)
        self._catch_up(followed)
        if self._lead.get(name, 0.0) < 0 or not followed.history:
            return [None] * len(answered.boxes)
        return followed.history[-1][1]

    def _begin(self, answered: Keyframe) -> _Followed:
        seen = min(self._seen, key=lambda one: abs(one.at - answered.at), default=None)
        patches: list[_Patch | None] = [None] * len(answered.boxes)
        if seen is not None and abs(seen.at - answered.at) < 0.1 and len(patches) <= MAX_BOXES:
            patches = [_cut(moving.box, seen) for moving in answered.boxes]
        return _Followed(answered, patches, seen.at if seen is not None else answered.at)

    def _catch_up(self, followed: _Followed) -> None:
        ahead = [seen for seen in self._seen if seen.at > followed.reached]
        if not ahead:
            if not followed.history and self._seen:
                followed.history.append((followed.reached, self._moved(followed)))
            return
        stride = -(-len(ahead) // MAX_STEPS)
        for seen in ahead[::-1][::stride][::-1]:  # always the newest
            for patch in followed.patches:
                if patch is not None:
                    patch.step(seen)
            followed.history.append((seen.at, self._moved(followed)))
        followed.reached = ahead[-1].at

    def _moved(self, followed: _Followed) -> list[Box | None]:
        height, width = self._seen[-1].image.shape[:2]
        return [
            _shifted(moving.box, (patch.place[0] - patch.start[0]) / width, (patch.place[1] - patch.start[1]) / height)
            if patch is not None and patch.found
            else None
            for moving, patch in zip(followed.answered.boxes, followed.patches, strict=True)
        ]

    def _compare(self, name: str, followed: _Followed, new: Keyframe) -> None:
        """Who knew better where the new answer would find the boxes: following, or velocity?"""
        at, places = min(followed.history, key=lambda one: abs(one[0] - new.at), default=(0.0, []))
        truth = {moving.box.track: moving.box for moving in new.boxes if moving.box.track is not None}
        for moving, place in zip(followed.answered.boxes, places, strict=False):
            box = None if moving.box.track is None else truth.get(moving.box.track)
            if box is None or place is None or abs(at - new.at) > 0.1:
                continue
            guessed = moving.after(new.at - followed.answered.at)
            lead = _off(guessed, box) - _off(place, box)
            self._lead[name] = 0.8 * self._lead.get(name, 0.0) + 0.2 * lead


def _cut(box: Box, seen: _Seen) -> _Patch | None:
    """The content of a box, None when it is too small to be known again, or as large as the picture."""
    height, width = seen.image.shape[:2]
    x0, x1, y0, y1 = (
        min(size, max(0, round(fraction * size)))
        for fraction, size in ((box.x0, width), (box.x1, width), (box.y0, height), (box.y1, height))
    )
    content = seen.image[y0:y1, x0:x1]
    if min(x1 - x0, y1 - y0) < MIN_SIDE_PX or x1 - x0 > width - 2 * REACH or y1 - y0 > height - 2 * REACH:
        return None
    if float(content.std(axis=(0, 1)).max()) < 1.0:  # nothing in it to be found
        return None
    return _Patch(content, (x0, y0), (x0, y0), seen.at)


def _within(value: float, most: int) -> int:
    return min(max(0, round(value)), max(0, most))


def _shifted(box: Box, x: float, y: float) -> Box:
    return replace(box, x0=box.x0 + x, x1=box.x1 + x, y0=box.y0 + y, y1=box.y1 + y)


def _off(a: Box, b: Box) -> float:
    """Distance of two boxes' centres, in fractions of the picture."""
    return (abs(a.x0 + a.x1 - b.x0 - b.x1) + abs(a.y0 + a.y1 - b.y0 - b.y1)) / 2
