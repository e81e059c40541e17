"""Grounded captions: a caption, then a search for each of its noun phrases, then a second look at what was found.

Florence-2 often finds something for a phrase that names nothing in the picture. So each place that the search gives is
described by the model too, and the description must name the same thing. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

from pydantic import Field, create_model

from pipelines.florence2.composite import Question, Stages
from pipelines.florence2.confirm import support
from pipelines.florence2.content import content_of
from pipelines.florence2.noun_phrases import MAX_NUMBER, NounPhrase, noun_phrases
from pipelines.florence2.tasks import SPECS
from streamer.core.boxes import Rect, area, iou
from streamer.core.settings import Settings
from streamer.types import Answer, Box, Job, Region, Span, TaskSpec

MIN_SUPPORT = 0.4
"""Default `min_support`, chosen on toy scenes of the training's seeds (`benchmarks/grounded.py`)."""
MAX_QUESTIONS = 32
"""Different phrases of one caption that are searched for; further ones have no span."""
MAX_BOXES = MAX_NUMBER + 1
"""Boxes of one phrase that are looked at, those with the best score first: enough to find a number wrong."""
SAME_OVERLAP = 0.9
"""Overlap from which on two boxes of a phrase are one thing, found twice."""
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_SEARCH, _LOOK = "phrase_grounding", "region_to_description"

_Seen = tuple[Box, float]
"""A box, and how much it supports the phrase."""


class _Keys(Settings):
    """The keys that only grounded captions have."""

    caption: ClassVar[str]
    phrases: ClassVar[int]
    """Expected number of noun phrases."""

    min_support: float = Field(MIN_SUPPORT, ge=0, le=1)
    """A phrase is supported if the picture shows what it names at least with this score, 0 to 1."""
    only_supported: bool = False
    """Leave out sentences with a phrase that is not supported."""

    @property
    def prompts(self) -> Mapping[str, float]:
        return {self.caption: 1, _SEARCH: self.phrases, _LOOK: self.phrases}


def _spec(task: str, caption: str, phrases: int, summary: str) -> TaskSpec:
    name = "".join(word.capitalize() for word in task.split("_")) + "Parameters"
    model = create_model(
        name,
        __base__=(_Keys, SPECS[caption].parameters),
        __module__=__name__,
        __doc__=summary,
    )
    parameters = cast("type[Any]", model)
    parameters.task, parameters.caption, parameters.phrases = task, caption, phrases
    return TaskSpec(
        task,
        summary,
        takes_text=False,
        takes_region=False,
        result="text",
        parameters=parameters,
        content=content_of,
    )


GROUNDED_SPECS: dict[str, TaskSpec] = {
    spec.task: spec
    for spec in (
        _spec("grounded_caption", "caption", 3, "one sentence, its phrases checked"),
        _spec("grounded_detailed_caption", "detailed_caption", 6, "a few sentences, their phrases checked"),
        _spec("grounded_more_detailed_caption", "more_detailed_caption", 12, "a paragraph, its phrases checked"),
    )
}
"""The grounded captions as streamer sees them."""
CAPTIONS: dict[str, str] = {task: spec.parameters.caption for task, spec in GROUNDED_SPECS.items()}
"""Kind of caption by grounded caption."""


def caption_job(job: Job) -> Job:
    """Return the job of a grounded caption's first stage; any other job as it is."""
    task = job.due.task
    if task.task not in CAPTIONS:
        return job
    params = _parameters(CAPTIONS[task.task], task.params, max_tokens=task.params.max_tokens)
    return replace(job, due=replace(job.due, task=replace(task, task=CAPTIONS[task.task], params=params)))


def _parameters(task: str, whole: Any, **keys: Any) -> Any:
    """Return the parameters of a stage of a task with the parameters `whole`."""
    return SPECS[task].parameters(quality=whole.quality, **keys)


def grounded_caption(job: Job) -> Stages:
    """Ask for the caption, for the places of its phrases, and for a description of each place."""
    params = job.due.task.params
    caption = caption_job(job).due.task
    (answer,) = yield [Question(caption.task, caption.params, "caption")]
    phrases = noun_phrases(answer.text or "")
    searched = list(dict.fromkeys(phrase.question for phrase in phrases))[:MAX_QUESTIONS]
    found = yield [Question(_SEARCH, _parameters(_SEARCH, params, text=text), f"phrase `{text}`") for text in searched]
    boxes = [(text, box) for text, one in zip(searched, found, strict=True) for box in _distinct(one.boxes)]
    looks = yield [
        Question(_LOOK, _parameters(_LOOK, params, region=_region(box)), f"phrase `{text}`") for text, box in boxes
    ]

    spans = []
    for phrase in phrases:
        if phrase.question in searched:
            of_phrase = [
                (box, support(phrase, box, look))
                for (text, box), look in zip(boxes, looks, strict=True)
                if text == phrase.question
            ]
            spans.append(_span(phrase, of_phrase, params.min_support))
    whole = Answer(text=answer.text, score=answer.score, spans=tuple(spans))
    return _supported_sentences(whole) if params.only_supported else whole


def _distinct(boxes: Sequence[Box]) -> list[Box]:
    """Return the boxes that have an area, the best first, without those that repeat another one."""
    kept: list[Box] = []
    for box in sorted(boxes, key=lambda box: -(box.score or 0.0)):
        is_new = all(iou(_edges(box), _edges(other)) < SAME_OVERLAP for other in kept)
        if is_new and area(_edges(box)):
            kept.append(box)
    return kept[:MAX_BOXES]


def _edges(box: Box) -> Rect:
    return box.x0, box.y0, box.x1, box.y1


def _region(box: Box) -> Region:
    return Region(box.x0, box.y0, box.x1, box.y1)


def _span(phrase: NounPhrase, seen: Sequence[_Seen], least: float) -> Span:
    """Return the span of a phrase. A phrase that counts is supported by as many boxes as it says."""
    places = tuple(box for box, value in seen if value >= least)
    number = phrase.number
    values = sorted((value for _, value in seen), reverse=True)
    # The score is that of the last box which the phrase needs; of `no dogs`, that no box shows one.
    score = 1 - max(values, default=0.0) if number == 0 else ([*values, *[0.0] * (number or 1)])[(number or 1) - 1]
    is_supported = bool(places) if number is None else len(places) == number
    return Span(phrase.start, phrase.end, places, score, is_supported)


def _supported_sentences(answer: Answer) -> Answer:
    """Return the answer without the sentences with a phrase that is not supported."""
    text = answer.text or ""
    kept, spans = "", list[Span]()
    for start, end in _sentences(text):
        within = [span for span in answer.spans if start <= span.start < end]
        if all(span.is_supported for span in within):
            kept += " " if kept else ""
            shift = len(kept) - start
            kept += text[start:end]
            spans += [replace(span, start=span.start + shift, end=span.end + shift) for span in within]
    return Answer(text=kept, score=answer.score, spans=tuple(spans))


def _sentences(text: str) -> Iterator[tuple[int, int]]:
    """Yield start and end of each sentence."""
    start = 0
    for gap in _SENTENCE.finditer(text):
        yield start, gap.start()
        start = gap.end()
    yield start, len(text)
