"""Skipped ticks and missed motion of the motion gate, on films with known motion.

The films are toy worlds, flicker, noise, rain and passing squares. A tick is one second; it is skipped when nothing
moved in it. Targets: at least 0.9 of the ticks of still scenes and all ticks with flicker are skipped, and no motion of
more than 0.02 of the frame is missed.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from streamer.toyworld.world import World
from tests.support.films import (
    ROWS,
    WIDTH,
    YARD,
    Film,
    Picture,
    analyse,
    grey,
    moving,
    noise,
    passing,
    rain,
    ticks,
)

START_S = 10.0
SHARES, BRIGHTNESSES, SPEEDS = (0.021, 0.05, 0.15), (70, 150, 220), (10, 60, 300)


def gate(seconds: float, worlds: int) -> dict[str, Any]:
    films: Mapping[str, list[Film]] = {
        "still_worlds": [_still(number) for number in range(worlds)],
        "noise": [lambda time: YARD + noise(12)],
        "flicker": [lambda time: YARD * (1 + 0.15 * np.sin(23 * time)) + noise(4)],
        "banding": [_banding],
        "rain": [rain],
    }
    skipped = {
        f"{name}_skipped": round(min(1 - ticks(analyse(film, seconds)) for film in some), 3)
        for name, some in films.items()
    }
    detected = [_is_detected(*case) for case in itertools.product(SHARES, BRIGHTNESSES, SPEEDS)]
    moved = [ticks(analyse(_moving(number), seconds)) for number in range(worlds)]
    return {
        "seconds": seconds,
        "worlds": worlds,
        **skipped,
        "moving_worlds_passed": round(min(moved), 3),
        "motions": len(detected),
        "motions_missed": detected.count(False),
    }


def _is_detected(share: float, brightness: float, speed: float) -> bool:
    """Return whether a passing square is detected, and nothing before it appears."""
    found = moving(analyse(passing(share, brightness, speed), START_S + min(15.0, WIDTH / speed)))
    first = round(10 * START_S)
    return any(found[first:]) and not any(found[:first])


def _banding(time: float) -> Picture:
    return np.asarray(YARD * (1 + 0.15 * np.sin(2 * np.pi * (2.5 * ROWS + 1.3 * time))) + noise(4), np.float32)


def _moving(number: int) -> Film:
    return lambda time: grey(World(number).scene(time))


def _still(number: int) -> Film:
    return lambda time: grey(dataclasses.replace(World(number).scene(time), objects=(), signs=()))
