"""The order in which pictures are reviewed: those first whose review tells most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.dataset.labels import LabelledObject
from streamer.core.boxes import iou

SAME_IOU = 0.5
"""Objects of two sets with one label and at least this IoU are the same object."""


@dataclass(frozen=True, slots=True)
class Usefulness:
    """Value of reviewing a picture: the sum of uncertainty, difference of the sets and rarity, 0 to 1 each."""

    value: float
    why: str
    """Largest of the three, in words; empty for a picture without objects."""


def usefulness(sets: Sequence[Sequence[LabelledObject]], counts: Mapping[str, int]) -> Usefulness:
    """Return the value of a picture. `sets`: its objects in each set; `counts`: objects of the dataset by label."""
    objects = [one for some in sets for one in some]
    if not objects:
        return Usefulness(0.0, "")
    terms: list[tuple[float, str]] = []
    if scored := [one for one in objects if one.score is not None]:
        unsure = min(scored, key=lambda one: abs(one.certainty - 0.5))
        terms.append((1 - abs(2 * unsure.certainty - 1), f"score {unsure.certainty:.2f} of {unsure.label}"))
    if len(sets) == 2:
        different = differences(*sets)
        terms.append((different / len(objects), f"the sets differ in {different} of {len(objects)} objects"))
    rare = min(objects, key=lambda one: counts[one.label])
    times = "once" if counts[rare.label] == 1 else f"{counts[rare.label]} times"
    terms.append((counts[rare.label] ** -0.5, f"{rare.label} is labelled {times} only"))
    return Usefulness(sum(value for value, _ in terms), max(terms, key=lambda term: term[0])[1])


def differences(some: Sequence[LabelledObject], others: Sequence[LabelledObject]) -> int:
    """Return the number of objects of both sets that the other set has not."""
    free, same = list(others), 0
    for one in some:
        overlaps = [iou(one.box, other.box) if one.label == other.label else 0.0 for other in free]
        if overlaps and max(overlaps) >= SAME_IOU:
            free.pop(overlaps.index(max(overlaps)))
            same += 1
    return len(some) + len(others) - 2 * same


def count_labels(sets: Sequence[Mapping[str, Sequence[LabelledObject]]]) -> Counter[str]:
    """Return the number of objects by label, the most frequent first: of the set that has most, for each label."""
    counts: Counter[str] = Counter()
    for pictures in sets:
        counts |= Counter(one.label for objects in pictures.values() for one in objects)
    return Counter(dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))))
