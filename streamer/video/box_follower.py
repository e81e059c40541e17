"""Follows boxes from the frame of an answer to the frame that is shown, by template matching.

An answer is about an older frame, and a velocity cannot predict a turn. So the content of each box is searched near its
last place in small copies of the frames since. The template is always cut from the answer's own frame, so that errors
do not add up. A box that is not found moves by its velocity. So do all boxes of a task while the velocity predicted
the latest answers better: a box full of still background stays where it is while the object in it moves away.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from streamer.types import Box, Image
from streamer.video.box_motion import Keyframe

MAX_WIDTH_PX = 160
"""Width of the small copies. A box is followed to the pixel of these, 0.6 % of the frame's width."""
HISTORY_S = 12.0
MAX_HISTORY = 400
"""Small copies are kept for this many seconds, and at most this many of them."""
REACH_PX = 8
"""Distance around the expected place that is searched, in the small copy."""
MIN_SIDE_PX = 4
"""Shortest side of a box that is followed, in the small copy."""
MIN_CORRELATION = 0.5
"""Normalised correlation at which a template counts as found."""
MAX_BOXES = 16
"""Boxes of one answer that are followed. Matching more would cost too much time per frame."""
MAX_STEPS = 15
"""Frames that are searched between an answer's frame and the current one."""
VELOCITY_TIME_S = 0.2
"""Time constant of a template's velocity."""
MAX_TIME_DIFFERENCE_S = 0.1
"""Two frames this close in time count as the same moment."""


@dataclass(frozen=True, slots=True)
class _SmallImage:
    """The small copy of a frame's image and its media time."""

    at: float
    image: Image


@dataclass(slots=True)
class _Template:
    """The content of one box and its current place. Places are upper left corners in pixels of the small copy."""

    content: Image
    start: tuple[float, float]
    place: tuple[float, float]
    at: float
    velocity: tuple[float, float] = (0.0, 0.0)
    """Pixels per second."""
    found: bool = True

    def match(self, small: _SmallImage) -> None:
        """Search it in the next frame."""
        seconds = small.at - self.at
        (height, width), (high, wide) = small.image.shape[:2], self.content.shape[:2]
        left = _clamp(self.place[0] + self.velocity[0] * seconds - REACH_PX, width - wide - 2 * REACH_PX)
        top = _clamp(self.place[1] + self.velocity[1] * seconds - REACH_PX, height - high - 2 * REACH_PX)
        window = small.image[top : top + high + 2 * REACH_PX, left : left + wide + 2 * REACH_PX]
        _, correlation, _, (x, y) = cv2.minMaxLoc(cv2.matchTemplate(window, self.content, cv2.TM_CCOEFF_NORMED))
        self.found = bool(correlation >= MIN_CORRELATION)
        if not self.found:
            return
        place = (float(left + x), float(top + y))
        weight = min(1.0, seconds / VELOCITY_TIME_S)
        step = ((place[0] - self.place[0]) / seconds, (place[1] - self.place[1]) / seconds)
        self.velocity = (
            self.velocity[0] + weight * (step[0] - self.velocity[0]),
            self.velocity[1] + weight * (step[1] - self.velocity[1]),
        )
        self.place, self.at = place, small.at

    def moved(self, box: Box, width: int, height: int) -> Box:
        """Return `box` moved as the template did. `width`, `height`: size of the small copy."""
        x, y = (self.place[0] - self.start[0]) / width, (self.place[1] - self.start[1]) / height
        return replace(box, x0=box.x0 + x, x1=box.x1 + x, y0=box.y0 + y, y1=box.y1 + y)


@dataclass(slots=True)
class _FollowedAnswer:
    """One answer of one task and the places of its boxes since."""

    answer: Keyframe
    templates: list[_Template | None]
    """Entries in the order of the answer's boxes; None where a box cannot be followed."""
    reached: float
    """Media time of the newest searched frame."""
    history: deque[tuple[float, list[Box | None]]] = field(default_factory=lambda: deque(maxlen=MAX_HISTORY))


