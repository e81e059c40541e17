"""Follows boxes from the frame of an answer to the frame that is shown, by template matching.

An answer is about an older frame, and a velocity cannot predict a turn. So the content of each box is searched near its
last place in small copies of the frames since. The template is always cut from the answer's own frame, so that errors
do not add up. A box that is not found moves by its velocity. So do all boxes of a task while the velocity predicted
the latest answers better: a box full of still background stays where it is while the object in it moves away.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from streamer.types import Box, Image
from streamer.video.box_motion import Keyframe, corners, distance, moved

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
    """The content of one box and its current place. Places are upper left corners in pixels of the small copy.

    Plain numbers: arrays of two numbers cost a quarter of the time of a search, which runs for each box of each frame.
    """

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
        (x, y), (dx, dy) = self.place, self.velocity
        high, wide = (side + 2 * REACH_PX for side in self.content.shape[:2])
        left = _window_start(x + dx * seconds, small.image.shape[1] - wide)
        top = _window_start(y + dy * seconds, small.image.shape[0] - high)
        window = small.image[top : top + high, left : left + wide]
        _, correlation, _, found_at = cv2.minMaxLoc(cv2.matchTemplate(window, self.content, cv2.TM_CCOEFF_NORMED))
        self.found = bool(correlation >= MIN_CORRELATION)
        if self.found:
            self.place, self.at = (float(left + found_at[0]), float(top + found_at[1])), small.at
            weight = min(1.0, seconds / VELOCITY_TIME_S)
            self.velocity = (
                dx + weight * ((self.place[0] - x) / seconds - dx),
                dy + weight * ((self.place[1] - y) / seconds - dy),
            )

    def moved(self, box: Box, small: _SmallImage) -> Box | None:
        """Return `box` moved as the template did until its match in `small`, or None when it was not found there."""
        if not self.found:
            return None
        height, width = small.image.shape[:2]
        dx, dy = (self.place[0] - self.start[0]) / width, (self.place[1] - self.start[1]) / height
        return moved(box, (dx, dy, dx, dy))


@dataclass(slots=True)
class _FollowedAnswer:
    """One answer of one task and the places of its boxes since."""

    answer: Keyframe
    templates: list[_Template | None]
    """Entries in the order of the answer's boxes; None where a box cannot be followed."""
    history: deque[tuple[float, list[Box | None]]]
    """Media time of each searched frame and the boxes there; the first entry is the answer's own frame."""


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
        if self._images and self._images[-1].image.shape != small.shape:  # no template fits into another size
            self.clear()
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
        if self._lead.get(name, 0.0) < 0:
            return [None] * len(answer.boxes)
        return followed.history[-1][1]

    def _start(self, answer: Keyframe) -> _FollowedAnswer:
        small = min(self._images, key=lambda one: abs(one.at - answer.at), default=None)
        templates: list[_Template | None] = [None] * len(answer.boxes)
        if small is not None and abs(small.at - answer.at) < MAX_TIME_DIFFERENCE_S and len(templates) <= MAX_BOXES:
            templates = [_cut(moving.box, small) for moving in answer.boxes]
        places = [moving.box if template else None for moving, template in zip(answer.boxes, templates, strict=True)]
        start = small.at if small is not None else answer.at
        return _FollowedAnswer(answer, templates, deque([(start, places)], MAX_HISTORY))

    def _catch_up(self, followed: _FollowedAnswer) -> None:
        ahead = [small for small in self._images if small.at > followed.history[-1][0]]
        stride = max(1, -(-len(ahead) // MAX_STEPS))
        for small in ahead[::-1][::stride][::-1]:  # the newest is always among them
            places: list[Box | None] = [None] * len(followed.templates)
            for number, template in enumerate(followed.templates):
                if template is not None:
                    template.match(small)
                    places[number] = template.moved(followed.answer.boxes[number].box, small)
            followed.history.append((small.at, places))

    def _compare(self, name: str, followed: _FollowedAnswer, new: Keyframe) -> None:
        """Update `_lead`: which was closer to the boxes of the new answer, matching or velocity?"""
        at, places = min(followed.history, key=lambda one: abs(one[0] - new.at))
        truth = {moving.box.track: moving.box for moving in new.boxes if moving.box.track is not None}
        for moving, place in zip(followed.answer.boxes, places, strict=True):
            box = None if moving.box.track is None else truth.get(moving.box.track)
            if box is None or place is None or abs(at - new.at) > MAX_TIME_DIFFERENCE_S:
                continue
            predicted = moving.after(new.at - followed.answer.at)
            lead = distance(predicted, box) - distance(place, box)
            self._lead[name] = 0.8 * self._lead.get(name, 0.0) + 0.2 * lead


def _cut(box: Box, small: _SmallImage) -> _Template | None:
    """Return the template of a box, or None when it is too small, too large or too uniform to be found again."""
    size = _size(small.image)
    frame = np.tile(size, 2)
    x0, y0, x1, y1 = np.clip(np.round(corners(box) * frame), 0, frame).astype(int)
    content = small.image[y0:y1, x0:x1]
    if min(x1 - x0, y1 - y0) < MIN_SIDE_PX or (_size(content) > size - 2 * REACH_PX).any():
        return None
    if float(content.std(axis=(0, 1)).max()) < 1.0:
        return None
    start = float(x0), float(y0)
    return _Template(content, start, start, small.at)


def _window_start(place: float, last: int) -> int:
    """Return where the window around an expected place starts, at most at `last`, along one side of the small copy."""
    return min(max(0, round(place - REACH_PX)), max(0, last))


def _size(image: Image) -> npt.NDArray[np.int64]:
    """Return width and height."""
    return np.array(image.shape[1::-1])
