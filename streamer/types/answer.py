"""The parts of a model's answer. Other modules import them from `streamer.types`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Box:
    x0: float
    y0: float
    x1: float
    y1: float
    label: str
    score: float | None = None
    track: int | None = None
    """Track id, equal for one object in all results of a task from its second detection on."""


@dataclass(frozen=True, slots=True)
class Polygon:
    points: tuple[Point, ...]
    label: str
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Quad:
    """Four corners around a text, clockwise from the top left of the text."""

    points: tuple[Point, Point, Point, Point]
    label: str
    score: float | None = None


Refusal = Literal["small", "most", "words", "score"]
"""Reason why a shape was not confirmed: a side under 8 pixels, more shapes than are looked at, words of the model that
name something else, a low score."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A shape that the second look (`confirm`) has removed from an answer."""

    box: Box
    """Its bounding box."""
    reason: Refusal
    said: str | None = None
    """The model's words about its region; None if it was not asked."""
    support: float | None = None
    """Score of the second look, 0 to 1; None if the model was not asked."""


@dataclass(frozen=True, slots=True)
class Confirmation:
    """The outcome of a second look at an answer."""

    confirmed: int
    """Shapes that are left in the answer."""
    refused: tuple[Refused, ...] = ()


@dataclass(frozen=True, slots=True)
class Span:
    """A phrase of an answer's text, and where the picture shows what it names."""

    start: int
    end: int
    """The phrase is text[start:end]."""
    boxes: tuple[Box, ...]
    """Places that show it."""
    score: float | None
    is_supported: bool
    """False: the picture does not show what the phrase names, or another number of it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The parsed answer of the model. A task fills the fields of its result kind and leaves the others empty."""

    text: str | None = None
    score: float | None = None
    boxes: tuple[Box, ...] = ()
    polygons: tuple[Polygon, ...] = ()
    quads: tuple[Quad, ...] = ()
    spans: tuple[Span, ...] = ()
    """Phrases of `text` that were searched for in the picture, in their order."""
    confirmation: Confirmation | None = None
    """Set if there was a second look at the shapes."""

    @property
    def is_empty(self) -> bool:
        return not (self.text or self.boxes or self.polygons or self.quads)
