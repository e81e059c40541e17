"""Training examples as text: a prompt about a toy scene and the right answer, for each task.

Answers follow Florence-2's format: labels followed by `<loc_N>` tokens of 1,000 bins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.florence2.tasks import FLORENCE_TASKS, location_tokens
from streamer.toyworld.paint import COLOURS, Outline
from streamer.toyworld.world import KINDS, SCENE_SECONDS, Scene, Sign, Thing, World

WEIGHTS = {
    "object_detection": 3.0,
    "dense_region_caption": 1.5,
    "region_proposal": 1.0,
    "open_vocabulary_detection": 3.0,
    "phrase_grounding": 2.5,
    "referring_segmentation": 2.0,
    "region_to_segmentation": 2.0,
    "region_to_category": 1.0,
    "region_to_description": 1.0,
    "ocr": 3.0,
    "ocr_with_region": 3.0,
    "region_to_ocr": 3.0,
    "caption": 1.2,
    "detailed_caption": 1.2,
    "more_detailed_caption": 1.2,
}
"""Relative frequency of each task in training."""
LONG = frozenset({"detailed_caption", "more_detailed_caption"})
"""Tasks with long answers. They get batches of their own, so that short answers are not padded to their length."""
READING = frozenset({"ocr", "ocr_with_region", "region_to_ocr"})
"""Tasks about the words on signs."""

_NUMBERS = ("no", "one", "two", "three", "four", "five")

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Example:
    """A prompt and its right answer."""

    prompt: str
    input: str
    """The user's part of the prompt: a text, or a region's location tokens."""
    answer: str
    things: tuple[Thing, ...] = ()
    """Objects that the answer refers to."""
    signs: tuple[Sign, ...] = ()
    """Signs that the answer refers to."""


def _points(outline: Outline) -> str:
    return location_tokens(*outline.ravel().tolist())


def _phrase(thing: Thing) -> str:
    return f"{thing.colour} {thing.kind}"


def _an(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _list(parts: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def _counted(things: Sequence[Thing]) -> list[str]:
    """Return phrases with counts, such as `a red ring` and `two blue stars`, in order of first appearance."""
    counts = Counter(map(_phrase, things))
    return [_an(phrase) if count == 1 else f"{_NUMBERS[count]} {_plural(phrase)}" for phrase, count in counts.items()]


def _plural(phrase: str) -> str:
    return phrase + ("es" if phrase.endswith("s") else "s")


def _position(thing: Thing) -> str:
    x, y = thing.centre
    column = "left" if x < 1 / 3 else "right" if x > 2 / 3 else ""
    row = "top" if y < 1 / 3 else "bottom" if y > 2 / 3 else ""
    return " ".join(filter(None, [row, column])) or "centre"


def _relation(a: Thing, b: Thing) -> str:
    (ax, ay), (bx, by) = a.centre, b.centre
    if abs(ax - bx) > abs(ay - by):
        return "to the left of" if ax < bx else "to the right of"
    return "above" if ay < by else "below"


def caption(scene: Scene) -> str:
    """Return a caption with all objects and counts; for two different objects, with their relation."""
    match scene.objects:
        case (a, b) if _phrase(a) != _phrase(b):
            return f"{_an(_phrase(a))} {_relation(a, b)} {_an(_phrase(b))}"
        case things:
            return _list(_counted(things))


def _detailed(scene: Scene, relations: int) -> str:
    count = len(scene.objects)
    head = f"The image shows {_NUMBERS[count]} object{'s' if count > 1 else ''}: "
    body = _list([f"{_an(f'{t.size} {_phrase(t)}')} at the {_position(t)}" for t in scene.objects])
    pairs = list(zip(scene.objects, scene.objects[1:], strict=False))[:relations]
    return head + body + "." + "".join(f" The {_phrase(a)} is {_relation(a, b)} the {_phrase(b)}." for a, b in pairs)


def _drawn_region(rng: np.random.Generator, box: Box) -> str:
    """Return the location tokens of a box with noise, like a region that a user drew."""
    return location_tokens(*np.clip(np.array(box) + rng.normal(0, 0.006, size=4), 0, 0.999).tolist())


def _query(rng: np.random.Generator, scene: Scene) -> str:
    """Return a phrase to search for; two of three are in the scene, most others are similar to an object."""
    thing = scene.objects[int(rng.integers(len(scene.objects)))]
    match int(rng.integers(6)):
        case 0:
            return f"{rng.choice(list(COLOURS))} {rng.choice(list(KINDS))}"
        case 1:
            other = f"{thing.colour} {rng.choice(list(KINDS))}", f"{rng.choice(list(COLOURS))} {thing.kind}"
            return str(rng.choice(other))
        case 2:
            return thing.kind
        case _:
            return _phrase(thing)


def matching(scene: Scene, phrase: str) -> tuple[Thing, ...]:
    """Return the objects that a phrase such as `ring` or `red ring` names."""
    return tuple(thing for thing in scene.objects if phrase in (_phrase(thing), thing.kind))


def _labelled(phrase: str, things: Sequence[Thing]) -> str:
    return phrase + "".join(location_tokens(*thing.box) for thing in things) if things else ""


def _phrase_example(task: str, scene: Scene, rng: np.random.Generator) -> tuple[str, str, tuple[Thing, ...]]:
    if task == "phrase_grounding":
        phrases = list(dict.fromkeys(_query(rng, scene) for _ in range(int(rng.integers(1, 4)))))
        hits = [matching(scene, phrase) for phrase in phrases]
        answer = "".join(_labelled(_an(phrase), things) for phrase, things in zip(phrases, hits, strict=True))
        return _list([_an(phrase) for phrase in phrases]), answer, tuple(thing for things in hits for thing in things)
    phrase = _query(rng, scene)
    things = matching(scene, phrase)
    if task == "referring_segmentation":
        return phrase, "<sep>".join(_points(thing.silhouette) for thing in things), things
    return phrase, _labelled(phrase, things), things


def _region_example(task: str, scene: Scene, rng: np.random.Generator) -> tuple[str, str, tuple[Thing, ...]]:
    thing = scene.objects[int(rng.integers(len(scene.objects)))]
    answers = {
        "region_to_category": thing.kind,
        "region_to_description": _an(f"{thing.size} {_phrase(thing)}"),
        "region_to_segmentation": _points(thing.silhouette),
    }
    return _drawn_region(rng, thing.box), answers[task], (thing,)


def is_possible(task: str, scene: Scene) -> bool:
    """Return whether an example of the task can be made from this scene."""
    return bool(scene.signs) if task == "region_to_ocr" else bool(scene.objects)


def make_example(task: str, scene: Scene, rng: np.random.Generator) -> Example:
    """Return a random example of the task about the scene; requires `is_possible`."""
    user_input, things, signs = "", scene.objects, scene.signs
    match task:
        case "caption":
            answer = caption(scene)
        case "detailed_caption":
            answer = _detailed(scene, 1)
        case "more_detailed_caption":
            answer = _detailed(scene, 3)
        case "object_detection":
            answer = "".join(thing.kind + location_tokens(*thing.box) for thing in things)
        case "dense_region_caption":
            answer = "".join(f"{thing.size} {_phrase(thing)}" + location_tokens(*thing.box) for thing in things)
        case "region_proposal":
            answer = "".join(location_tokens(*thing.box) for thing in things)
        case "open_vocabulary_detection" | "phrase_grounding" | "referring_segmentation":
            user_input, answer, things = _phrase_example(task, scene, rng)
        case "region_to_category" | "region_to_description" | "region_to_segmentation":
            user_input, answer, things = _region_example(task, scene, rng)
        case "ocr":
            answer = " ".join(sign.text for sign in signs)
        case "ocr_with_region":
            answer = "".join(sign.text + _points(sign.quad) for sign in signs)
        case "region_to_ocr":
            signs = (signs[int(rng.integers(len(signs)))],)
            user_input, answer = _drawn_region(rng, signs[0].box), signs[0].text
        case _:
            raise ValueError(f"the toy world has no truth for {task}")
    prompt = FLORENCE_TASKS[task].prompt.format(input=user_input)
    return Example(prompt, user_input, answer, *(((), signs) if task in READING else (things, ())))


def corpus() -> Iterator[str]:
    """Yield texts of all tasks for the tokenizer's training, without the words on signs: the model spells those."""
    rng = np.random.default_rng(0)
    for seed in range(400):
        scene = World(seed).scene(rng.random() * SCENE_SECONDS)
        for task in WEIGHTS:
            if is_possible(task, scene):
                example = make_example(task, scene, rng)
                for text in (example.prompt, "" if task in READING else example.answer):
                    yield from (piece.rpartition(">")[2] for piece in text.split("<") if piece.rpartition(">")[2])
