"""Movement and change, on brightness that was made for it: what must be seen, and what must not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from streamer.capture.motion_gate import INTERVAL_S, WHOLE, MotionDetector, MotionSettings, SceneState, shrink
from streamer.toyworld.world import Scene as ToyScene
from streamer.toyworld.world import World
from streamer.types import Luma

WIDTH, HEIGHT = 640, 480
WARM_S = 2.0
Picture = npt.NDArray[np.float32]
Film = Callable[[float], Picture]
"""Brightness by time in seconds."""

_rng = np.random.default_rng(7)
_coarse = cv2.resize(_rng.normal(110, 35, (24, 32)).astype(np.float32), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
YARD: Picture = np.asarray(
    np.clip(_coarse + cv2.resize(_rng.normal(0, 20, (120, 160)).astype(np.float32), (WIDTH, HEIGHT)), 10, 245)
)
"""A still picture with large and small things in it."""
ROWS = np.arange(HEIGHT, dtype=np.float32)[:, None] / HEIGHT
LAMP: Picture = np.exp(
    -((ROWS - 0.2) ** 2 + (np.arange(WIDTH, dtype=np.float32)[None] / WIDTH - 0.2) ** 2) / 0.18
).astype(np.float32)


_noises = [_rng.normal(0, 1, (HEIGHT, WIDTH)).astype(np.float32) for _ in range(24)]


def noise(level: float) -> Picture:
    return level * _noises[int(_rng.integers(len(_noises)))]


def rain(time: float) -> Picture:
    picture = YARD + noise(4)
    for x, y, length in zip(
        _rng.integers(0, WIDTH, 600), _rng.integers(0, HEIGHT, 600), _rng.integers(10, 30, 600), strict=True
    ):
        cv2.line(picture, (int(x), int(y)), (int(x) + 2, int(y + length)), float(YARD[y, x]) + 60.0, 1)
    return picture


def leaves(time: float) -> Picture:
    picture = YARD + noise(4)
    picture[:120, :160] = np.roll(YARD, round(4 * np.sin(2.7 * time)), 1)[:120, :160]
    return picture


def step(factor: float | Picture) -> Film:
    """The light is another one in every other ten seconds."""
    return lambda time: YARD * (factor if int(time / 10) % 2 else 1.0) + noise(4)


def passing(share: float, brightness: float, speed: float, start: float = 10.0) -> Film:
    """A plain square of that share of the picture goes through it, in pixels per second."""
    side = round((share * WIDTH * HEIGHT) ** 0.5)

    def film(time: float) -> Picture:
        picture = YARD + noise(4)
        left = round((time - start) * speed) - side
        picture[200 : 200 + side, max(0, left) : max(0, left + side)] = brightness
        return picture

    return film


def to_luma(picture: Picture) -> Luma:
    return np.clip(picture, 0, 255).astype(np.uint8)


def watch(film: Film, seconds: float, settings: MotionSettings | None = None, **zones: object) -> list[SceneState]:
    eye = MotionDetector(settings or MotionSettings(), zones)  # type: ignore[arg-type]
    return [
        eye.update(shrink(to_luma(film(number * INTERVAL_S))), number) for number in range(round(seconds / INTERVAL_S))
    ]


def moving(scenes: list[SceneState], area: str = WHOLE) -> list[bool]:
    """Whether something moved in each picture."""
    return [scene.moved.get(area, -1) == number for number, scene in enumerate(scenes)]


def ticks(scenes: list[SceneState]) -> float:
    """Share of the seconds, once warm, in which something moved."""
    found = moving(scenes)
    seconds = range(int(WARM_S), round(len(scenes) * INTERVAL_S))
    return sum(any(found[second * 10 : second * 10 + 10]) for second in seconds) / len(seconds)


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
def test_what_does_not_move_is_silent_whatever_light_and_weather_do(film: Film, most: float) -> None:
    scenes = watch(film, 25)
    assert ticks(scenes) <= most
    assert not any(scene.differs(scenes[30], WHOLE) for scene in scenes[40::10])


@pytest.mark.parametrize(("share", "brightness"), [(0.02, 70), (0.02, 150), (0.15, 220)])
@pytest.mark.parametrize("speed", [10, 60, 300])
def test_two_hundredths_of_the_picture_are_seen_wherever_they_go(share: float, brightness: float, speed: float) -> None:
    seconds = 10 + min(15, WIDTH / speed)
    found = moving(watch(passing(share, brightness, speed), seconds))
    side = (share * WIDTH * HEIGHT) ** 0.5
    inside = found[round(10 * (10 + min(side, 60) / speed)) + 2 : round(10 * seconds)]
    assert np.mean(inside) > 0.8
    assert not any(found[:100])


def test_rain_does_not_hide_who_walks_through_it() -> None:
    walker = passing(0.03, 200, 60)
    found = moving(watch(lambda time: np.where(walker(time) == 200, 200, rain(time)), 20))
    assert np.mean(found[120:200]) > 0.8


def grey(scene: ToyScene) -> Picture:
    return np.asarray(cv2.cvtColor(scene.paint(WIDTH, HEIGHT), cv2.COLOR_BGR2GRAY), np.float32)


@pytest.mark.parametrize("world", [9, 12, 10, 7], ids=["texture", "gradient", "clutter", "passing shade"])
def test_the_toy_world_moves_and_its_still_background_does_not(world: int) -> None:
    def moving_world(time: float) -> Picture:
        return grey(World(world).scene(time))

    def still_world(time: float) -> Picture:
        return grey(dataclasses.replace(World(world).scene(time), objects=(), signs=()))

    assert ticks(watch(moving_world, 15)) > 0.9
    assert ticks(watch(still_world, 30)) <= 0.1


def test_what_is_ignored_counts_nowhere_and_a_zone_sees_itself_only() -> None:
    upper, lower = (
        ((0.0, 0.0), (1.0, 0.0), (1.0, 0.35), (0.0, 0.35)),
        ((0.0, 0.35), (1.0, 0.35), (1.0, 1.0), (0.0, 1.0)),
    )
    film = passing(0.02, 220, 60)  # from 0.42 to 0.58 of the height
    scenes = watch(film, 20, upper=upper, lower=lower)
    assert any(moving(scenes))
    assert any(moving(scenes, "lower"))
    assert not any(moving(scenes, "upper"))
    ignored = watch(film, 20, MotionSettings(ignore=("lower",)), upper=upper, lower=lower)
    assert not any(moving(ignored))


def test_sensitivity() -> None:
    film = passing(0.006, 220, 60)
    assert any(moving(watch(film, 18, MotionSettings(sensitivity="high"))))
    assert not any(moving(watch(film, 18, MotionSettings(sensitivity="low"))))


def test_what_is_put_down_is_a_change_from_before_it_came_and_none_from_after() -> None:
    def film(time: float) -> Picture:
        picture = YARD + noise(4)
        if time > 10:
            picture[200:280, 100:180] = 220
        return picture

    scenes = watch(film, 20)
    assert not scenes[95].differs(scenes[30], WHOLE)
    assert scenes[120].differs(scenes[95], WHOLE)
    assert scenes[199].differs(scenes[95], WHOLE)
    assert not scenes[199].differs(scenes[150], WHOLE)
    assert watch(lambda time: YARD if time < 5 else YARD[::-1], 10)[99].differs(scenes[40], WHOLE), "a turned camera"


def test_another_size_begins_anew() -> None:
    eye = MotionDetector(MotionSettings(), {})
    first = eye.update(np.full((120, 160), 90, np.uint8), 0)
    for number in range(1, 30):
        assert eye.update(np.full((90, 160), 90, np.uint8), number).moved == {}
    assert eye.update(np.full((90, 160), 90, np.uint8), 30).differs(first, WHOLE)
