"""Runs a task in overlapping tiles of a picture, and merges the shapes that it finds. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from math import ceil
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, Field

from pipelines.florence2.composite import Question, Stages
from streamer.core.boxes import Rect, area, intersection, iou
from streamer.core.places import to_whole
from streamer.core.settings import Settings
from streamer.types import Answer, Box, Image, Job, Pixels, Polygon, Quad

MAX_TILES = 4
"""Largest number of columns and of rows."""
SAME_IOU = 0.5
"""Overlap from which on two shapes of different pictures are one object."""
CUT_SHARE = 0.7
"""Part of a cut shape that lies in another one, from which on it is a piece of that object."""
EDGE = 0.005
"""Distance from the edge of a tile within which a shape is cut, as a fraction of the tile: five location tokens."""

LABELLED = ("object_detection", "open_vocabulary_detection")
"""Tasks whose labels are kinds: shapes with different labels are different objects. The labels of the other tasks are
texts, which differ from picture to picture."""

Shape = Box | Polygon | Quad


def _grid(value: Any) -> tuple[int, int]:
    """Return columns and rows of a text such as `2x2`. Raises ValueError."""
    if isinstance(value, tuple):
        return value
    found = re.fullmatch(rf"([1-{MAX_TILES}])x([1-{MAX_TILES}])", value) if isinstance(value, str) else None
    if found is None or value == "1x1":
        raise ValueError(f"must be columns x rows, such as 2x2, at most {MAX_TILES}x{MAX_TILES}")
    return int(found[1]), int(found[2])


class Tiles(Settings):
    """Division of a picture into tiles."""

    grid: Annotated[tuple[int, int], BeforeValidator(_grid, json_schema_input_type=str)]
    """Columns x rows: `2x2`, at most `4x4`."""
    overlap: float = Field(0.2, ge=0, le=0.5)
    """Overlap of neighbours, as a fraction of a tile. Objects that are smaller are whole in at least one tile."""
    whole: bool = True
    """Run on the whole picture too, for objects that are larger."""

    @property
    def pictures(self) -> int:
        """Number of pictures that the model sees."""
        return self.grid[0] * self.grid[1] + self.whole

    def parts(self, width: int, height: int) -> list[Pixels]:
        """Return the pixels of each picture: the whole one, then the tiles row by row."""
        columns, rows = _spans(self.grid[0], width, self.overlap), _spans(self.grid[1], height, self.overlap)
        tiles = [(left, top, right, bottom) for top, bottom in rows for left, right in columns]
        return [(0, 0, width, height), *tiles] if self.whole else tiles


TilesField = Annotated[
    Tiles,
    BeforeValidator(
        lambda value: {"grid": value} if isinstance(value, str) else value, json_schema_input_type=str | Tiles
    ),
]


def _spans(count: int, size: int, overlap: float) -> list[tuple[int, int]]:
    """Return start and end of equal parts that cover `size` pixels."""
    length = max(1, ceil(size / (count - (count - 1) * overlap)))
    starts = [round(index * (size - length) / max(1, count - 1)) for index in range(count)]
    return [(start, start + length) for start in starts]


def over_tiles(stages: Stages, job: Job, tiles: Tiles) -> Stages:
    """Ask each question of the job's own kind in each tile, and give `stages` the merged answers."""
    image, kind = job.frame.image, job.due.task.task
    height, width = image.shape[:2]
    parts = tiles.parts(width, height)
    views: list[Image] = [image[top:bottom, left:right] for left, top, right, bottom in parts]
    questions = next(stages)
    while True:
        asked = list(_in_views(questions, kind, views))
        replies = yield [question for _, question in asked]
        by_question = groupby(zip(asked, replies, strict=True), lambda pair: pair[0][0])
        groups = [[reply for _, reply in group] for _, group in by_question]
        answers = [
            merged(group, parts, width, height, kind in LABELLED) if len(group) > 1 else group[0] for group in groups
        ]
        try:
            questions = stages.send(answers)
        except StopIteration as end:
            answer: Answer = end.value
            return answer


def _in_views(questions: Sequence[Question], kind: str, views: Sequence[Image]) -> Iterator[tuple[int, Question]]:
    """Yield the questions to ask, each with the number of the question that it is a part of."""
    for number, question in enumerate(questions):
        if question.task != kind:
            yield number, question
            continue
        for index, view in enumerate(views):
            about = f"{question.about}, " if question.about else ""
            yield number, question._replace(about=f"{about}picture {index + 1} of {len(views)}", image=view)


class _Found(NamedTuple):
    shape: Shape
    rect: Rect
    """Bounding box in the whole picture."""
    picture: int
    is_cut: bool
    """It touches an edge of its tile that is not one of the picture."""

    @property
    def rank(self) -> tuple[bool, float]:
        return self.is_cut, -(self.shape.score or 0.0)


def merged(answers: Sequence[Answer], parts: Sequence[Pixels], width: int, height: int, by_label: bool) -> Answer:
    """Return one answer with the shapes of all pictures, each object once.

    Whole shapes come before cut ones, then better scores before lower ones. A shape is left out if one that was kept
    from another picture, with `by_label` of the same label, overlaps it by SAME_IOU, or if it is cut and lies in that
    one by CUT_SHARE. Shapes of one picture are all kept: the model means different objects.
    """
    found = [
        shape
        for number, (answer, part) in enumerate(zip(answers, parts, strict=True))
        for shape in _found(number, answer, part, width, height)
    ]
    kept: list[_Found] = []
    for one in sorted(found, key=lambda one: one.rank):
        if not any(_is_same(one, other, by_label) for other in kept):
            kept.append(one)
    shapes = [one.shape for one in found if any(one is other for other in kept)]
    return Answer(
        boxes=tuple(shape for shape in shapes if isinstance(shape, Box)),
        polygons=tuple(shape for shape in shapes if isinstance(shape, Polygon)),
        quads=tuple(shape for shape in shapes if isinstance(shape, Quad)),
    )


def _found(number: int, answer: Answer, part: Pixels, width: int, height: int) -> Iterator[_Found]:
    left, top, right, bottom = part
    edges = left > 0, top > 0, right < width, bottom < height
    placed = to_whole(answer, part, width, height)
    for inside, shape in zip(_shapes(answer), _shapes(placed), strict=True):
        x0, y0, x1, y1 = _rect(inside)
        near = x0 <= EDGE, y0 <= EDGE, x1 >= 1 - EDGE, y1 >= 1 - EDGE
        is_cut = any(edge and touches for edge, touches in zip(edges, near, strict=True))
        yield _Found(shape, _rect(shape), number, is_cut)


def _shapes(answer: Answer) -> tuple[Shape, ...]:
    return *answer.boxes, *answer.polygons, *answer.quads


def _rect(shape: Shape) -> Rect:
    if isinstance(shape, Box):
        return shape.x0, shape.y0, shape.x1, shape.y1
    xs, ys = zip(*shape.points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _is_same(one: _Found, kept: _Found, by_label: bool) -> bool:
    if one.picture == kept.picture or (by_label and one.shape.label != kept.shape.label):
        return False
    if iou(one.rect, kept.rect) >= SAME_IOU:
        return True
    return one.is_cut and intersection(one.rect, kept.rect) >= CUT_SHARE * max(area(one.rect), 1e-12)
