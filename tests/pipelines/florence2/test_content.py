"""Content of captions: equal for other words, different for other things, numbers and relations."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.florence2.content import content_of
from pipelines.florence2.tasks import SPECS
from streamer.types import Content, Relation, Thing

RING, STAR = Thing("ring", ("red",)), Thing("star", ("blue",))


@pytest.mark.parametrize(
    ("text", "things"),
    [
        ("a red ring, two blue stars and an orange cross", {RING: 1, STAR: 2, Thing("cross", ("orange",)): 1}),
        ("A man and a woman in front of a house.", {Thing("person"): 2, Thing("house"): 1}),
        ("Cars parked on the street, three people walking.", {Thing("car"): None, Thing("street"): 1, Thing("person"): 3}),
        ("The image shows a green car. The car is parked. Another car is behind it.", {Thing("car", ("green",)): 1, Thing("car"): 1}),
        ("There are no people.", {}),
        ("", {}),
    ],
)  # fmt: skip
def test_things_have_numbers_and_colours(text: str, things: Any) -> None:
    assert content_of(text).things == things


@pytest.mark.parametrize(
    ("text", "relation"),
    [
        ("a red ring above a blue star", Relation(RING, "above", STAR)),
        ("a blue star below a red ring", Relation(RING, "above", STAR)),
        ("The image shows two objects: a large red ring at the top and a small blue star at the left. "
         "The red ring is to the right of the blue star.", Relation(STAR, "left of", RING)),
        ("A woman is riding a horse.", Relation(Thing("person"), "riding", Thing("horse"))),
        ("a dog on top of a table", Relation(Thing("dog"), "on", Thing("table"))),
        ("a red ring and a blue star", None),
        ("a red ring, above it a blue star", None),
    ],
)  # fmt: skip
def test_relations_have_one_direction(text: str, relation: Relation | None) -> None:
    assert content_of(text).relations == (() if relation is None else (relation,))


def test_wording_is_no_content() -> None:
    one = content_of("A person is riding a brown horse down a dirt road.")
    other = content_of("A man rides a large brown horse along the road, a dirt road.")
    assert one == Content({**one.things}, other.relations)
    assert set(one.things) == set(other.things)


def test_only_captions_have_content() -> None:
    with_content = [name for name, spec in SPECS.items() if spec.content is not None]
    assert with_content == ["caption", "detailed_caption", "more_detailed_caption"]
