"""Outcomes of the last jobs of each task, and the comparison of two models by them. Pure."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import Annotated, NamedTuple

from pydantic import Field, TypeAdapter, ValidationError

from streamer.types import Outcome

LAST = 100
"""Jobs of a task that are counted."""
MIN_ANSWERS = 5
"""Fewer outcomes of the new model, or of a task with the model before, show nothing."""
MARGINS = {"failed": 0.1, "empty": 0.3}
"""Smallest surplus over the expected share of answers that counts. A scene can become empty by itself."""
SIGMAS = 4.0
"""The surplus must also be this many standard deviations of the expected number."""
UNKNOWN_FAILURES = 0.01
"""Expected share of failures of a task that the model before has not run."""


class Counts(NamedTuple):
    """Outcomes of one task."""

    ok: int = 0
    empty: int = 0
    failed: int = 0
    """`error` and `timeout`."""

    @property
    def total(self) -> int:
        return sum(self)


OutcomeRows = dict[tuple[str, str], Counts]
"""Keys: stream and task name."""
_Count = Annotated[int, Field(ge=0)]
_ROWS: TypeAdapter[list[tuple[str, str, _Count, _Count, _Count]]] = TypeAdapter(
    list[tuple[str, str, _Count, _Count, _Count]]
)


class OutcomeCounts:
    """Counts outcomes in an inference process."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], deque[Outcome]] = {}

    def add(self, stream: str, task: str, outcome: Outcome) -> None:
        """Count an outcome, if the engine was asked."""
        if outcome in ("ok", "empty", "error", "timeout"):
            self._last.setdefault((stream, task), deque(maxlen=LAST)).append(outcome)

    def rows(self) -> list[tuple[str, str, int, int, int]]:
        """Return stream, task and `Counts` of each task, for JSON."""
        found = []
        for (stream, task), last in self._last.items():
            counts = Counter(last)
            found.append((stream, task, counts["ok"], counts["empty"], counts["error"] + counts["timeout"]))
        return found


def outcome_rows(answer: Mapping[str, object]) -> OutcomeRows:
    """Return the rows in the answer of an inference process, none if it is malformed."""
    try:
        rows = _ROWS.validate_python(answer.get("outcomes"))
    except ValidationError:
        return {}
    return {(stream, task): Counts(*counts) for stream, task, *counts in rows}


def merged(parts: Iterable[OutcomeRows]) -> OutcomeRows:
    """Return the sums of the rows of several processes."""
    found: OutcomeRows = {}
    for part in parts:
        for task, counts in part.items():
            found[task] = Counts(*map(sum, zip(found.get(task, Counts()), counts, strict=True)))
    return found


def answers(rows: OutcomeRows) -> int:
    """Return the number of outcomes of all tasks."""
    return sum(counts.total for counts in rows.values())


def jump(before: OutcomeRows, after: OutcomeRows) -> str | None:
    """Return why a model is worse than the one before, None if nothing shows that.

    Each task is compared with itself: the expected number of failures or empty answers is what its share with the model
    before gives.
    """
    for kind, words in (("failed", "answers failed"), ("empty", "answers were empty")):
        total, found, expected, variance = 0, 0, 0.0, 0.0
        for task, counts in after.items():
            known = before.get(task, Counts())
            if known.total >= MIN_ANSWERS:
                share = (getattr(known, kind) + 0.5) / (known.total + 1)
                spread = 1 + counts.total / known.total  # the share itself is not known exactly
            elif kind == "failed":
                share, spread = UNKNOWN_FAILURES, 1.0
            else:
                continue
            total += counts.total
            found += getattr(counts, kind)
            expected += counts.total * share
            variance += counts.total * share * (1 - share) * spread
        if total >= MIN_ANSWERS and found - expected > max(MARGINS[kind] * total, SIGMAS * math.sqrt(variance)):
            return f"{found} of {total} {words}, {round(expected)} were expected from the model before"
    return None
