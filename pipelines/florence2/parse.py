"""Reads what the model wrote. Pure; any text is accepted, and what makes no sense in it is left out.

An answer is a row of phrases: some words, then marks (`<loc_i>`, `<sep>`, `<poly>`, `</poly>`). A location stands
for the middle of its bin, as in the checkpoint's own processor, but stays a float instead of a whole pixel.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

from pipelines.florence2.scores import shape_score, text_score
from pipelines.florence2.tasks import BINS, Form
from streamer.types import Answer, Box, Point, Polygon, Quad

_FRAMING = re.compile(r"</?s>|<pad>")
# Tokens that Florence-2 knows and that carry nothing in an answer.
_IDLE = re.compile(
    r"</?s>|<pad>|<unk>|<mask>|<image>|<and>|<ground>|<obj>|"
    r"</?(?:od|ocr|cap|ncap|dcap|grounding|seg|region_cap|region_to_desciption|proposal|box|bbox)>"
)
_MARK = re.compile(r"<loc_([0-9]{1,4})>|<sep>|</?poly>")


class Piece(NamedTuple):
    """One mark, or the words between two, with the doubts about its tokens."""

    text: str
    uncertainty: tuple[float, ...] = ()


class _Place(NamedTuple):
    """One location."""

    bin: int
    off: float | None
    """Bins it is expected to be off; None where nothing is known."""


@dataclass(slots=True)
class _Phrase:
    words: str
    doubts: list[float] = field(default_factory=list)
    """Of the words' tokens."""
    runs: list[list[_Place]] = field(default_factory=lambda: [[]])
    """Locations; a mark that is no location starts a new run."""

    @property
    def marked(self) -> bool:
        return len(self.runs) > 1

    def score(self, places: Sequence[_Place]) -> float | None:
        """Of the phrase's shape with these corners."""
        off = [place.off for place in places if place.off is not None]
        return shape_score(self.doubts, [place.bin for place in places], off)


def _phrases(pieces: Sequence[Piece]) -> Iterator[_Phrase]:
    pieces = [Piece(_IDLE.sub("", piece.text), piece.uncertainty) for piece in pieces]
    text = "".join(piece.text for piece in pieces)
    ends = list(accumulate(len(piece.text) for piece in pieces))

    def doubts(start: int, end: int) -> list[float]:
        """Of the pieces that have a part between two places of the text."""
        touched = pieces[bisect_right(ends, start) : bisect_left(ends, end) + 1]
        return [doubt for piece in touched if piece.text for doubt in piece.uncertainty]

    phrase, end = _Phrase(""), 0
    for mark in _MARK.finditer(text):
        if words := text[end : mark.start()].strip():
            yield phrase
            phrase = _Phrase(words, doubts(end, mark.start()))
        end = mark.end()
        if mark[1] is None:
            phrase.runs.append([])
        else:
            off = doubts(*mark.span())
            phrase.runs[-1].append(_Place(int(mark[1]), sum(off) if off else None))
    yield phrase


def _points(places: Sequence[_Place]) -> list[Point] | None:
    """Pairs of coordinates, a last odd one ignored; None where a bin does not exist."""
    if any(place.bin >= BINS for place in places):
        return None
    middles = [(place.bin + 0.5) / BINS for place in places]
    return list(zip(middles[::2], middles[1::2], strict=False))


def _boxes_of(phrase: _Phrase, label: str) -> Iterator[Box]:
    for run in phrase.runs:
        for start in range(0, len(run) - 3, 4):
            corners = run[start : start + 4]
            if points := _points(corners):
                (x0, y0), (x1, y1) = points
                if x0 <= x1 and y0 <= y1:
                    yield Box(x0, y0, x1, y1, label, phrase.score(corners))


def _polygons_of(phrase: _Phrase, label: str) -> Iterator[Polygon]:
    for run in phrase.runs:
        points = _points(run)
        if points and len(points) >= 3:
            yield Polygon(tuple(points), label, phrase.score(run[: 2 * len(points)]))


def _text(pieces: Sequence[Piece], banned: frozenset[str]) -> Answer:
    kept = [piece for piece in pieces if not _FRAMING.fullmatch(piece.text)]
    text = _FRAMING.sub("", "".join(piece.text for piece in kept)).strip()
    return Answer(text=text, score=text_score([doubt for piece in kept for doubt in piece.uncertainty]))


def _boxes(pieces: Sequence[Piece], banned: frozenset[str]) -> Answer:
    return Answer(boxes=tuple(box for part in _phrases(pieces) if part.words for box in _boxes_of(part, part.words)))


def _regions(pieces: Sequence[Piece], banned: frozenset[str]) -> Answer:
    return Answer(boxes=tuple(box for part in _phrases(pieces) for box in _boxes_of(part, "")))


def _grounded(pieces: Sequence[Piece], banned: frozenset[str]) -> Answer:
    parts = (part for part in _phrases(pieces) if part.words and part.words not in banned)
    return Answer(boxes=tuple(box for part in parts for box in _boxes_of(part, part.words)))


def _polygons(pieces: Sequence[Piece], banned: frozenset[str]) -> Answer:
    return Answer(polygons=tuple(polygon for part in _phrases(pieces) for polygon in _polygons_of(part, "")))


def _boxes_or_polygons(pieces: Sequence[Piece], banned: frozenset[str]) -> Answer:
    parts = [part for part in _phrases(pieces) if part.words]
    return Answer(
        boxes=tuple(box for part in parts if not part.marked for box in _boxes_of(part, part.words)),
        polygons=tuple(polygon for part in parts if part.marked for polygon in _polygons_of(part, part.words)),
    )


def _quads(pieces: Sequence[Piece], banned: frozenset[str]) -> Answer:
    quads = []
    for part in _phrases(pieces):
        corners = part.runs[0][:8]
        points = _points(corners)
        if part.words and points and len(corners) == 8:
            quads.append(Quad((points[0], points[1], points[2], points[3]), part.words, part.score(corners)))
    return Answer(quads=tuple(quads))


_READERS: dict[Form, Callable[[Sequence[Piece], frozenset[str]], Answer]] = {
    "text": _text,
    "boxes": _boxes,
    "regions": _regions,
    "phrases": _grounded,
    "polygons": _polygons,
    "boxes_or_polygons": _boxes_or_polygons,
    "quads": _quads,
}


def parse(form: Form, answer: str | Sequence[Piece], banned: frozenset[str] = frozenset()) -> Answer:
    """What `answer` says: the decoded tokens, special ones included, as one text or piece by piece.

    Boxes without words, with their corners swapped or cut short are left out, and so are polygons of fewer than
    three points. `banned` are the words a grounded phrase must not consist of. There are scores where the pieces have
    doubts (`pipelines.doubt`). Never raises.
    """
    return _READERS[form]([Piece(answer)] if isinstance(answer, str) else answer, banned)
