"""Composes new pictures of a fixed camera from labelled ones: its objects at other places, before its background.

The background is the median of the camera's pictures, and what differs from it within a box is the object. So a few
reviewed pictures teach each object at any place and size (Ghiasi et al., Simple Copy-Paste, 2021).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pipelines.florence2.examples import Example
from pipelines.florence2.finetune.batches import ReadPicture
from streamer.core.boxes import Rect, area, intersection
from streamer.types import Answer, Box, Image

TASK = "object_detection"
"""Only its examples say which objects a picture shows: all of them, each with its box."""
FEWEST = 10
"""Pictures of one camera from which its background is known."""
BACKGROUND_PICTURES = 25
"""Pictures of which the background is the median, about."""
COMPARED_WIDTH = 160
"""Pixels of the small pictures that are compared to find those of one camera."""
DIFFERENT = 18.0
"""Grey levels from which a pixel differs from the background, after both are blurred and as bright."""
SAME_SHARE = 0.6
"""Share of a picture that must not differ from another one of the same camera."""
FILLED = 0.3
"""Share of a box that must differ from the background; otherwise the object is not moved."""
MARGIN = 0.08
"""Pixels around a box that are cut too, as a share of its longer side; its soft edge."""
SIZES = (0.75, 1.3)
"""Least and largest change of an object's size."""
REMOVED = 0.6
"""Share of a picture's own objects that the background replaces."""
ADDED = 5
"""Objects that a picture gets, at most."""
FULL = 12
"""Objects of a picture that gets no more, unless a labelled one has more: longer answers may not fit."""
PLACES = 8
"""Places that are tried for an object; one that finds none where the others stay visible is left out."""
HIDDEN = 0.4
"""Share of another object's box that an added object may cover."""
PREFIX = "composed:"
"""First part of the name of a composed picture, which no file has."""

_Levels = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Cutout:
    """One object, cut out of a picture."""

    label: str
    levels: _Levels
    """(height, width, 3), as bright as the background."""
    alpha: _Levels
    """(height, width): 1 where the object is, 0 where it is not."""
    box: Rect
    """The object's box in pixels of the cutout."""


@dataclass(frozen=True, slots=True)
class _Scene:
    """The content of a composed picture."""

    example: Example
    """The picture that it is made of."""
    removed: tuple[Box, ...]
    """Its objects that the background replaces."""
    added: tuple[tuple[_Cutout, int, int, int, int], ...]
    """Objects with their left side, upper side, width and height in pixels; later ones lie before earlier ones."""
    answer: Answer


