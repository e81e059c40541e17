"""Motion and change detection, on generated brightness with known motion."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from streamer.capture.motion_gate import WHOLE, MotionDetector, MotionSettings
from streamer.toyworld.world import World
from tests.support.films import (
    HEIGHT,
    LAMP,
    ROWS,
    WIDTH,
    YARD,
    Film,
    Picture,
    analyse,
    grey,
    leaves,
    moving,
    noise,
    passing,
    rain,
    step,
    ticks,
)


@pytest.mark.parametrize(
    ("film", "most"),
    [
        (lambda time: YARD + noise(12), 0.0),
        (lambda time: YARD * (1 + 0.15 * np.sin(23 * time)) + noise(4), 0.0),
        (lambda time: YARD * (1 + 0.15 * np.sin(2 * np.pi * (2.5 * ROWS + 1.3 * time))) + noise(4), 0.0),
        (lambda time: YARD * (1 + 0.5 * np.sin(time / 5)) + noise(4), 0.0),
        (step(0.4), 0.0),
        (step(1.5), 0.0),
        (step(1 + 0.6 * LAMP), 0.0),
        (rain, 0.1),
        (leaves, 0.1),
    ],
    ids=["noise", "flicker", "banding", "slow light", "dark", "bright", "lamp", "rain", "leaves"],
)
def test_light_and_weather_are_not_motion(film: Film, most: float) -> None:
    scenes = analyse(film, 25)
    assert ticks(scenes) <= most
    assert not any(scene.differs(scenes[30], WHOLE) for scene in scenes[40::10])


@pytest.mark.parametrize(("share", "brightness"), [(0.02, 70), (0.02, 150), (0.15, 220)])
@pytest.mark.parametrize("speed", [10, 60, 300])
def test_object_of_two_percent_is_detected(share: float, brightness: float, speed: float) -> None:
    seconds = 10 + min(15, WIDTH / speed)
    found = moving(analyse(passing(share, brightness, speed), seconds))
    side = (share * WIDTH * HEIGHT) ** 0.5
    inside = found[round(10 * (10 + min(side, 60) / speed)) + 2 : round(10 * seconds)]
    assert np.mean(inside) > 0.8
    assert not any(found[:100])


def test_walker_is_detected_in_rain() -> None:
    walker = passing(0.03, 200, 60)
    found = moving(analyse(lambda time: np.where(walker(time) == 200, 200, rain(time)), 20))
    assert np.mean(found[120:200]) > 0.8


@pytest.mark.parametrize("world", [9, 12, 10, 7], ids=["texture", "gradient", "clutter", "passing shade"])
def test_toy_world_has_motion_and_its_background_has_none(world: int) -> None:
    def moving_world(time: float) -> Picture:
        return grey(World(world).scene(time))

    def still_world(time: float) -> Picture:
        return grey(dataclasses.replace(World(world).scene(time), objects=(), signs=()))

    assert ticks(analyse(moving_world, 15)) > 0.9
    assert ticks(analyse(still_world, 30)) <= 0.1


def test_zone_excludes_motion_outside_and_in_ignored_zones() -> None:
    upper, lower = (
        ((0.0, 0.0), (1.0, 0.0), (1.0, 0.35), (0.0, 0.35)),
        ((0.0, 0.35), (1.0, 0.35), (1.0, 1.0), (0.0, 1.0)),
    )
    film = passing(0.02, 220, 60)  # from 0.42 to 0.58 of the height
    scenes = analyse(film, 20, upper=upper, lower=lower)
    assert any(moving(scenes))
    assert any(moving(scenes, "lower"))
    assert not any(moving(scenes, "upper"))
    ignored = analyse(film, 20, MotionSettings(ignore=("lower",)), upper=upper, lower=lower)
    assert not any(moving(ignored))


def test_high_sensitivity_detects_smaller_objects_than_low() -> None:
    film = passing(0.006, 220, 60)
    assert any(moving(analyse(film, 18, MotionSettings(sensitivity="high"))))
    assert not any(moving(analyse(film, 18, MotionSettings(sensitivity="low"))))


def test_new_object_is_a_change_against_earlier_scenes_only() -> None:
    def film(time: float) -> Picture:
        picture = YARD + noise(4)
        if time > 10:
            picture[200:280, 100:180] = 220
        return picture

    scenes = analyse(film, 20)
    assert not scenes[95].differs(scenes[30], WHOLE)
    assert scenes[120].differs(scenes[95], WHOLE)
    assert scenes[199].differs(scenes[95], WHOLE)
    assert not scenes[199].differs(scenes[150], WHOLE)
    assert analyse(lambda time: YARD if time < 5 else YARD[::-1], 10)[99].differs(scenes[40], WHOLE), "a turned camera"


def test_new_image_size_restarts_the_detector() -> None:
    detector = MotionDetector(MotionSettings(), {})
    first = detector.update(np.full((120, 160), 90, np.uint8), 0)
    for number in range(1, 30):
        assert detector.update(np.full((90, 160), 90, np.uint8), number).moved == {}
    assert detector.update(np.full((90, 160), 90, np.uint8), 30).differs(first, WHOLE)
