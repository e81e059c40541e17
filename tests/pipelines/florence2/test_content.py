"""Content of captions: equal for other words, different for other things, numbers and relations."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.florence2.content import content_of
from pipelines.florence2.pipeline import pipeline
from streamer.core.content import Content, Relation, Thing
from streamer.types import Answer, Span

RING, STAR = Thing("ring", ("red",)), Thing("star", ("blue",))


@pytest.mark.parametrize(
    ("text", "things"),
    [
        ("a red ring, two blue stars and an orange cross", {RING: 1, STAR: 2, Thing("cross", ("orange",)): 1}),
        ("A man and a woman in front of a house.", {Thing("person"): 2, Thing("house"): 1}),
        ("Cars on the street, three people walking.", {Thing("car"): None, Thing("street"): 1, Thing("person"): 3}),
        ("The image shows a red ring. The ring is large. Another ring is at the left.", {RING: 1, Thing("ring"): 1}),
        ("There are no people.", {}),
        ("", {}),
    ],
)  # fmt: skip
def test_things_have_numbers_and_colours(text: str, things: Any) -> None:
    assert content_of(Answer(text)).things == things


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
    assert content_of(Answer(text)).relations == (() if relation is None else (relation,))


def test_wording_is_no_content() -> None:
    one = content_of(Answer("A person is riding a brown horse down a dirt road."))
    other = content_of(Answer("A man rides a large brown horse along the road, a dirt road."))
    assert one == Content({**one.things}, other.relations)
    assert set(one.things) == set(other.things)


def test_unsupported_phrases_are_no_content() -> None:
    text = "a red ring above a blue star"
    spans = (Span(0, 10, (), 0.9, True), Span(17, 28, (), 0.1, False))
    assert content_of(Answer(text, spans=spans)) == Content({RING: 1})


def test_only_captions_have_content() -> None:
    captions = {name for name in pipeline.tasks() if name.endswith("caption") and name != "dense_region_caption"}
    assert {name for name, spec in pipeline.tasks().items() if spec.content is not None} == captions
