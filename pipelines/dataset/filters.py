"""Filters of a model's labels: each removes objects that are probably wrong, and says how many of which label.

A filter is a pure function of the pictures and their objects. They run one after the other; `FilterTable` keeps what
each has removed and why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from pipelines.dataset.labels import LabelledObject
from streamer.core.boxes import Rect, area, covered, iou
from streamer.types import Answer, Point

Objects = list[list[LabelledObject]]
"""The objects of each picture, in the order of the pictures."""


@dataclass(frozen=True, slots=True)
class AnsweredPicture:
    """One picture with all answers about it."""

    image: str
    answers: Mapping[str, Answer]
    """Answers by task; of several answers of one task, with different texts, the shapes of all."""
    stream: str | None = None
    taken_at: float | None = None


Filter = Callable[[Sequence[AnsweredPicture], Objects], Objects]
"""Returns the objects that stay, or are added."""


@dataclass(frozen=True, slots=True)
class FilterRow:
    """Outcome of one filter."""

    name: str
    why: str
    removed: Mapping[str, int]
    """Number of removed objects by label."""
    added: Mapping[str, int]
    kept: int


@dataclass(slots=True)
class FilterTable:
    """The rows of all filters, and the objects that they removed."""

    rows: list[FilterRow] = field(default_factory=list)
    removed: dict[tuple[int, LabelledObject], str] = field(default_factory=dict)
    """Name of the filter by number of the picture and object."""


@dataclass(frozen=True, slots=True)
class Step:
    """A filter with its name and reason, as they stand in the table."""

    name: str
    why: str
    apply: Filter


def run(steps: Sequence[Step], pictures: Sequence[AnsweredPicture], objects: Objects) -> tuple[Objects, FilterTable]:
    """Return the objects that are left after all filters, and what each has done."""
    table = FilterTable()
    for step in steps:
        left = step.apply(pictures, objects)
        removed: Counter[str] = Counter()
        added: Counter[str] = Counter()
        for number, (before, after) in enumerate(zip(objects, left, strict=True)):
            for one in set(before) - set(after):
                removed[one.label] += 1
                table.removed[number, one] = step.name
            added.update(one.label for one in set(after) - set(before))
        table.rows.append(FilterRow(step.name, step.why, removed, added, sum(map(len, left))))
        objects = left
    return objects, table


def by_score(least: float, by_label: Mapping[str, float] | None = None) -> Step:
    """Remove objects with a low score; `by_label` has limits of single labels. Objects without a score stay."""
    limits = by_label or {}

    def apply(_: Sequence[AnsweredPicture], objects: Objects) -> Objects:
        return [
            [one for one in some if one.score is None or one.score >= limits.get(one.label, least)] for some in objects
        ]

    return Step("score", f"score below {least:g}" + (" or the limit of its label" if limits else ""), apply)


def by_label(refused: Sequence[str]) -> Step:
    """Remove objects with one of the labels."""
    names = frozenset(refused)

    def apply(_: Sequence[AnsweredPicture], objects: Objects) -> Objects:
        return [[one for one in some if one.label not in names] for some in objects]

    return Step("label", f"label in {', '.join(sorted(names))}", apply)


def by_size(least: float = 0.01, most: float = 0.95) -> Step:
    """Remove objects whose longer side is under `least`, or both of whose sides are over `most` of the picture."""

    def fits(box: Rect) -> bool:
        width, height = box[2] - box[0], box[3] - box[1]
        return max(width, height) >= least and min(width, height) <= most

    def apply(_: Sequence[AnsweredPicture], objects: Objects) -> Objects:
        return [[one for one in some if fits(one.box)] for some in objects]

    return Step("size", f"longer side under {least:g}, or both over {most:g} of the picture", apply)


@dataclass(frozen=True, slots=True)
class Area:
    """A part of the pictures of a camera, such as a screen or a poster."""

    corners: tuple[Point, ...]
    """At least three, in fractions of the picture."""
    stream: str | None = None
    """None: of all pictures."""


def by_place(refused: Sequence[Area], share: float = 0.5) -> Step:
    """Remove objects of which more than `share` lies in a refused area."""

    def stays(picture: AnsweredPicture, box: Rect) -> bool:
        areas = (one.corners for one in refused if one.stream in (None, picture.stream))
        return all(covered(box, corners) <= share * area(box) for corners in areas)

    def apply(pictures: Sequence[AnsweredPicture], objects: Objects) -> Objects:
        return [
            [one for one in some if stays(picture, one.box)] for picture, some in zip(pictures, objects, strict=True)
        ]

    return Step("place", f"more than {share:.0%} of it in a refused area", apply)


def by_overlap(same: float = 0.6, other: float = 0.85) -> Step:
    """Keep the best of objects that overlap: IoU of at least `same` with the same label, `other` with another label."""

    def apply(_: Sequence[AnsweredPicture], objects: Objects) -> Objects:
        return [_suppressed(some, same, other) for some in objects]

    return Step("overlap", f"a better one has IoU {same:g} (same label) or {other:g} with it", apply)


def _suppressed(objects: Sequence[LabelledObject], same: float, other: float) -> list[LabelledObject]:
    kept: list[LabelledObject] = []
    for one in sorted(objects, key=lambda one: one.certainty, reverse=True):
        if all(iou(one.box, better.box) < (same if one.label == better.label else other) for better in kept):
            kept.append(one)
    return [one for one in objects if one in kept]


def by_agreement(tasks: Sequence[str], least: float = 0.5, needed: int = 1) -> Step:
    """Remove objects that fewer than `needed` of other tasks found too, with an IoU of at least `least`.

    A shape with words must share a word with the label; one without words, such as a region proposal, always agrees.
    """

    def agrees(one: LabelledObject, answer: Answer) -> bool:
        return any(
            iou(one.box, (box.x0, box.y0, box.x1, box.y1)) >= least
            and (not box.label or set(one.label.split()) <= set(box.label.split()))
            for box in answer.boxes
        )

    def apply(pictures: Sequence[AnsweredPicture], objects: Objects) -> Objects:
        return [
            [
                one
                for one in some
                if sum(agrees(one, picture.answers[task]) for task in tasks if task in picture.answers) >= needed
            ]
            for picture, some in zip(pictures, objects, strict=True)
        ]

    names = ", ".join(tasks)
    return Step(
        "agreement",
        f"not found by {names}" if needed == len(tasks) == 1 else f"found by fewer than {needed} of {names}",
        apply,
    )


def by_tracks(max_gap: float, reach: float = 1.0) -> Step:
    """Remove objects that no neighbouring picture of the same camera shows, and add those that one picture misses.

    `max_gap`: seconds between two pictures that can show the same object. `reach`: the distance, in sizes of the
    object, that it can move between them. A picture without neighbours keeps its objects.
    """

    def apply(pictures: Sequence[AnsweredPicture], objects: Objects) -> Objects:
        neighbours = _neighbours(pictures, max_gap)
        left: Objects = []
        for number, some in enumerate(objects):
            near = [objects[other] for other in neighbours[number]]
            kept = [one for one in some if not near or any(_follows(one, others, reach) for others in near)]
            if len(near) == 2:
                kept += _missed(kept, near[0], near[1], reach)
            left.append(kept)
        return left

    return Step("tracks", f"in no picture within {max_gap:g} s before or after", apply)


def _neighbours(pictures: Sequence[AnsweredPicture], max_gap: float) -> dict[int, list[int]]:
    """Return the numbers of the pictures just before and after each one, of its camera and near in time."""
    order = sorted(
        (number for number, picture in enumerate(pictures) if picture.taken_at is not None),
        key=lambda number: (pictures[number].stream or "", pictures[number].taken_at or 0.0),
    )
    found: dict[int, list[int]] = {number: [] for number in range(len(pictures))}
    for a, b in pairwise(order):
        gap = (pictures[b].taken_at or 0.0) - (pictures[a].taken_at or 0.0)
        if pictures[a].stream == pictures[b].stream and gap <= max_gap:
            found[a].append(b)
            found[b].append(a)
    return found


def _follows(one: LabelledObject, others: Sequence[LabelledObject], reach: float) -> LabelledObject | None:
    """Return the object that may be the same one: the nearest of its label, of like size, within reach."""
    best: tuple[float, LabelledObject] | None = None
    for other in others:
        if other.label != one.label:
            continue
        sizes = [max(box[2] - box[0], box[3] - box[1]) for box in (one.box, other.box)]
        distance = max(
            abs(a0 + a1 - b0 - b1) / 2
            for a0, a1, b0, b1 in ((*one.box[0::2], *other.box[0::2]), (*one.box[1::2], *other.box[1::2]))
        )
        if max(sizes) <= 2 * min(sizes) and distance <= reach * max(sizes) and (best is None or distance < best[0]):
            best = distance, other
    return best[1] if best else None


def _missed(
    kept: Sequence[LabelledObject], before: Sequence[LabelledObject], after: Sequence[LabelledObject], reach: float
) -> list[LabelledObject]:
    """Return objects that are in the pictures before and after and not in this one, half-way between."""
    found = []
    for one in before:
        other = _follows(one, after, 2 * reach)
        if other is None:
            continue
        box: Rect = tuple((a + b) / 2 for a, b in zip(one.box, other.box, strict=True))  # type: ignore[assignment]
        score = None if one.score is None or other.score is None else min(one.score, other.score)
        middle = LabelledObject(one.label, box, score=score)
        if all(iou(box, there.box) < 0.3 for there in kept) and not _follows(middle, kept, reach):
            found.append(middle)
    return found