class Composer:
    """The pictures of one camera, its background, and the objects before it."""

    def __init__(self, examples: Sequence[Example], read: ReadPicture) -> None:
        """`examples`: those of `object_detection` about pictures of one size."""
        self._examples, self._read = examples, read
        self._background = _background(examples[:: max(1, len(examples) // BACKGROUND_PICTURES)], read)
        self._lights = {one.image: self._light(read(one.image)) for one in examples}
        self._cutouts = {one.image: dict(self._cut(one)) for one in examples}
        """The objects that can be moved, by picture and box."""
        self._most = max(FULL, *(len(one.answer.boxes) for one in examples))
        self._all = [cutout for some in self._cutouts.values() for cutout in some.values()]

    @property
    def can_compose(self) -> bool:
        """False if no object can be moved."""
        return bool(self._all)

    def scene(self, seed: str) -> _Scene:
        """Return a picture's content, which the seed determines."""
        rng = random.Random(seed)
        example = rng.choice(self._examples)
        movable = self._cutouts[example.image]
        removed = tuple(box for box in example.answer.boxes if box in movable and rng.random() < REMOVED)
        boxes = [box for box in example.answer.boxes if box not in removed]
        added = []
        for _ in range(min(rng.randint(1, ADDED), self._most - len(boxes))):
            cutout, scale = rng.choice(self._all), rng.uniform(*SIZES)
            if (found := self._find_place(cutout, scale, boxes, rng)) is not None:
                box, place = found
                boxes.append(box)
                added.append((cutout, *place))
        boxes.sort(key=lambda box: (box.y0, box.x0))
        return _Scene(example, removed, tuple(added), Answer(boxes=tuple(boxes)))

    def paint(self, scene: _Scene) -> Image:
        """Return the pixels of a scene."""
        name = scene.example.image
        levels, light = self._read(name).astype(np.float32), self._lights[name]
        for box in scene.removed:
            place = _around(box, levels)
            levels[place] = self._background[place] * light
        for cutout, x, y, width, height in scene.added:
            how = cv2.INTER_AREA if width < cutout.alpha.shape[1] else cv2.INTER_LINEAR
            alpha = cv2.resize(cutout.alpha, (width, height), interpolation=how)[..., None]
            under = levels[y : y + height, x : x + width]
            under += alpha * (cv2.resize(cutout.levels, (width, height), interpolation=how) * light - under)
        return np.clip(levels, 0, 255).astype(np.uint8)

    def _light(self, image: Image) -> float:
        """Return how much brighter a picture is than the background."""
        return float(np.median((image.astype(np.float32) + 1) / (self._background + 1)))

    def _cut(self, example: Example) -> Iterator[tuple[Box, _Cutout]]:
        """Yield the objects of a picture that lie wholly in it, apart from all others, and hide the background.

        What does not hide it stands still and is part of the background itself, such as a parked car.
        """
        image, light = self._read(example.image), self._lights[example.image]
        height, width = image.shape[:2]
        for box in example.answer.boxes:
            place = _around(box, image)
            top, left = place[0].start, place[1].start
            x0, y0, x1, y1 = box.x0 * width - left, box.y0 * height - top, box.x1 * width - left, box.y1 * height - top
            is_whole = min(box.x0 * width, box.y0 * height, (1 - box.x1) * width, (1 - box.y1) * height) >= 1
            if not (is_whole and _is_apart(box, example.answer.boxes, image)):
                continue
            levels = image[place].astype(np.float32) / light
            difference = _blurred(levels) - _blurred(self._background[place])
            mask = np.zeros(levels.shape[:2], np.float32)
            inside = slice(int(y0), int(y1) + 2), slice(int(x0), int(x1) + 2)
            mask[inside] = np.abs(difference[inside]).max(axis=2) > DIFFERENT
            if mask.sum() >= FILLED * (x1 - x0) * (y1 - y0):
                mask = np.asarray(cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((3, 3))), np.float32)
                alpha = np.asarray(cv2.GaussianBlur(cv2.dilate(mask, np.ones((3, 3))), (0, 0), 0.8), np.float32)
                yield box, _Cutout(box.label, levels, alpha, (x0, y0, x1, y1))

    def _find_place(
        self, cutout: _Cutout, scale: float, boxes: Sequence[Box], rng: random.Random
    ) -> tuple[Box, tuple[int, int, int, int]] | None:
        """Return a place where the other objects stay visible: the object's box, and what `_Scene.added` needs."""
        height, width = self._background.shape[:2]
        rows, columns = (max(4, round(side * scale)) for side in cutout.alpha.shape)
        if rows >= height or columns >= width:
            return None
        down, across = rows / cutout.alpha.shape[0], columns / cutout.alpha.shape[1]
        x0, x1 = cutout.box[0] * across, cutout.box[2] * across
        y0, y1 = cutout.box[1] * down, cutout.box[3] * down
        for _ in range(PLACES):
            x, y = rng.randrange(width - columns), rng.randrange(height - rows)
            box = Box((x + x0) / width, (y + y0) / height, (x + x1) / width, (y + y1) / height, cutout.label)
            if all(intersection(_rect(box), _rect(other)) <= HIDDEN * area(_rect(other)) for other in boxes):
                return box, (x, y, columns, rows)
        return None


class ComposedPictures:
    """Composed pictures of all cameras that have enough pictures before one background, and examples about them."""

    def __init__(self, examples: Sequence[Example], read: ReadPicture, each: int, seed: int) -> None:
        """`each`: composed pictures for each picture of a camera; 0 reads no picture."""
        self._read, self._each, self._seed = read, each, seed
        self._composers: dict[str, Composer] = {}
        detections = [one for one in examples if one.task == TASK] if each else []
        for group in by_camera(detections, read):
            composer = Composer(group, read)
            if composer.can_compose:
                self._composers |= {one.image: composer for one in group}

    @property
    def pictures(self) -> int:
        """Number of the pictures of which others can be composed."""
        return len(self._composers)

    def of_epoch(self, number: int) -> list[Example]:
        """Return examples about pictures that are composed for one epoch: others in each one, as many in all."""
        names = [f"{PREFIX}{self._seed}/{number}/{n}/{image}" for image in self._composers for n in range(self._each)]
        return [Example(name, TASK, self._composer(name).scene(name).answer) for name in names]

    def read(self, name: str) -> Image:
        """Return the pixels of a composed picture or of any other one."""
        if not name.startswith(PREFIX):
            return self._read(name)
        composer = self._composer(name)
        return composer.paint(composer.scene(name))

    def _composer(self, name: str) -> Composer:
        return self._composers[name.split("/", 3)[3]]


def by_camera(examples: Sequence[Example], read: ReadPicture) -> Iterator[list[Example]]:
    """Yield groups of at least FEWEST examples whose pictures have one size and one background."""
    groups: list[tuple[Image, tuple[int, ...], list[Example]]] = []
    for example in examples:
        image = read(example.image)
        small = _small(image)
        for first, shape, group in groups:
            if shape == image.shape and _is_same_view(first, small):
                group.append(example)
                break
        else:
            groups.append((small, image.shape, [example]))
    yield from (group for *_, group in groups if len(group) >= FEWEST)


def _small(image: Image) -> Image:
    height, width = image.shape[:2]
    size = COMPARED_WIDTH, max(1, round(height * COMPARED_WIDTH / width))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _is_same_view(first: Image, second: Image) -> bool:
    one, other = first.astype(np.float32), second.astype(np.float32)
    other *= np.median((one + 1) / (other + 1))
    return float((np.abs(one - other).max(axis=2) < DIFFERENT).mean()) >= SAME_SHARE


def _background(examples: Sequence[Example], read: ReadPicture) -> _Levels:
    """Return the median of the pictures, equally bright, without their objects; with them, where all are hidden."""
    images = np.stack([read(one.image) for one in examples])
    hidden = np.zeros(images.shape[:3], bool)
    for example, image, some in zip(examples, images, hidden, strict=True):
        for box in example.answer.boxes:
            some[_around(box, image)] = True
    hidden &= ~hidden.all(axis=0)
    brightness = np.array([max(1.0, float(np.median(image))) for image in images], np.float32)
    lights = (brightness / np.median(brightness))[:, None, None]
    found = np.empty(images.shape[1:], np.float32)
    for row in range(len(found)):  # by rows, since all pictures as float32 need much memory
        levels = images[:, row] / lights
        levels[hidden[:, row]] = np.nan
        found[row] = np.nanmedian(levels, axis=0)
    return found


def _blurred(levels: _Levels) -> _Levels:
    return np.asarray(cv2.GaussianBlur(levels, (0, 0), 1), np.float32)


def _around(box: Box, image: npt.NDArray[Any]) -> tuple[slice, slice]:
    """Return the rows and columns of a box with its margin."""
    height, width = image.shape[:2]
    x0, y0, x1, y1 = box.x0 * width, box.y0 * height, box.x1 * width, box.y1 * height
    margin = MARGIN * max(x1 - x0, y1 - y0) + 2
    rows = slice(max(0, int(y0 - margin)), min(height, int(y1 + margin) + 1))
    return rows, slice(max(0, int(x0 - margin)), min(width, int(x1 + margin) + 1))


def _is_apart(box: Box, boxes: Sequence[Box], image: Image) -> bool:
    """Return whether no other box reaches into a box with its margin."""
    height, width = image.shape[:2]
    rows, columns = _around(box, image)
    around = columns.start / width, rows.start / height, columns.stop / width, rows.stop / height
    return not any(intersection(around, _rect(other)) > 0 for other in boxes if other is not box)


def _rect(box: Box) -> Rect:
    return box.x0, box.y0, box.x1, box.y1
