"""Following boxes from the frame of an answer to the frame that is shown."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from streamer.types import Box, Image
from streamer.video.box_follower import TemplateFollower
from streamer.video.box_motion import BoxMotion, Keyframe, MovingBox

RNG = np.random.default_rng(1)
BACKGROUND = cv2.resize(RNG.integers(60, 120, (12, 16, 3), np.uint8), (640, 480), interpolation=cv2.INTER_CUBIC)
OBJECT = cv2.resize(RNG.integers(0, 255, (3, 4, 3), np.uint8), (128, 96), interpolation=cv2.INTER_NEAREST)


def corner(at: float) -> tuple[float, float]:
    """Return the upper left corner of an object on a curve: no constant velocity describes it."""
    return 0.4 + 0.3 * math.sin(1.5 * at), 0.4 + 0.2 * math.cos(1.5 * at)


def picture(at: float) -> Image:
    image = np.array(BACKGROUND, np.uint8)
    x, y = (round(part * size) for part, size in zip(corner(at), (640, 480), strict=True))
    image[y : y + 96, x : x + 128] = OBJECT
    return image


def box(at: float, track: int | None = 1) -> Box:
    x, y = corner(at)
    return Box(x, y, x + 0.2, y + 0.2, "thing", None, track)


def answer(at: float, *boxes: Box) -> Keyframe:
    return Keyframe(at, tuple(MovingBox(one) for one in boxes or (box(at),)))


def watch(follower: TemplateFollower, start: float, end: float) -> None:
    for tick in range(round(start * 25), round(end * 25)):
        follower.add_image(tick / 25, picture(tick / 25))


def test_late_answer_is_followed_to_the_current_frame() -> None:
    follower, about = TemplateFollower(), answer(1.0)
    watch(follower, 0, 2.4)
    (place,) = follower.places("objects", about)
    assert place is not None
    assert (place.x0, place.y0) == pytest.approx(corner(59 / 25), abs=0.015)
    assert (place.label, place.track) == ("thing", 1)
    watch(follower, 2.4, 3.0)
    (place,) = follower.places("objects", about)
    assert place is not None
    assert (place.x0, place.y0) == pytest.approx(corner(74 / 25), abs=0.015)


def test_box_not_found_is_left_to_its_velocity() -> None:
    follower, about = TemplateFollower(), answer(0.0)
    watch(follower, 0, 0.4)
    assert follower.places("objects", about) != [None]
    for tick in range(10, 20):
        follower.add_image(tick / 25, np.array(BACKGROUND, np.uint8))
    assert follower.places("objects", about) == [None]


@pytest.mark.parametrize(
    "one",
    [Box(0.1, 0.1, 0.105, 0.3, "thin"), Box(0, 0, 1, 1, "all"), Box(0.9, 0.9, 1.4, 1.4, "out")],
    ids=lambda b: b.label,
)
def test_unsuitable_boxes_are_not_followed(one: Box) -> None:
    follower = TemplateFollower()
    watch(follower, 0, 0.4)
    (place,) = follower.places("objects", answer(0.0, one))
    assert place is None or place.label == "out"


def test_answer_about_unknown_frame_is_not_followed() -> None:
    follower = TemplateFollower()
    assert follower.places("objects", answer(0.0)) == [None]
    watch(follower, 5, 5.4)
    assert follower.places("objects", answer(1.0)) == [None]
    follower.clear()
    assert follower.places("objects", answer(5.2)) == [None]


def test_velocity_is_used_where_it_predicts_better() -> None:
    """A small object in a wide box: matching finds the background, and the next answers show that it is wrong."""
    follower, motion = TemplateFollower(), BoxMotion(0.4)

    def scene(at: float) -> Image:
        image = np.array(BACKGROUND, np.uint8)
        x = round(60 + 60 * at)
        image[200:208, x : x + 8] = 255
        return image

    for tick in range(150):
        at = tick / 25
        follower.add_image(at, scene(at))
        if tick % 10 == 0:
            left = (60 + 60 * at) / 640 - 0.15
            motion.add(at, [Box(left, 0.3, left + 0.31, 0.6, "ant", None, 1)])
        last = motion.before(at)
        assert last is not None
        places = follower.places("objects", last)
    assert places == [None]
