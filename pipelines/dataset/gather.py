"""Gathers a model's answers by picture, and turns them into labelled objects."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pipelines.dataset.annotations import Annotation, read_annotations
from pipelines.dataset.filters import AnsweredPicture, Objects
from pipelines.dataset.labels import Collector, LabelledObject, LabelledPicture, Labels, checked_label
from streamer.core.picture_files import size_of
from streamer.core.progress import tell
from streamer.types import Answer
from streamer.types.dataset import ANSWERS

DETECTION = "object_detection"
"""The task whose boxes become labels."""


def answered_pictures(path: Path, model: str | None = None) -> list[AnsweredPicture]:
    """Return the pictures of a file of answers, in its order. The newest answer to a question counts.

    `model`: name and hash of the model whose answers count; None: any. Raises ConfigError.
    """
    newest: dict[tuple[object, ...], Annotation] = {}
    for annotation in read_annotations(path, inside=True):
        if model not in (None, annotation.model):
            continue
        newest[annotation.image, annotation.task, annotation.text, annotation.region] = annotation
    by_image: dict[str, list[Annotation]] = defaultdict(list)
    for annotation in newest.values():
        by_image[annotation.image].append(annotation)
    return [_picture(image, some) for image, some in by_image.items()]


def _picture(image: str, annotations: Sequence[Annotation]) -> AnsweredPicture:
    answers: dict[str, Answer] = {}
    for one in annotations:
        before = answers.get(one.task)
        boxes = (before.boxes if before else ()) + one.answer.boxes
        polygons = (before.polygons if before else ()) + one.answer.polygons
        answers[one.task] = replace(one.answer, boxes=boxes, polygons=polygons)
    return AnsweredPicture(image, answers, annotations[0].stream, annotations[0].taken_at)


def detected_objects(pictures: Sequence[AnsweredPicture]) -> Objects:
    """Return the objects that the detection found in each picture, as a file of labels can have them.

    Raises ConfigError for a number that no model gives.
    """
    collector = Collector(Path(ANSWERS))
    return [[*_objects(collector, picture)] for picture in pictures]


def _objects(collector: Collector, picture: AnsweredPicture) -> Iterator[LabelledObject]:
    for box in picture.answers.get(DETECTION, Answer()).boxes:
        try:
            label = checked_label(box.label)
        except ValueError as error:
            tell(f"{picture.image}: an object is left out: {error}")
            continue
        found = collector.object(picture.image, label, (box.x0, box.y0, box.x1, box.y1), score=box.score)
        if found is not None:
            yield found


def labelled(folder: Path, pictures: Sequence[AnsweredPicture], objects: Objects) -> Labels:
    """Return labels of the pictures in a folder that were asked about objects. Raises ConfigError."""
    found = [
        LabelledPicture(picture.image, *size_of(folder / picture.image), tuple(some))
        for picture, some in zip(pictures, objects, strict=True)
        if DETECTION in picture.answers
    ]
    names = sorted({one.label for picture in found for one in picture.objects})
    return Labels(tuple(names), tuple(found))
