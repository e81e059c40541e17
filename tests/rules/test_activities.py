"""The activities of an engine are found by their deadlines."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

from streamer.rules import activities
from streamer.rules.activities import Activities


def test_earliest_deadline_is_found_after_any_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activities, "_SPARE", 5)
    moves = random.Random(7)
    made: dict[Any, Any] = {
        ("rule", str(number)): SimpleNamespace(
            stream=str(number), leaves=(), tasks=(), deadline=None, sleeps=True, reporter=SimpleNamespace(key=number)
        )
        for number in range(10)
    }
    found = Activities(made)
    assert found.next_deadline == float("inf")
    for _ in range(2000):
        changed = moves.choice(list(made.values()))
        changed.deadline = moves.choice([None, float(moves.randrange(20))])
        found.update(changed)
        known = [(one.deadline, order) for order, one in enumerate(made.values()) if one.deadline is not None]
        assert found.next_deadline == min(known, default=(float("inf"), 0))[0]
        if known:
            at, activity = found.next_due()
            assert (at, activity.order) == min(known)
    assert len(found._heap) <= 2 * len(made) + 5