class TemplateFollower:
    """Follows the boxes of all tasks of one stream. Times are media seconds of the frames."""

    def __init__(self) -> None:
        self._images: deque[_SmallImage] = deque(maxlen=MAX_HISTORY)
        self._tasks: dict[str, _FollowedAnswer] = {}
        self._lead: dict[str, float] = {}
        """Advantage of matching over velocity in the latest answers, by task, in fractions of the frame."""

    def clear(self) -> None:
        """Forget everything: a new connection."""
        self._images.clear()
        self._tasks.clear()

    def add_image(self, at: float, image: Image) -> None:
        """Add the image shown now. It is ignored unless it is newer than the last one."""
        if self._images and at <= self._images[-1].at:
            return
        height, width = image.shape[:2]
        ratio = min(1.0, MAX_WIDTH_PX / width)
        size = max(1, round(width * ratio)), max(1, round(height * ratio))
        small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        self._images.append(_SmallImage(at, small))
        while at - self._images[0].at > HISTORY_S:
            self._images.popleft()

    def places(self, name: str, answer: Keyframe) -> list[Box | None]:
        """Return the answer's boxes as found in the newest image; None for those that should move by velocity."""
        followed = self._tasks.get(name)
        if followed is None or followed.answer is not answer:
            if followed is not None:
                self._compare(name, followed, answer)
            followed = self._tasks[name] = self._start(answer)
        self._catch_up(followed)
        if self._lead.get(name, 0.0) < 0 or not followed.history:
            return [None] * len(answer.boxes)
        return followed.history[-1][1]

    def _start(self, answer: Keyframe) -> _FollowedAnswer:
        small = min(self._images, key=lambda one: abs(one.at - answer.at), default=None)
        templates: list[_Template | None] = [None] * len(answer.boxes)
        if small is not None and abs(small.at - answer.at) < MAX_TIME_DIFFERENCE_S and len(templates) <= MAX_BOXES:
            templates = [_cut(moving.box, small) for moving in answer.boxes]
        return _FollowedAnswer(answer, templates, small.at if small is not None else answer.at)

    def _catch_up(self, followed: _FollowedAnswer) -> None:
        ahead = [small for small in self._images if small.at > followed.reached]
        if not ahead:
            if not followed.history and self._images:
                followed.history.append((followed.reached, self._places(followed)))
            return
        stride = -(-len(ahead) // MAX_STEPS)
        for small in ahead[::-1][::stride][::-1]:  # the newest is always among them
            for template in followed.templates:
                if template is not None:
                    template.match(small)
            followed.history.append((small.at, self._places(followed)))
        followed.reached = ahead[-1].at

    def _places(self, followed: _FollowedAnswer) -> list[Box | None]:
        height, width = self._images[-1].image.shape[:2]
        return [
            None if template is None or not template.found else template.moved(moving.box, width, height)
            for moving, template in zip(followed.answer.boxes, followed.templates, strict=True)
        ]

    def _compare(self, name: str, followed: _FollowedAnswer, new: Keyframe) -> None:
        """Update `_lead`: which was closer to the boxes of the new answer, matching or velocity?"""
        at, places = min(followed.history, key=lambda one: abs(one[0] - new.at), default=(0.0, []))
        truth = {moving.box.track: moving.box for moving in new.boxes if moving.box.track is not None}
        for moving, place in zip(followed.answer.boxes, places, strict=False):
            box = None if moving.box.track is None else truth.get(moving.box.track)
            if box is None or place is None or abs(at - new.at) > MAX_TIME_DIFFERENCE_S:
                continue
            predicted = moving.after(new.at - followed.answer.at)
            lead = _distance(predicted, box) - _distance(place, box)
            self._lead[name] = 0.8 * self._lead.get(name, 0.0) + 0.2 * lead


def _cut(box: Box, small: _SmallImage) -> _Template | None:
    """Return the template of a box, or None when it is too small, too large or too uniform to be found again."""
    height, width = small.image.shape[:2]
    x0, x1, y0, y1 = (
        min(size, max(0, round(fraction * size)))
        for fraction, size in ((box.x0, width), (box.x1, width), (box.y0, height), (box.y1, height))
    )
    content = small.image[y0:y1, x0:x1]
    if min(x1 - x0, y1 - y0) < MIN_SIDE_PX or x1 - x0 > width - 2 * REACH_PX or y1 - y0 > height - 2 * REACH_PX:
        return None
    if float(content.std(axis=(0, 1)).max()) < 1.0:
        return None
    return _Template(content, (x0, y0), (x0, y0), small.at)


def _clamp(value: float, maximum: int) -> int:
    return min(max(0, round(value)), max(0, maximum))


def _distance(a: Box, b: Box) -> float:
    """Return the distance of two boxes' centres in fractions of the frame."""
    return (abs(a.x0 + a.x1 - b.x0 - b.x1) + abs(a.y0 + a.y1 - b.y0 - b.y1)) / 2
