"""Makes training examples of several tasks from the labelled objects of pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pipelines.dataset.labels import LabelledObject, LabelledPicture
from pipelines.florence2.examples import Example
from streamer.types import Answer, Box, Polygon, Region

MIN_SIDE = 0.01
"""Fraction of the picture below which an object gets no question about its region."""


def examples(picture: LabelledPicture, tasks: Iterable[str]) -> Iterator[Example]:
    """Yield the examples of one picture for each task that labelled objects can answer. Raises ValueError for others.

    Objects stand in reading order, as in the checkpoint's own training data: from top to bottom, then left to right.
    """
    objects = sorted(picture.objects, key=lambda one: (one.box[1], one.box[0]))
    for task in tasks:
        match task:
            case "object_detection":
                yield Example(picture.file, task, Answer(boxes=_boxes(objects)))
            case "region_proposal":
                unnamed = tuple(Box(*one.box, "") for one in objects)
                yield Example(picture.file, task, Answer(boxes=unnamed))
            case "open_vocabulary_detection" | "phrase_grounding":
                for label in sorted({one.label for one in objects}):
                    boxes = _boxes([one for one in objects if one.label == label])
                    yield Example(picture.file, task, Answer(boxes=boxes), text=label)
            case "region_to_category":
                for one in objects:
                    if min(one.box[2] - one.box[0], one.box[3] - one.box[1]) >= MIN_SIDE:
                        yield Example(picture.file, task, Answer(text=one.label), region=Region(*one.box))
            case "referring_segmentation":
                yield from _outlines(picture, objects)
            case _:
                raise ValueError(f"labelled objects say nothing about the task {task}")


def _outlines(picture: LabelledPicture, objects: Sequence[LabelledObject]) -> Iterator[Example]:
    """Yield an example per label of which all objects have outlines."""
    for label in sorted({one.label for one in objects}):
        some = [one for one in objects if one.label == label]
        if all(one.outline for one in some):
            shapes = tuple(Polygon(part, "") for one in some for part in one.outline)
            yield Example(picture.file, "referring_segmentation", Answer(polygons=shapes), text=label)


def _boxes(objects: Sequence[LabelledObject]) -> tuple[Box, ...]:
    return tuple(Box(*one.box, one.label) for one in objects)
