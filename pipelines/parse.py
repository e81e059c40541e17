"""Reads what the model wrote. Pure; any text is accepted, and what makes no sense in it is left out.

An answer is a row of phrases: some words, then marks (`<loc_i>`, `<sep>`, `<poly>`, `</poly>`). A location stands
for the middle of its bin, as in the checkpoint's own processor, but stays a float instead of a whole pixel.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pipelines.tasks import BINS, Form
from streamer.types import Answer, Box, Point, Polygon, Quad

_FRAMING = re.compile(r"</?s>|<pad>")
# Tokens that Florence-2 knows and that carry nothing in an answer.
_IDLE = re.compile(
    r"<unk>|<mask>|<image>|<and>|<ground>|<obj>|"
    r"</?(?:od|ocr|cap|ncap|dcap|grounding|seg|region_cap|region_to_desciption|proposal|box|bbox)>"
)
_MARK = re.compile(r"<loc_([0-9]{1,4})>|<sep>|</?poly>")


@dataclass(slots=True)
class _Phrase:
    words: str
    runs: list[list[int]] = field(default_factory=lambda: [[]])
    """Bins of the locations; a mark that is no location starts a new run."""

    @property
    def marked(self) -> bool:
        return len(self.runs) > 1


def _phrases(text: str) -> Iterator[_Phrase]:
    text = _IDLE.sub("", text)
    phrase, end = _Phrase(""), 0
    for mark in _MARK.finditer(text):
        if words := text[end : mark.start()].strip():
            yield phrase
            phrase = _Phrase(words)
        end = mark.end()
        if mark[1] is None:
            phrase.runs.append([])
        else:
            phrase.runs[-1].append(int(mark[1]))
    yield phrase


def _points(bins: list[int]) -> list[Point] | None:
    """Pairs of coordinates, a last odd one ignored; None where a bin does not exist."""
    if any(index >= BINS for index in bins):
        return None
    places = [(index + 0.5) / BINS for index in bins]
    return list(zip(places[::2], places[1::2], strict=False))


def _boxes_of(phrase: _Phrase, label: str) -> Iterator[Box]:
    bins = phrase.runs[0]
    for start in range(0, len(bins) - 3, 4):
        points = _points(bins[start : start + 4])
        if points:
            (x0, y0), (x1, y1) = points
            if x0 <= x1 and y0 <= y1:
                yield Box(x0, y0, x1, y1, label)


def _polygons_of(phrase: _Phrase, label: str) -> Iterator[Polygon]:
    for run in phrase.runs:
        points = _points(run)
        if points and len(points) >= 3:
            yield Polygon(tuple(points), label)


def _text(text: str, banned: frozenset[str]) -> Answer:
    return Answer(text=text.strip())


def _boxes(text: str, banned: frozenset[str]) -> Answer:
    return Answer(boxes=tuple(box for part in _phrases(text) if part.words for box in _boxes_of(part, part.words)))


def _regions(text: str, banned: frozenset[str]) -> Answer:
    return Answer(boxes=tuple(box for part in _phrases(text) for box in _boxes_of(part, "")))


def _grounded(text: str, banned: frozenset[str]) -> Answer:
    parts = (part for part in _phrases(text) if part.words and part.words not in banned)
    return Answer(boxes=tuple(box for part in parts for box in _boxes_of(part, part.words)))


def _polygons(text: str, banned: frozenset[str]) -> Answer:
    return Answer(polygons=tuple(polygon for part in _phrases(text) for polygon in _polygons_of(part, "")))


def _boxes_or_polygons(text: str, banned: frozenset[str]) -> Answer:
    parts = [part for part in _phrases(text) if part.words]
    return Answer(
        boxes=tuple(box for part in parts if not part.marked for box in _boxes_of(part, part.words)),
        polygons=tuple(polygon for part in parts if part.marked for polygon in _polygons_of(part, part.words)),
    )


def _quads(text: str, banned: frozenset[str]) -> Answer:
    quads = []
    for part in _phrases(text):
        points = _points(part.runs[0][:8])
        if part.words and points and len(points) == 4:
            quads.append(Quad((points[0], points[1], points[2], points[3]), part.words))
    return Answer(quads=tuple(quads))


_READERS: dict[Form, Callable[[str, frozenset[str]], Answer]] = {
    "text": _text,
    "boxes": _boxes,
    "regions": _regions,
    "phrases": _grounded,
    "polygons": _polygons,
    "boxes_or_polygons": _boxes_or_polygons,
    "quads": _quads,
}


def parse(form: Form, text: str, banned: frozenset[str] = frozenset()) -> Answer:
    """The answer in `text`, which is the decoded tokens, special ones included.

    Boxes without words, with their corners swapped or cut short are left out, and so are polygons of fewer than
    three points. `banned` are the words a grounded phrase must not consist of. Never raises.
    """
    return _READERS[form](_FRAMING.sub("", text), banned)
