"""The toy world: that its pictures show what its truth says, and that it keeps to its own rules."""

from __future__ import annotations

from itertools import combinations

import cv2
import numpy as np
import pytest

from streamer.cli.demo_score import iou
from streamer.toyworld.paint import COLOURS
from streamer.toyworld.words import HELD_OUT_WORDS, SEEN_WORDS, WORDS
from streamer.toyworld.world import HARD, KINDS, NORMAL, SCENE_SECONDS, Scene, World

SIZE = (640, 480)


def scenes(count: int, **keys: object) -> list[Scene]:
    return [World(seed, **keys).scene(seed * 3.7) for seed in range(count)]  # type: ignore[arg-type]


def test_the_same_seed_and_time_show_the_same_picture_and_others_do_not() -> None:
    picture = World(5).scene(2.0).paint(*SIZE)
    assert np.array_equal(picture, World(5).scene(2.0).paint(*SIZE))
    assert not np.array_equal(picture, World(5).scene(2.5).paint(*SIZE))
    assert not np.array_equal(picture, World(6).scene(2.0).paint(*SIZE))


@pytest.mark.parametrize("difficulty", [NORMAL, HARD])
def test_objects_keep_to_sizes_numbers_and_overlap(difficulty: object) -> None:
    shown = scenes(120, difficulty=difficulty)
    rules = NORMAL if difficulty is NORMAL else HARD
    assert {len(scene.objects) for scene in shown} >= set(range(rules.objects[0] + 1, rules.objects[1]))
    assert max(len(scene.objects) for scene in shown) <= rules.objects[1]
    heights = [thing.box[3] - thing.box[1] for scene in shown for thing in scene.objects]
    # Tilted by twelve degrees a shape is higher than its own side.
    assert rules.sides[0] * 0.9 <= min(heights) < max(heights) <= rules.sides[1] * 1.25
    overlaps = [iou(a.box, b.box) for scene in shown for a, b in combinations(scene.objects, 2)]
    assert 0.1 < max(overlaps) <= rules.overlap + 0.02
    assert {(thing.kind, thing.colour) for scene in scenes(600) for thing in scene.objects} == {
        (kind, colour) for kind in KINDS for colour in COLOURS
    }


def test_everything_lies_inside_the_frame_for_a_whole_scene() -> None:
    for seed in range(20):
        for second in np.arange(0, SCENE_SECONDS, 0.5):
            scene = World(seed).scene(float(second))
            for x0, y0, x1, y1 in [thing.box for thing in scene.objects] + [sign.box for sign in scene.signs]:
                assert -0.001 <= x0 < x1 <= 1.001
                assert -0.001 <= y0 < y1 <= 1.001


def test_an_object_is_painted_inside_its_silhouette_in_its_colour() -> None:
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
        # Light scales a colour; its nearest neighbour by direction and brightness must still be itself.
        assert np.abs(seen - COLOURS[thing.colour]).max() < 60, (scene.seed, thing.colour, seen)
        checked += 1
    assert checked > 5


def test_signs_are_upright_enough_large_enough_and_free_of_objects() -> None:
    signs = [(scene, sign) for scene in scenes(200) for sign in scene.signs]
    assert len(signs) > 60
    for scene, sign in signs:
        (ax, ay), (bx, by), _, (dx, dy) = sign.quad * (4, 3)
        assert abs(np.degrees(np.arctan2(by - ay, bx - ax))) <= 15.01
        assert np.hypot(dx - ax, dy - ay) / 3 >= 0.0799
        assert all(iou(sign.box, thing.box) == 0 for thing in scene.objects)


def test_a_word_is_painted_on_its_quad_and_nowhere_else() -> None:
    scene = next(scene for scene in scenes(50) if len(scene.signs) == 1)
    bare = Scene(scene.seed, scene.time, scene.objects, (), scene.noise).paint(*SIZE)
    changed = np.abs(scene.paint(*SIZE).astype(int) - bare).max(axis=2) > 20
    mask = np.zeros(SIZE[::-1], np.uint8)
    cv2.fillPoly(mask, [np.round(scene.signs[0].quad * SIZE).astype(np.int32)], 1)
    assert not changed[cv2.dilate(mask, np.ones((5, 5), np.uint8)) == 0].any()
    assert 0.2 < changed[mask > 0].mean() < 0.9


def test_a_fifth_of_two_hundred_words_is_held_out() -> None:
    assert len(WORDS) == len(set(WORDS)) == 200
    assert len(HELD_OUT_WORDS) == 40
    assert not set(HELD_OUT_WORDS) & set(SEEN_WORDS)
    shown = {sign.text for scene in scenes(300, words=SEEN_WORDS) for sign in scene.signs}
    assert shown <= set(SEEN_WORDS)
