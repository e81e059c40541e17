"""Parses generated text into answers. Pure functions; they accept any text and leave out malformed parts.

An answer is a sequence of phrases: words, then marks (`<loc_i>`, `<sep>`, `<poly>`, `</poly>`). A location is the
middle of its bin, as in the checkpoint's own processor, but as a float instead of a whole pixel.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

from pipelines.florence2.scores import shape_score, text_score
from pipelines.florence2.tasks import BINS, Form
from streamer.types import Answer, Box, Point, Polygon, Quad

_FRAMING = re.compile(r"</?s>|<pad>")
# Special tokens of Florence-2 without a meaning in an answer.
_IDLE = re.compile(
    r"</?s>|<pad>|<unk>|<mask>|<image>|<and>|<ground>|<obj>|"
    r"</?(?:od|ocr|cap|ncap|dcap|grounding|seg|region_cap|region_to_desciption|proposal|box|bbox)>"
)
_MARK = re.compile(r"<loc_([0-9]{1,4})>|<sep>|</?poly>")


class Piece(NamedTuple):
    """One mark, or the words between two marks, with the uncertainty of its tokens."""

    text: str
    uncertainty: tuple[float, ...] = ()


class _Location(NamedTuple):
    bin: int
    error: float | None
    """Expected error in bins; None when unknown."""


@dataclass(slots=True)
class _Phrase:
    words: str
    uncertainty: list[float] = field(default_factory=list)
    """Uncertainty of the words' tokens."""
    runs: list[list[_Location]] = field(default_factory=lambda: [[]])
    """Consecutive locations; a mark that is no location starts a new run."""

    @property
    def marked(self) -> bool:
        return len(self.runs) > 1

    def score(self, corners: Sequence[_Location]) -> float | None:
        """Return the score of the phrase's shape with these corners."""
        errors = [corner.error for corner in corners if corner.error is not None]
        return shape_score(self.uncertainty, [corner.bin for corner in corners], errors)


def _phrases(pieces: Sequence[Piece]) -> Iterator[_Phrase]:
    pieces = [Piece(_IDLE.sub("", piece.text), piece.uncertainty) for piece in pieces]
    text = "".join(piece.text for piece in pieces)
    ends = list(accumulate(len(piece.text) for piece in pieces))

    def uncertainty(start: int, end: int) -> list[float]:
        """Return the uncertainty of the pieces that overlap text[start:end]."""
        touched = pieces[bisect_right(ends, start) : bisect_left(ends, end) + 1]
        return [value for piece in touched if piece.text for value in piece.uncertainty]

    phrase, end = _Phrase(""), 0
    for mark in _MARK.finditer(text):
        if words := text[end : mark.start()].strip():
            yield phrase
            phrase = _Phrase(words, uncertainty(end, mark.start()))
        end = mark.end()
        if mark[1] is None:
            phrase.runs.append([])
        else:
            errors = uncertainty(*mark.span())
            phrase.runs[-1].append(_Location(int(mark[1]), sum(errors) if errors else None))
    yield phrase


def _points(locations: Sequence[_Location]) -> list[Point] | None:
    """Return pairs of coordinates, without an odd last one; None when a bin does not exist."""
    if any(location.bin >= BINS for location in locations):
        return None
    middles = [(location.bin + 0.5) / BINS for location in locations]
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


def _quads_of(phrase: _Phrase) -> Iterator[Quad]:
    corners = phrase.runs[0][:8]
    points = _points(corners)
    if points and len(corners) == 8:
        yield Quad((points[0], points[1], points[2], points[3]), phrase.words, phrase.score(corners))


def _text(pieces: Sequence[Piece]) -> Answer:
    kept = [piece for piece in pieces if not _FRAMING.fullmatch(piece.text)]
    text = _FRAMING.sub("", "".join(piece.text for piece in kept)).strip()
    return Answer(text=text, score=text_score([value for piece in kept for value in piece.uncertainty]))


def parse(form: Form, answer: str | Sequence[Piece], banned: frozenset[str] = frozenset()) -> Answer:
    """Parse the decoded tokens, special ones included, given as one text or as pieces. Never raises.

    Boxes without a label, with swapped or missing corners, and polygons of fewer than three points are left out.
    Phrases in `banned` are not grounded. Scores are None unless the pieces carry `uncertainty`.
    """
    pieces = [Piece(answer)] if isinstance(answer, str) else answer
    if form == "text":
        return _text(pieces)
    phrases = list(_phrases(pieces))
    labelled = [phrase for phrase in phrases if phrase.words]
    match form:
        case "boxes":
            return Answer(boxes=tuple(box for one in labelled for box in _boxes_of(one, one.words)))
        case "regions":
            return Answer(boxes=tuple(box for one in phrases for box in _boxes_of(one, "")))
        case "phrases":
            grounded = [one for one in labelled if one.words not in banned]
            return Answer(boxes=tuple(box for one in grounded for box in _boxes_of(one, one.words)))
        case "polygons":
            return Answer(polygons=tuple(polygon for one in phrases for polygon in _polygons_of(one, "")))
        case "boxes_or_polygons":
            return Answer(
                boxes=tuple(box for one in labelled if not one.marked for box in _boxes_of(one, one.words)),
                polygons=tuple(shape for one in labelled if one.marked for shape in _polygons_of(one, one.words)),
            )
        case "quads":
            return Answer(quads=tuple(quad for one in labelled for quad in _quads_of(one)))
