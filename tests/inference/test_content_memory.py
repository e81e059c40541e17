"""Memory of sent content: what counts as a change, and when."""

from __future__ import annotations

from typing import Any

import pytest

from streamer.core.content import Content, Relation, Thing
from streamer.inference.content_memory import BRIEF_ANSWERS, STEADY_ANSWERS, ContentMemory

CAR, RED_CAR, BLUE_CAR, DOG = Thing("car"), Thing("car", ("red",)), Thing("car", ("blue",)), Thing("dog")
ABOVE, LEFT = Relation(CAR, "above", DOG), Relation(CAR, "left of", DOG)


def content(*relations: Relation, **things: int | None) -> Content:
    names = {"car": CAR, "red_car": RED_CAR, "blue_car": BLUE_CAR, "dog": DOG}
    return Content({names[name]: number for name, number in things.items()}, relations)


def changes(memory: ContentMemory, *answers: Content) -> list[tuple[Any, Any]]:
    """Return what appeared and disappeared with each answer that changed something."""
    found = [memory.update(answer) for answer in answers]
    return [(one.appeared, one.disappeared) for one in found if any(one)]


def test_one_odd_answer_is_no_change() -> None:
    memory = ContentMemory(content(car=1))
    assert changes(memory, *[content(car=1, dog=1), content(car=1), content(), content(car=1)]) == []
    assert memory.content == content(car=1)


def test_second_answer_confirms_a_change() -> None:
    memory = ContentMemory(content(car=1))
    with_dog = content(car=1, dog=1)
    assert changes(memory, with_dog) == []
    assert (memory.is_pending, changes(memory, with_dog)) == (True, [({DOG: 1}, {})])
    assert (memory.is_pending, memory.content) == (False, with_dog)
    assert changes(memory, with_dog, content(dog=1), content(dog=1)) == [({}, {CAR: 1})]
    assert memory.content == content(dog=1)


def test_change_is_confirmed_although_the_rest_flickers() -> None:
    memory = ContentMemory(content(car=1))
    assert changes(memory, content(car=1, dog=1), content(dog=1)) == [({DOG: 1}, {})]


@pytest.mark.parametrize(
    ("before", "after", "appeared", "disappeared"),
    [
        (content(car=1), content(car=3), {CAR: 2}, {}),
        (content(car=3), content(car=1), {}, {CAR: 2}),
        (content(red_car=1), content(blue_car=1), {BLUE_CAR: 1}, {RED_CAR: 1}),
        (content(car=None), content(car=1), {CAR: 1}, {CAR: None}),
        (content(car=1, red_car=1), content(red_car=3), {RED_CAR: 1}, {}),
        (content(LEFT, car=1, dog=1), content(ABOVE, car=1, dog=1), {ABOVE: 1}, {LEFT: 1}),
        (content(car=1, dog=1), content(ABOVE, car=1, dog=1), {ABOVE: 1}, {}),
    ],
)
def test_numbers_colours_and_relations_change(
    before: Content, after: Content, appeared: object, disappeared: object
) -> None:
    memory = ContentMemory(before)
    assert changes(memory, after, after, after) == [(appeared, disappeared)]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (content(car=1), content(red_car=1)),
        (content(red_car=2), content(car=2)),
        (content(car=None), content(car=4)),
        (content(red_car=1, car=1), content(blue_car=1, red_car=1)),
        (content(ABOVE, car=1, dog=1), content(car=1, dog=1)),
    ],
)
def test_less_or_more_detail_is_no_change(before: Content, after: Content) -> None:
    memory = ContentMemory(before)
    assert changes(memory, *[after] * 3, *[before] * 3, *[after] * 3) == []


def test_relation_ends_with_its_thing() -> None:
    memory = ContentMemory(content(ABOVE, car=1, dog=1))
    assert changes(memory, content(car=1), content(car=1)) == [({}, {DOG: 1})]
    assert memory.content == content(car=1)


def test_unsteady_thing_needs_more_answers() -> None:
    memory, with_dog, without = ContentMemory(content(car=1)), content(car=1, dog=1), content(car=1)
    assert changes(memory, *[with_dog, without] * 3) == []
    assert changes(memory, *[with_dog] * 4, without) == []
    assert changes(memory, *[with_dog] * 6) == [({DOG: 1}, {})]


def test_doubt_ends_after_steady_answers() -> None:
    memory, with_dog, without = ContentMemory(content(car=1)), content(car=1, dog=1), content(car=1)
    changes(memory, with_dog, without)
    assert changes(memory, *[with_dog] * 2, without) == []
    assert changes(memory, *[without] * (2 * STEADY_ANSWERS), *[with_dog] * 2) == [({DOG: 1}, {})]


def test_coming_and_going_is_reported_each_time() -> None:
    memory, with_dog, without = ContentMemory(content(car=1)), content(car=1, dog=1), content(car=1)
    found = changes(memory, *[*[with_dog] * BRIEF_ANSWERS, *[without] * BRIEF_ANSWERS] * 15)
    assert found == [({DOG: 1}, {}), ({}, {DOG: 1})] * 15


def test_brief_changes_put_a_thing_in_doubt() -> None:
    memory, with_dog, without = ContentMemory(content(car=1)), content(car=1, dog=1), content(car=1)
    assert len(changes(memory, *[with_dog, with_dog, without, without] * 20)) < 6
