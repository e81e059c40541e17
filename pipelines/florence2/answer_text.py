"""Writes answers as the model writes them: the inverse of `parse`, for training examples."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, groupby

from pipelines.florence2.tasks import FLORENCE_TASKS, MODEL_TOKEN, location_tokens
from streamer.types import Answer, Box, Point, Polygon

MIN_CORNERS = 3
"""Corners of the smallest polygon."""


def answer_text(task: str, answer: Answer) -> str:
    """Return the text whose parsed form is `answer`, each location moved to the middle of its bin.

    Raises ValueError when the task's format cannot express the answer.
    """
    form = FLORENCE_TASKS[task].form
    match form:
        case "text":
            return _words(answer.text or "")
        case "boxes":
            return "".join(f"{_label(box.label)}{_box(box)}" for box in answer.boxes)
        case "phrases":  # a phrase is written once, before all its boxes
            groups = groupby(answer.boxes, lambda box: box.label)
            return "".join(_label(phrase) + "".join(map(_box, boxes)) for phrase, boxes in groups)
        case "regions":
            return "".join(map(_box, answer.boxes))
        case "polygons":
            return "<sep>".join(map(_polygon, answer.polygons))
        case "boxes_or_polygons":
            boxes = "".join(f"{_label(box.label)}{_box(box)}" for box in answer.boxes)
            shapes = "".join(f"{_label(shape.label)}<poly>{_polygon(shape)}</poly>" for shape in answer.polygons)
            return boxes + shapes
        case "quads":
            return "".join(_label(quad.label) + _points(quad.points) for quad in answer.quads)


def _box(box: Box) -> str:
    return location_tokens(box.x0, box.y0, box.x1, box.y1)


def _points(points: Iterable[Point]) -> str:
    return location_tokens(*chain.from_iterable(points))


def _polygon(shape: Polygon) -> str:
    if len(shape.points) < MIN_CORNERS:
        raise ValueError(f"a polygon has at least {MIN_CORNERS} corners")
    return _points(shape.points)


def _words(text: str) -> str:
    """Return the words without outer spaces. Raises ValueError if the tokenizer would read a token in them."""
    if token := MODEL_TOKEN.search(text):
        raise ValueError(f"`{token[0]}` is a token of the model, not a word")
    return text.strip()


def _label(text: str) -> str:
    if not (words := _words(text)):
        raise ValueError("a shape of this task needs a label")
    return words
