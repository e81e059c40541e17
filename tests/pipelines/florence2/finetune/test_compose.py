"""Composed pictures: what their examples say is what they show."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.florence2.examples import Example
from pipelines.florence2.finetune.compose import FEWEST, ComposedPictures
from streamer.types import Answer, Box, Image

WIDTH, HEIGHT = 240, 180
COLOURS = {"red": (40, 40, 230), "green": (40, 230, 40), "blue": (230, 60, 40)}
CAMERAS = {name: np.random.default_rng(seed).uniform(60, 150, (HEIGHT, WIDTH, 3)) for seed, name in enumerate("ab")}
"""The background of each camera."""


def _shot(name: str) -> tuple[Image, Answer]:
    """Return the picture `CAMERA/NUMBER.png` with one to three ellipses, and where they are."""
    camera, number = name.removesuffix(".png").split("/")
    rng = np.random.default_rng(int(number))
    picture, boxes = CAMERAS[camera].astype(np.uint8), []
    for column, (label, colour) in enumerate(list(COLOURS.items())[: rng.integers(1, 4)]):
        width, height = (int(side) for side in rng.integers(8, 20, 2))
        x, y = 40 + 80 * column + int(rng.integers(-10, 10)), int(rng.integers(30, HEIGHT - 30))
        cv2.ellipse(picture, (x, y), (width, height), 0, 0, 360, colour, -1)
        corners = (x - width) / WIDTH, (y - height) / HEIGHT, (x + width + 1) / WIDTH, (y + height + 1) / HEIGHT
        boxes.append(Box(*corners, label))
    light = rng.uniform(0.7, 1.1)  # another hour of the day
    return np.clip(picture * light, 0, 255).astype(np.uint8), Answer(boxes=tuple(boxes))


def _read(name: str) -> Image:
    return _shot(name)[0]


def _examples(camera: str, count: int) -> list[Example]:
    names = [f"{camera}/{number}.png" for number in range(count)]
    return [Example(name, "object_detection", _shot(name)[1]) for name in names]


def _share_of(image: Image, box: Box) -> float:
    """Return the share of a box that has the colour of its label."""
    part = image[int(box.y0 * HEIGHT) : int(box.y1 * HEIGHT), int(box.x0 * WIDTH) : int(box.x1 * WIDTH)]
    levels = part.reshape(-1, 3).astype(float)
    difference = np.abs(levels / levels.max(axis=1, keepdims=True) - np.array(COLOURS[box.label]) / 230)
    return float((difference.max(axis=1) < 0.15).mean())


@pytest.fixture(scope="module")
def made() -> ComposedPictures:
    return ComposedPictures([*_examples("a", 15), *_examples("b", 12)], _read, 4, 0)


def test_each_picture_of_each_camera_gives_as_many(made: ComposedPictures) -> None:
    assert made.pictures == 27
    epochs = [made.of_epoch(number) for number in range(3)]
    assert [len(examples) for examples in epochs] == [108] * 3
    assert len({one.image for examples in epochs for one in examples}) == 3 * 108
    assert all(one.task == "object_detection" for examples in epochs for one in examples)


@given(st.integers(0, 107))
def test_examples_say_what_the_pictures_show(made: ComposedPictures, number: int) -> None:
    example = made.of_epoch(1)[number]
    image = made.read(example.image)
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert image.dtype == np.uint8
    # An ellipse fills 0.78 of its box, of which others hide 0.4 at most, each.
    assert all(_share_of(image, box) > 0.25 for box in example.answer.boxes)
    outside = np.ones((HEIGHT, WIDTH), bool)
    for box in example.answer.boxes:
        left, right, top, bottom = box.x0 * WIDTH, box.x1 * WIDTH, box.y0 * HEIGHT, box.y1 * HEIGHT
        outside[max(0, int(top) - 6) : int(bottom) + 7, max(0, int(left) - 6) : int(right) + 7] = False
    backgrounds = []
    for background in CAMERAS.values():
        light = np.median(image[outside] / background[outside])
        backgrounds.append(float((np.abs(image[outside] - background[outside] * light).max(axis=1) < 12).mean()))
    # Nothing but boxes hides the background, and it is that of one camera.
    assert max(backgrounds) > 0.98
    assert min(backgrounds) < 0.5


def test_name_determines_the_picture(made: ComposedPictures) -> None:
    again = ComposedPictures([*_examples("a", 15), *_examples("b", 12)], _read, 4, 0)
    examples = made.of_epoch(2)
    assert again.of_epoch(2) == examples
    for example in examples[::50]:
        assert np.array_equal(again.read(example.image), made.read(example.image))
    other = ComposedPictures(_examples("a", 15), _read, 4, 1)
    assert other.of_epoch(2)[0].answer != examples[0].answer


def test_objects_come_to_new_places(made: ComposedPictures) -> None:
    """Objects of one colour stand in one third of the width of the pictures that they are composed of."""
    middles = [(box.x0 + box.x1) / 2 for one in made.of_epoch(0) for box in one.answer.boxes if box.label == "red"]
    assert min(middles) < 0.2
    assert max(middles) > 0.8


def test_other_pictures_are_read_as_they_are(made: ComposedPictures) -> None:
    assert np.array_equal(made.read("a/3.png"), _read("a/3.png"))


def _moving(name: str) -> Image:
    return np.random.default_rng(int(name[2:-4])).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)


@pytest.mark.parametrize(
    ("examples", "read"),
    [
        (_examples("a", FEWEST - 1), _read),
        (_examples("a", 20), _moving),
        ([Example(f"a/{number}.png", "object_detection", Answer()) for number in range(20)], _read),
        ([Example(f"a/{number}.png", "caption", Answer(text="a car")) for number in range(20)], _read),
    ],
    ids=["too few pictures", "a moving camera", "no objects", "another task"],
)
def test_nothing_is_composed_of(examples: list[Example], read: Callable[[str], Image]) -> None:
    made = ComposedPictures(examples, read, 10, 0)
    assert (made.of_epoch(0), made.pictures) == ([], 0)


def test_zero_reads_no_picture() -> None:
    def refuse(name: str) -> Image:
        raise AssertionError(name)

    assert ComposedPictures(_examples("a", 20), refuse, 0, 0).of_epoch(0) == []
