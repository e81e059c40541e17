"""Maps the places of an answer from a part of a picture to the whole picture."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from streamer.types import Answer, Box, Pixels, Point, Quad


def to_whole(answer: Answer, part: Pixels, width: int, height: int) -> Answer:
    """Return an answer about a part of a picture with its coordinates as fractions of the whole picture."""
    left, top, right, bottom = part

    def to_picture(x: float, y: float) -> Point:
        return (left + x * (right - left)) / width, (top + y * (bottom - top)) / height

    def box(old: Box) -> Box:
        (x0, y0), (x1, y1) = to_picture(old.x0, old.y0), to_picture(old.x1, old.y1)
        return replace(old, x0=x0, y0=y0, x1=x1, y1=y1)

    def points(old: Iterable[Point]) -> tuple[Point, ...]:
        return tuple(to_picture(x, y) for x, y in old)

    def quad(old: Quad) -> Quad:
        first, second, third, fourth = points(old.points)
        return replace(old, points=(first, second, third, fourth))

    confirmation = answer.confirmation
    return replace(
        answer,
        boxes=tuple(map(box, answer.boxes)),
        polygons=tuple(replace(old, points=points(old.points)) for old in answer.polygons),
        quads=tuple(map(quad, answer.quads)),
        spans=tuple(replace(span, boxes=tuple(map(box, span.boxes))) for span in answer.spans),
        confirmation=confirmation
        and replace(confirmation, refused=tuple(replace(one, box=box(one.box)) for one in confirmation.refused)),
    )
