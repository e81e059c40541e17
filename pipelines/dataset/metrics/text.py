"""Measures of texts: CIDEr-D of captions, edit distance of read text.

CIDEr-D is that of Vedantam et al., "CIDEr: Consensus-based Image Description Evaluation" (CVPR 2015): cosine similarity
of tf-idf weights of 1- to 4-grams, with clipped counts and a Gaussian penalty of the difference in length, times 10.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

ORDERS = range(1, 5)
"""Lengths of n-grams."""
SIGMA = 6.0
"""Standard deviation, in words, of the penalty of a difference in length."""

_WORD = re.compile(r"[\w']+")
_Gram = tuple[str, ...]


def words(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation."""
    return _WORD.findall(text.lower())


def cider_d(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Return the CIDEr-D of each candidate, 0 to 10, given the reference captions of its picture.

    The weight of an n-gram depends on the number of pictures whose references have it, so the values of one picture
    depend on all pictures. One picture alone has the value 0.
    """
    grams = [[_grams(words(text)) for text in texts] for texts in references]
    pictures_with: Counter[_Gram] = Counter(
        gram for texts in grams for gram in {gram for counts in texts for gram in counts}
    )
    log_pictures = math.log(max(1, len(references)))

    def weights(counts: Counter[_Gram]) -> tuple[list[dict[_Gram, float]], list[float]]:
        by_order: list[dict[_Gram, float]] = [{} for _ in ORDERS]
        for gram, count in counts.items():
            by_order[len(gram) - 1][gram] = count * (log_pictures - math.log(max(1, pictures_with[gram])))
        return by_order, [math.sqrt(sum(value**2 for value in order.values())) for order in by_order]

    scores = []
    for text, texts in zip(candidates, grams, strict=True):
        counts = _grams(words(text))
        ours, our_norms = weights(counts)
        total = 0.0
        for reference in texts:
            theirs, their_norms = weights(reference)
            difference = _length(counts) - _length(reference)
            penalty = math.exp(-(difference**2) / (2 * SIGMA**2))
            for order, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
                norm = our_norms[order] * their_norms[order]
                common = sum(min(value, other.get(gram, 0.0)) * other.get(gram, 0.0) for gram, value in mine.items())
                total += penalty * common / norm / len(ORDERS) if norm else 0.0
        scores.append(10 * total / len(texts) if texts else 0.0)
    return scores


def _grams(tokens: Sequence[str]) -> Counter[_Gram]:
    return Counter(tuple(tokens[start : start + order]) for order in ORDERS for start in range(len(tokens) - order + 1))


def _length(counts: Counter[_Gram]) -> int:
    """Return the number of 2-grams, by which the published code measures the length."""
    return sum(count for gram, count in counts.items() if len(gram) == 2)


def edit_distance(a: str, b: str) -> int:
    """Return the least number of inserted, removed and replaced characters that turn `a` into `b`."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, start=1):
        previous, row[0] = row[0], i
        for j, right in enumerate(b, start=1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (left != right))
    return row[-1]


def error_rate(read: str, truth: str) -> float:
    """Return the edit distance per character of the truth, 0 for equal texts, at most 1."""
    longest = max(len(read), len(truth))
    return edit_distance(read, truth) / longest if longest else 0.0
