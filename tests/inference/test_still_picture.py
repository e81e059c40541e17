"""Comparison of two pictures of a camera: noise and light are no difference, each object is one."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from streamer.inference.still_picture import WIDTH, is_still, small_picture
from streamer.toyworld.world import World
from streamer.types import Frame, Image, Zone

SEEDS = range(40_000, 40_004)
"""A quarter of the worlds has a moving shadow."""


def frame(picture: Image) -> Frame:
    return Frame("gate", 1, 0, 0.0, 0.0, 0.0, picture)


def small(seed: int, time: float, without: int | None = None) -> Image:
    scene = World(seed).scene(1.0)
    things = tuple(thing for number, thing in enumerate(scene.objects) if number != without)
    return small_picture(frame(replace(scene, time=time, objects=things).paint(640, 480)), None)


@pytest.mark.parametrize("seed", SEEDS)
def test_noise_and_light_leave_a_picture_still(seed: int) -> None:
    pictures = [small(seed, time) for time in (0.0, 3.3, 7.1, 12.4)]
    assert all(is_still(one, other) for one, other in [*pairwise(pictures), (pictures[0], pictures[-1])])


@pytest.mark.parametrize("seed", SEEDS)
def test_each_object_makes_a_difference_both_ways(seed: int) -> None:
    whole = small(seed, 0.0)
    for number in range(len(World(seed).scene(1.0).objects)):
        less = small(seed, 7.1, number)
        assert not is_still(whole, less)
        assert not is_still(less, whole)


def test_object_of_the_same_brightness_in_another_colour_is_a_difference() -> None:
    one = np.full((60, 80, 3), 100, np.uint8)
    other = one.copy()
    other[20:30, 20:30] = (190, 100, 55)
    assert not is_still(one, other)


def test_strong_noise_is_never_still() -> None:
    rng = np.random.default_rng(1)
    one, other = (rng.integers(60, 180, (90, 120, 3), np.uint8) for _ in range(2))
    assert not is_still(one, other)
    assert is_still(one, one)


def test_another_size_is_a_difference() -> None:
    one = small_picture(frame(np.zeros((48, 64, 3), np.uint8)), None)
    assert not is_still(one, one[:-1])


def test_picture_of_a_zone_is_its_bounding_box() -> None:
    picture = np.zeros((480, 640, 3), np.uint8)
    picture[:240, :320] = 200
    zone = Zone("door", ((0.0, 0.0), (0.5, 0.0), (0.5, 0.5)))
    small = small_picture(frame(picture), zone)
    assert small.shape == (120, WIDTH, 3)
    assert small.min() == 200
