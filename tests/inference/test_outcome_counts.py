"""Outcomes of two models, and the decision whether the new one is worse."""

from __future__ import annotations

import pytest

from streamer.inference.outcome_counts import LAST, Counts, OutcomeCounts, jump, merged, outcome_rows

GATE, YARD = ("gate", "objects"), ("yard", "objects")


def test_last_outcomes_of_each_task_are_counted() -> None:
    counts = OutcomeCounts()
    for outcome in (*["error"] * 5, *["ok"] * (LAST - 3), "empty", "timeout", "unchanged", "stale", "dropped"):
        counts.add("gate", "objects", outcome)  # type: ignore[arg-type]
    counts.add("yard", "objects", "empty")
    rows = outcome_rows({"outcomes": [list(row) for row in counts.rows()]})
    assert rows == {GATE: Counts(LAST - 3, 1, 2), YARD: Counts(0, 1, 0)}


def test_malformed_counts_are_no_counts() -> None:
    for answer in ({}, {"outcomes": None}, {"outcomes": [["gate", "objects", 1, 2]]}, {"error": "no"}):
        assert outcome_rows(answer) == {}


def test_counts_of_several_processes_are_added() -> None:
    assert merged([{GATE: Counts(1, 2, 3)}, {GATE: Counts(1, 0, 0), YARD: Counts(4)}]) == {
        GATE: Counts(2, 2, 3),
        YARD: Counts(4),
    }


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (Counts(50, 50), Counts(10, 10), None),  # as before
        (Counts(50, 50), Counts(0, 10), None),  # ten empty answers in a row are possible
        (Counts(50, 50), Counts(0, 60), "60 of 60 answers were empty, 30 were expected from the model before"),
        (Counts(100), Counts(0, 4), None),  # too few
        (Counts(100), Counts(0, 5), "5 of 5 answers were empty, 0 were expected from the model before"),
        (Counts(100), Counts(80, 20), None),  # a fifth may be another scene
        (Counts(100), Counts(80, 0, 20), "20 of 100 answers failed, 0 were expected from the model before"),
        (Counts(60, 0, 40), Counts(60, 0, 40), None),
        (Counts(), Counts(0, 20), None),  # nothing is known of the scene
        (Counts(), Counts(0, 0, 20), "20 of 20 answers failed, 0 were expected from the model before"),
        (Counts(0, 100), Counts(20), None),  # better
    ],
)
def test_a_worse_model_is_recognized(before: Counts, after: Counts, reason: str | None) -> None:
    assert jump({GATE: before}, {GATE: after}) == reason


def test_each_task_is_compared_with_itself() -> None:
    before = {GATE: Counts(100), YARD: Counts(0, 100)}
    assert jump(before, {GATE: Counts(10), YARD: Counts(0, 90)}) is None
    assert jump(before, {GATE: Counts(0, 90), YARD: Counts(0, 10)}) is not None
