"""Noun phrases of captions: their places, the question about each, and their comparison with a description."""

from __future__ import annotations

import pytest

from pipelines.florence2.noun_phrases import MAX_LETTERS, describes, noun_phrases, searched_things, singular

CAPTIONS = {
    "a green circle to the right of a yellow star": ["a green circle", "a yellow star"],
    "A man riding a bike down a street next to a parked car.": ["A man", "a bike", "a street", "a parked car"],
    "A green car parked in front of a yellow building.": ["A green car", "a yellow building"],
    "The image shows two objects: a large ring at the top left and a small white cross.": [
        "a large ring", "a small white cross",
    ],
    "A woman in a white t-shirt walks her dog while people swim.": [
        "A woman", "a white t-shirt", "her dog", "people swim",
    ],
    "A group of people sitting at a wooden table with plates of food on it.": [
        "people", "a wooden table", "plates", "food",
    ],
    "There are several trees in the background. The sky is visible, it is clear.": ["several trees", "The sky"],
    "a cat, a dog and trees": ["a cat", "a dog", "trees"],
    "Two men and a boy's red bike": ["Two men", "a boy's red bike"],
    "two dogs, running in the snow; they are covered with mud": ["two dogs", "the snow", "mud"],
    "": [],
    "the left of it, and something. ... 12 3": [],
}  # fmt: skip


@pytest.mark.parametrize("caption", CAPTIONS)
def test_phrases_are_parts_of_the_caption_that_name_things(caption: str) -> None:
    assert [caption[phrase.start : phrase.end] for phrase in noun_phrases(caption)] == CAPTIONS[caption]


@pytest.mark.parametrize(
    ("text", "question", "number"),
    [
        ("an orange ring", "an orange ring", None),
        ("the small orange ring", "the orange ring", None),  # sizes are a matter of opinion
        ("a large orange ring", "an orange ring", None),
        ("two blue boxes", "a blue box", 2),
        ("3 dogs", "a dog", 3),
        ("no people", "a person", 0),
        ("one dog", "a dog", 1),
        ("20 dogs", "dogs", None),
        ("several blue dogs", "blue dogs", None),
        ("his hat", "the hat", None),
    ],
)
def test_question_is_about_one_thing(text: str, question: str, number: int | None) -> None:
    (phrase,) = noun_phrases(text)
    assert (phrase.question, phrase.number) == (question, number)


def test_words_without_end_are_no_phrase() -> None:
    assert not noun_phrases("x" * (MAX_LETTERS + 1))
    assert not noun_phrases("car " * 5000)


@pytest.mark.parametrize(
    ("text", "nouns"),
    [
        ("red ring", ["ring"]),
        ("a red ring and two blue stars, or crosses", ["ring", "star", "cross"]),
        ("person wearing a red helmet", ["person"]),
        ("a group of people", ["person"]),
        ("fire extinguisher", ["extinguisher"]),
        ("man on a bench; dog", ["man", "dog"]),
        ("the left side", []),
    ],
)
def test_search_is_for_the_first_thing_of_each_part(text: str, nouns: list[str]) -> None:
    assert [thing.noun for thing in searched_things(text)] == nouns


@pytest.mark.parametrize(
    ("plural", "one"),
    [("rings", "ring"), ("crosses", "cross"), ("boxes", "box"), ("horses", "horse"), ("glass", "glass"), ("bus", "bus"),
     ("buses", "bus"), ("berries", "berry"), ("benches", "bench"), ("men", "man"), ("gas", "gas"), ("houses", "house"),
     ("wolves", "wolf"), ("elves", "elf"), ("valves", "valve"), ("knives", "knife")],
)  # fmt: skip
def test_plurals_become_singular(plural: str, one: str) -> None:
    assert singular(plural) == one


@pytest.mark.parametrize(
    ("phrase", "text", "agrees"),
    [
        ("a red ring", "a large red ring", True),
        ("a red ring", "a large blue ring", False),
        ("a red ring", "a large red star", False),
        ("two red rings", "a red ring", True),
        ("a red ring", "ring", True),
        ("a ring", "a blue ring", True),
        ("a man", "person in a red shirt", True),
        ("a person", "a man in a red shirt", True),
        ("a woman", "a man in a red shirt", False),
        ("a truck", "a parked car", False),
        ("a red car", "a blue car next to a red truck", False),
        ("a red vehicle", "a blue car next to a red truck", True),
        ("a red dog", "a red car with a brown dog", False),
        ("a beetle", "a turquoise beetle car", True),
        ("a red ring", "", False),
    ],
)
def test_description_names_the_thing_and_its_colour(phrase: str, text: str, agrees: bool) -> None:
    (one,) = noun_phrases(phrase)
    assert describes(text, one) is agrees
