"""Returns the content of a caption: the things that it names, with number and colours, and relations between them.

Two captions that say the same in other words have the same content. Sizes, places in the picture and verbs are left
out, because the model words them differently from frame to frame.
"""

from __future__ import annotations

import re

from pipelines.florence2.noun_phrases import NounPhrase, noun_phrases
from streamer.core.content import Content, Relation, Thing
from streamer.types import Answer

_SAME = {
    **dict.fromkeys(("man", "woman", "guy", "lady", "gentleman", "pedestrian", "human"), "person"),
    **dict.fromkeys(("boy", "girl", "kid", "toddler", "baby"), "child"),
    **dict.fromkeys(("automobile", "sedan", "suv"), "car"),
    "lorry": "truck",
    "bike": "bicycle",
    "motorbike": "motorcycle",
    "puppy": "dog",
    "kitten": "cat",
    "grey": "gray",
    "golden": "gold",
}
"""Words that the model uses for one thing or one colour in turn."""
_LISTING = re.compile(r"[,.;:]|\b(?:and|but|while|with|or|that|which|who)\b")
"""Between two phrases: the second one begins something new."""
_RELATIONS = (
    (("to the left of", "left of"), "left of", False),
    (("to the right of", "right of"), "left of", True),
    (("in front of",), "in front of", False),
    (("behind",), "in front of", True),
    (("on top of", "on", "onto", "upon"), "on", False),
    (("above", "over"), "above", False),
    (("below", "under", "underneath", "beneath"), "above", True),
    (("inside", "inside of", "in", "into"), "in", False),
    (("riding", "rides"), "riding", False),
    (("holding", "holds", "carrying", "carries"), "holding", False),
    (("pushing", "pushes"), "pushing", False),
    (("pulling", "pulls"), "pulling", False),
)
"""Words before the second thing, their relation, and whether it is that of the second thing to the first."""
_ENDINGS = sorted(
    ((f" {words}", relation, swap) for group, relation, swap in _RELATIONS for words in group),
    key=lambda ending: -len(ending[0]),
)
"""The longest first: `on top of` is not `of`."""


def content_of(answer: Answer) -> Content:
    """Return what a caption says is in the picture, without phrases that the picture does not support."""
    text = answer.text or ""
    unsupported = [span for span in answer.spans if not span.is_supported]
    phrases = [
        phrase
        for phrase in noun_phrases(text)
        if phrase.number != 0 and not any(span.start < phrase.end and phrase.start < span.end for span in unsupported)
    ]
    things: dict[Thing, int | None] = {}
    named: list[Thing] = []
    for phrase in phrases:
        thing = _thing(phrase)
        if phrase.article == "the" and (known := _known(thing, things)) is not None:
            named.append(known)
            continue
        number, before = _number(phrase), things.get(thing, 0)
        things[thing] = None if number is None or before is None else before + number
        named.append(thing)
    relations = []
    for first, second, one, other in zip(phrases, phrases[1:], named, named[1:], strict=False):
        found = _relation(text[first.end : second.start])
        if found is not None and one != other:
            relation, swap = found
            relations.append(Relation(other, relation, one) if swap else Relation(one, relation, other))
    return Content(things, tuple(dict.fromkeys(relations)))


def _thing(phrase: NounPhrase) -> Thing:
    return Thing(_SAME.get(phrase.noun, phrase.noun), tuple(sorted({_SAME.get(word, word) for word in phrase.colours})))


def _number(phrase: NounPhrase) -> int | None:
    """Return the number of things; None for a plural without one."""
    if phrase.number is not None:
        return phrase.number
    return 1 if phrase.article == "a" or phrase.words[-1] == phrase.noun else None


def _known(thing: Thing, things: dict[Thing, int | None]) -> Thing | None:
    """Return the thing that was named before and that `the` refers to."""
    alike = (one for one in things if one.kind == thing.kind and set(thing.colours) <= set(one.colours))
    return next(alike, None)


def _relation(between: str) -> tuple[str, bool] | None:
    """Return the relation that the words between two phrases state."""
    between = " " + " ".join(between.lower().split())
    if _LISTING.search(between):
        return None
    return next(((relation, swap) for end, relation, swap in _ENDINGS if between.endswith(end)), None)
