"""The second look (`confirm`): the model is asked about the region of each shape that it found for a text.

Florence-2 finds something for nearly every text. A shape is confirmed if the model's own words about its region name
the thing that was searched for. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from pipelines.florence2.composite import Question
from pipelines.florence2.noun_phrases import NounPhrase, describes, searched_things
from pipelines.florence2.tasks import SPECS
from streamer.types import Answer, Box, Confirmation, Frame, Job, Polygon, Refusal, Refused, Region

MIN_SCORES = {"open_vocabulary_detection": 0.1, "phrase_grounding": 0.1, "referring_segmentation": 0.2}
"""Default `min_score` by task, chosen on toy scenes of the training's seeds so that recall falls by at most a point
(`python -m benchmarks.confirm --calibrate`)."""
MIN_PIXELS = 8
"""Smallest width and height of a shape that can be confirmed; in a smaller one the model sees nothing."""
MAX_SHAPES = 32
"""Most shapes of one answer that are looked at, those with the best score first; others are not confirmed."""


@dataclass(slots=True, eq=False)
class _Candidate:
    """A shape that was found."""

    shape: Box | Polygon
    box: Box
    """Bounding box within the frame, with score and label of the shape; the text if the shape has no label."""
    things: Sequence[NounPhrase]
    """The things of the text, one of which it must show."""
    reason: Refusal | None = None
    support: float | None = None
    said: str | None = None


Looks = Generator[Sequence[Question], Sequence[Answer], list[Answer]]
"""The stage of a second look; returns the answers with the shapes that were confirmed."""


def second_look(job: Job, texts: Sequence[str], answers: Sequence[Answer]) -> Looks:
    """Ask about each shape of the answers to `texts`; return the answers without the shapes that were refused."""
    task = job.due.task
    confirm = task.params.confirm
    least = MIN_SCORES[task.task] if confirm.min_score is None else confirm.min_score
    found = [list(_candidates(task.task, text, one)) for text, one in zip(texts, answers, strict=True)]
    looked_at = _looked_at([candidate for one in found for candidate in one], job.frame)
    looks = yield [
        Question(kind, _about(kind, candidate.box, task.params.quality), f"second look at `{candidate.box.label}`")
        for candidate, kind in product(looked_at, confirm.kinds)
    ]
    count = len(confirm.kinds)
    for number, candidate in enumerate(looked_at):
        _judge(candidate, looks[number * count : (number + 1) * count], least)
    return [_confirmed(answer, one) for answer, one in zip(answers, found, strict=True)]


def support(thing: NounPhrase, box: Box, look: Answer) -> float:
    """Return how much a look at a box supports that it shows a thing, 0 to 1.

    It is the box's score times the probability that the look agrees: words that name something else count against the
    box as far as the model is certain of them.
    """
    if not look.text or look.score is None or box.score is None:
        return 0.0
    value = box.score * (look.score if describes(look.text, thing) else 1 - look.score)
    return value if math.isfinite(value) else 0.0


def _candidates(task: str, text: str, answer: Answer) -> Iterator[_Candidate]:
    shapes: tuple[Box | Polygon, ...] = (*answer.boxes, *answer.polygons)
    for shape in shapes:
        # A caption names several things; the label is the one that the shape shows.
        things = searched_things(shape.label if task == "phrase_grounding" else text)
        yield _Candidate(shape, _bounding_box(shape, shape.label or text), things)


def _bounding_box(shape: Box | Polygon, label: str) -> Box:
    points = [(shape.x0, shape.y0), (shape.x1, shape.y1)] if isinstance(shape, Box) else shape.points
    xs, ys = ([min(max(value, 0.0), 1.0) for value in axis] for axis in zip(*points, strict=True))
    return Box(min(xs), min(ys), max(xs), max(ys), label, shape.score)


def _looked_at(candidates: list[_Candidate], frame: Frame) -> list[_Candidate]:
    """Return the candidates that the model is asked about; set the reason of the others."""
    height, width = frame.image.shape[:2]
    chosen: list[_Candidate] = []
    for candidate in sorted(candidates, key=lambda one: -(one.box.score or 0.0)):
        box = candidate.box
        if min((box.x1 - box.x0) * width, (box.y1 - box.y0) * height) < MIN_PIXELS:
            candidate.reason = "small"
        elif len(chosen) == MAX_SHAPES:
            candidate.reason = "most"
        else:
            chosen.append(candidate)
    return chosen


def _about(kind: str, box: Box, quality: str) -> object:
    region = Region(box.x0, box.y0, box.x1, box.y1)
    return SPECS[kind].parameters(quality=quality, region=region)


def _judge(candidate: _Candidate, looks: Sequence[Answer], least: float) -> None:
    """Set what was said about a candidate, and the reason if it is refused. Each look must support it."""
    candidate.said = " / ".join(look.text or "" for look in looks)
    per_look = [max((support(thing, candidate.box, look) for thing in candidate.things), default=0.0) for look in looks]
    candidate.support = min(per_look)
    if not candidate.things or candidate.support < least:
        agree = all(any(describes(look.text or "", thing) for thing in candidate.things) for look in looks)
        candidate.reason = "score" if agree else "words"


def _confirmed(answer: Answer, candidates: Sequence[_Candidate]) -> Answer:
    kept = [candidate.shape for candidate in candidates if candidate.reason is None]
    refused = tuple(Refused(one.box, one.reason, one.said, one.support) for one in candidates if one.reason)
    return replace(
        answer,
        boxes=tuple(shape for shape in kept if isinstance(shape, Box)),
        polygons=tuple(shape for shape in kept if isinstance(shape, Polygon)),
        confirmation=Confirmation(len(kept), refused),
    )
