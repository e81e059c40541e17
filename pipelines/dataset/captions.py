"""Filter of captions: removes those that name an object or an action that no box of the picture supports."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipelines.dataset.filters import AnsweredPicture
from pipelines.florence2.noun_phrases import describes, noun_phrases
from pipelines.florence2.tasks import CAPTIONS
from streamer.types import Answer

MAX_EXAMPLES = 5
"""Unsupported words that a table shows."""
_ACTION = re.compile(
    r"\b(?:is|are|was|were|person|people|man|men|woman|women|child|children|boy|girl)\s+([a-z]{3,}ing)\b"
)
"""A participle after a person or an auxiliary verb."""


@dataclass(frozen=True, slots=True)
class JudgedCaption:
    """A caption and what speaks against it."""

    image: str
    task: str
    answer: Answer
    unsupported: tuple[str, ...]
    """Its objects and actions that no box supports; empty for a caption that is kept."""


def judge_captions(pictures: Sequence[AnsweredPicture]) -> Iterator[JudgedCaption]:
    """Yield each caption. Without an answer with boxes nothing supports a caption."""
    for picture in pictures:
        labels = list(_labels(picture))
        for task, answer in picture.answers.items():
            if task in CAPTIONS and answer.text:
                yield JudgedCaption(picture.image, task, answer, tuple(unsupported(answer.text, labels)))


def unsupported(caption: str, labels: Sequence[str]) -> Iterator[str]:
    """Yield the objects and actions of a caption that none of the labels names.

    `labels`: words of the boxes, such as `man riding a horse`. An action is looked for as a word, so only descriptions
    of regions and grounded phrases can support one.
    """
    for phrase in noun_phrases(caption):
        if phrase.number != 0 and not any(describes(label, phrase) for label in labels):
            yield phrase.noun
    words = {word for label in labels for word in label.lower().split()}
    for match in _ACTION.finditer(caption.lower()):
        if match[1] not in words:
            yield match[1]


def _labels(picture: AnsweredPicture) -> Iterator[str]:
    """Yield the words of all boxes and outlines, and the supported phrases of grounded captions."""
    for answer in picture.answers.values():
        yield from (box.label for box in answer.boxes)
        yield from (polygon.label for polygon in answer.polygons)
        for span in answer.spans:
            if span.is_supported and answer.text and span.boxes:
                yield answer.text[span.start : span.end]
