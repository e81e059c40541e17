"""What a perfect Florence-2 says of a toy scene: the question and the right answer of each task, as text.

The wording follows the model's conventions: labels followed by four `<loc_N>` tokens of 1,000 bins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from pipelines.tasks import FLORENCE_TASKS
from streamer.toyworld import COLOURS, KINDS, SCENE_SECONDS, Scene, Thing, World

WEIGHTS = {
    "object_detection": 6.0,
    "caption": 2.0,
    "detailed_caption": 1.0,
    "more_detailed_caption": 1.0,
    "dense_region_caption": 2.0,
    "region_proposal": 1.5,
    "open_vocabulary_detection": 1.5,
    "phrase_grounding": 1.0,
    "region_to_category": 0.7,
    "region_to_description": 0.7,
}
"""The tasks the shipped model is taught, with how often each is asked."""

_NUMBERS = ("no", "one", "two", "three", "four", "five")
_MOST_RELATIONS = 2


def locations(box: Sequence[float]) -> str:
    """Four fractions as location tokens."""
    return "".join(f"<loc_{min(999, max(0, int(value * 1000)))}>" for value in box)


def _phrase(thing: Thing) -> str:
    return f"{thing.colour} {thing.kind}"


def _an(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _list(parts: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def _counted(things: Sequence[Thing]) -> list[str]:
    """Phrases with their counts, in the order of the first of each: `a red ring`, `two blue stars`."""
    counts = Counter(map(_phrase, things))
    return [_an(phrase) if count == 1 else f"{_NUMBERS[count]} {_plural(phrase)}" for phrase, count in counts.items()]


def _plural(phrase: str) -> str:
    return phrase + ("es" if phrase.endswith("s") else "s")


def _place(thing: Thing) -> str:
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
    return _list(_counted(scene.objects))


def detailed_caption(scene: Scene) -> str:
    count = len(scene.objects)
    head = f"The image shows {_NUMBERS[count]} object{'s' if count > 1 else ''}: "
    return head + _list([f"{_an(f'{t.size} {_phrase(t)}')} at the {_place(t)}" for t in scene.objects]) + "."


def more_detailed_caption(scene: Scene) -> str:
    pairs = list(zip(scene.objects, scene.objects[1:], strict=False))[:_MOST_RELATIONS]
    relations = [f" The {_phrase(a)} is {_relation(a, b)} the {_phrase(b)}." for a, b in pairs]
    return detailed_caption(scene) + "".join(relations)


def _region(rng: np.random.Generator, scene: Scene) -> tuple[Thing, str]:
    thing = scene.objects[int(rng.integers(len(scene.objects)))]
    jitter = rng.normal(0, 0.006, size=4)
    return thing, locations(np.clip(np.array(thing.box) + jitter, 0, 0.999).tolist())


def _wanted(rng: np.random.Generator, scene: Scene) -> str:
    """A phrase to look for: mostly something that is there, sometimes only a kind, sometimes something else."""
    thing = scene.objects[int(rng.integers(len(scene.objects)))]
    match int(rng.integers(6)):
        case 0 | 1:
            return f"{rng.choice(list(COLOURS))} {rng.choice(list(KINDS))}"
        case 2:
            return thing.kind
        case _:
            return _phrase(thing)


def _found(scene: Scene, phrase: str) -> list[Thing]:
    return [thing for thing in scene.objects if phrase in (_phrase(thing), thing.kind)]


def _labelled(phrase: str, things: Sequence[Thing]) -> str:
    return phrase + "".join(locations(thing.box) for thing in things) if things else ""


def ask(task: str, scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """A question of this task about the scene, and its answer: the texts of prompt and generation."""
    objects = scene.objects
    given = ""
    match task:
        case "caption":
            answer = caption(scene)
        case "detailed_caption":
            answer = detailed_caption(scene)
        case "more_detailed_caption":
            answer = more_detailed_caption(scene)
        case "object_detection":
            answer = "".join(thing.kind + locations(thing.box) for thing in objects)
        case "dense_region_caption":
            answer = "".join(f"{thing.size} {_phrase(thing)}" + locations(thing.box) for thing in objects)
        case "region_proposal":
            answer = "".join(locations(thing.box) for thing in objects)
        case "open_vocabulary_detection":
            given = _wanted(rng, scene)
            answer = _labelled(given, _found(scene, given))
        case "phrase_grounding":
            phrases = [_wanted(rng, scene) for _ in range(int(rng.integers(1, 4)))]
            given = _list([_an(phrase) for phrase in dict.fromkeys(phrases)])
            answer = "".join(_labelled(_an(phrase), _found(scene, phrase)) for phrase in dict.fromkeys(phrases))
        case "region_to_category":
            thing, given = _region(rng, scene)
            answer = thing.kind
        case "region_to_description":
            thing, given = _region(rng, scene)
            answer = _an(f"{thing.size} {_phrase(thing)}")
        case _:
            raise ValueError(f"the toy world has no truth for {task}")
    return FLORENCE_TASKS[task].prompt.format(input=given), answer


def corpus() -> Iterator[str]:
    """Texts of all tasks, to train the tokenizer on; location tokens are its own."""
    rng = np.random.default_rng(0)
    for seed in range(400):
        scene = World(seed).scene(rng.random() * SCENE_SECONDS)
        for task in WEIGHTS:
            for text in ask(task, scene, rng):
                yield from (piece.rpartition(">")[2] for piece in text.split("<") if piece.rpartition(">")[2])
