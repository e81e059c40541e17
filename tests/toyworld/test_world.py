"""The toy world: images agree with the truth, and scenes stay within their parameters."""

from __future__ import annotations

from itertools import combinations

import cv2
import numpy as np
import pytest

from streamer.core.boxes import iou
from streamer.toyworld.paint import COLOURS
from streamer.toyworld.words import HELD_OUT_WORDS, SEEN_WORDS, WORDS
from streamer.toyworld.world import HARD, KINDS, NORMAL, SCENE_SECONDS, Scene, World

SIZE = (640, 480)


def scenes(count: int, **keys: object) -> list[Scene]:
    return [World(seed, **keys).scene(seed * 3.7) for seed in range(count)]  # type: ignore[arg-type]


def test_image_is_function_of_seed_and_time() -> None:
    picture = World(5).scene(2.0).paint(*SIZE)
    assert np.array_equal(picture, World(5).scene(2.0).paint(*SIZE))
    assert not np.array_equal(picture, World(5).scene(2.5).paint(*SIZE))
    assert not np.array_equal(picture, World(6).scene(2.0).paint(*SIZE))


@pytest.mark.parametrize("difficulty", [NORMAL, HARD])
def test_objects_stay_within_difficulty(difficulty: object) -> None:
    shown = scenes(120, difficulty=difficulty)
    rules = NORMAL if difficulty is NORMAL else HARD
    assert {len(scene.objects) for scene in shown} >= set(range(rules.objects[0] + 1, rules.objects[1]))
    assert max(len(scene.objects) for scene in shown) <= rules.objects[1]
    heights = [thing.box[3] - thing.box[1] for scene in shown for thing in scene.objects]
    # A shape that is tilted by twelve degrees is higher than its side.
    assert rules.sides[0] * 0.9 <= min(heights) < max(heights) <= rules.sides[1] * 1.25
    overlaps = [iou(a.box, b.box) for scene in shown for a, b in combinations(scene.objects, 2)]
    assert 0.1 < max(overlaps) <= rules.overlap + 0.02
    assert {(thing.kind, thing.colour) for scene in scenes(600) for thing in scene.objects} == {
        (kind, colour) for kind in KINDS for colour in COLOURS
    }


def test_objects_and_signs_stay_inside_frame() -> None:
    for seed in range(20):
        for second in np.arange(0, SCENE_SECONDS, 0.5):
            scene = World(seed).scene(float(second))
            for x0, y0, x1, y1 in [thing.box for thing in scene.objects] + [sign.box for sign in scene.signs]:
                assert -0.001 <= x0 < x1 <= 1.001
                assert -0.001 <= y0 < y1 <= 1.001


def test_silhouette_contains_object_colour() -> None:
    checked = 0
    for scene in scenes(60):
        if len(scene.objects) != 1:
            continue
        (thing,) = scene.objects
        mask = np.zeros(SIZE[::-1], np.uint8)
        cv2.fillPoly(mask, [np.round(thing.silhouette * SIZE).astype(np.int32)], 1)
        if thing.kind == "ring":
            cv2.fillPoly(mask, [np.round(thing.contours[1] * SIZE).astype(np.int32)], 0)
        mask = cv2.erode(mask, np.ones((5, 5), np.uint8))
        seen = np.median(scene.paint(*SIZE)[mask > 0], axis=0)
        # Light scales a colour, so the seen colour is only close to the defined one.
        assert np.abs(seen - COLOURS[thing.colour]).max() < 60, (scene.seed, thing.colour, seen)
        checked += 1
    assert checked > 5


def test_signs_are_readable_and_not_covered() -> None:
    signs = [(scene, sign) for scene in scenes(200) for sign in scene.signs]
    assert len(signs) > 60
    for scene, sign in signs:
        (ax, ay), (bx, by), _, (dx, dy) = sign.quad * (4, 3)
        assert abs(np.degrees(np.arctan2(by - ay, bx - ax))) <= 15.01
        assert np.hypot(dx - ax, dy - ay) / 3 >= 0.0799
        assert all(iou(sign.box, thing.box) == 0 for thing in scene.objects)


def test_word_is_painted_only_on_its_quad() -> None:
    scene = next(scene for scene in scenes(50) if len(scene.signs) == 1)
    bare = Scene(scene.seed, scene.time, scene.objects, (), scene.noise).paint(*SIZE)
    changed = np.abs(scene.paint(*SIZE).astype(int) - bare).max(axis=2) > 20
    mask = np.zeros(SIZE[::-1], np.uint8)
    cv2.fillPoly(mask, [np.round(scene.signs[0].quad * SIZE).astype(np.int32)], 1)
    assert not changed[cv2.dilate(mask, np.ones((5, 5), np.uint8)) == 0].any()
    assert 0.2 < changed[mask > 0].mean() < 0.9


def test_a_fifth_of_words_is_held_out() -> None:
    assert len(WORDS) == len(set(WORDS)) == 200
    assert len(HELD_OUT_WORDS) == 40
    assert not set(HELD_OUT_WORDS) & set(SEEN_WORDS)
    shown = {sign.text for scene in scenes(300, words=SEEN_WORDS) for sign in scene.signs}
    assert shown <= set(SEEN_WORDS)
