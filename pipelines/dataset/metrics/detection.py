"""Precision, recall and average precision of boxes.

Boxes are matched greedily from the best score on, each with the object of its label that it overlaps most, as in COCO.
Average precision is COCO's: precision at 101 recalls, each the highest at this recall or above.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.dataset.labels import LabelledObject
from streamer.core.boxes import iou

IOUS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""Overlaps over which COCO's AP is the mean."""
RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True, slots=True)
class Match:
    """One found box."""

    score: float
    is_right: bool


@dataclass(frozen=True, slots=True)
class LabelScore:
    """Result for one label."""

    expected: int
    """Objects in the truth."""
    found: int
    right: int
    """Found boxes that match an object; as many objects are matched."""
    ap50: float | None
    """Average precision at IoU 0.5; None without objects."""
    ap: float | None
    """Mean of the average precisions at IoU 0.5 to 0.95."""

    @property
    def precision(self) -> float:
        return self.right / self.found if self.found else 1.0

    @property
    def recall(self) -> float:
        return self.right / self.expected if self.expected else 1.0

    @property
    def f1(self) -> float:
        total = self.found + self.expected
        return 2 * self.right / total if total else 1.0


Pictures = Sequence[tuple[Sequence[LabelledObject], Sequence[LabelledObject]]]
"""Found and true objects of each picture."""


def score_labels(pictures: Pictures) -> dict[str, LabelScore]:
    """Return the results by label, in alphabetical order."""
    labels = sorted({one.label for found, truth in pictures for one in (*found, *truth)})
    scores = {}
    for label in labels:
        of_label = _of_label(pictures, label)
        expected = sum(len(truth) for _, truth in of_label)
        matches = {least: matched(of_label, least) for least in IOUS}
        at_50 = matches[0.5]
        precisions = [average_precision(found, expected) for found in matches.values()]
        scores[label] = LabelScore(
            expected,
            len(at_50),
            sum(match.is_right for match in at_50),
            precisions[0] if expected else None,
            sum(precisions) / len(precisions) if expected else None,
        )
    return scores


def overall(scores: Mapping[str, LabelScore]) -> LabelScore:
    """Return the sums of counts and the means of the labels' average precisions."""
    known = [score for score in scores.values() if score.ap50 is not None and score.ap is not None]

    def mean(values: Iterable[float | None]) -> float | None:
        return sum(value or 0.0 for value in values) / len(known) if known else None

    return LabelScore(
        sum(score.expected for score in scores.values()),
        sum(score.found for score in scores.values()),
        sum(score.right for score in scores.values()),
        mean(score.ap50 for score in known),
        mean(score.ap for score in known),
    )


def matched(pictures: Pictures, least: float = 0.5) -> list[Match]:
    """Return each found box of one label, with whether it matches an object at an IoU of at least `least`."""
    matches = []
    for found, truth in pictures:
        free = list(truth)
        for one in sorted(found, key=lambda one: one.certainty, reverse=True):
            overlaps = [iou(one.box, other.box) for other in free]
            best = max(range(len(free)), key=overlaps.__getitem__, default=None)
            is_right = best is not None and overlaps[best] >= least
            if is_right and best is not None:
                free.pop(best)
            matches.append(Match(one.certainty, is_right))
    return matches


def matched_by_label(pictures: Pictures, least: float = 0.5) -> dict[str, list[Match]]:
    """Return the found boxes of each label, in alphabetical order, with whether they match an object of it."""
    labels = sorted({one.label for found, truth in pictures for one in (*found, *truth)})
    return {label: matched(_of_label(pictures, label), least) for label in labels}


def _of_label(pictures: Pictures, label: str) -> Pictures:
    return [
        ([one for one in found if one.label == label], [one for one in truth if one.label == label])
        for found, truth in pictures
    ]


def average_precision(matches: Iterable[Match], expected: int) -> float:
    """Return the average precision of boxes of one label; 0 without objects."""
    order = sorted(matches, key=lambda match: match.score, reverse=True)
    if not expected or not order:
        return 0.0
    right = np.cumsum([match.is_right for match in order])
    recall = right / expected
    precision = right / np.arange(1, len(order) + 1)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    index = np.searchsorted(recall, RECALLS, side="left")
    return float(np.where(index < len(order), highest[np.minimum(index, len(order) - 1)], 0.0).mean())


def best_threshold(pictures: Pictures, precision: float | None = None) -> float:
    """Return the score from which boxes of one label are kept: the one with the best F1.

    `precision`: the lowest score with at least this precision instead; 1 above the best box if there is none.
    """
    return threshold(matched(pictures), sum(len(truth) for _, truth in pictures), precision)


def threshold(matches: Iterable[Match], expected: int, precision: float | None = None) -> float:
    """Return the score from which boxes are kept, as `best_threshold` does; `expected`: objects in the truth."""
    order = sorted(matches, key=lambda match: match.score, reverse=True)
    best, chosen, right = -1.0, 1.0 + (order[0].score if order else 0.0), 0
    for count, match in enumerate(order, start=1):
        right += match.is_right
        if count < len(order) and order[count].score == match.score:
            continue
        value = 2 * right / (count + expected) if precision is None else float(right / count >= precision) * count
        if value > best and value > 0:
            best, chosen = value, match.score
    return chosen
