"""The activities of an engine are found by their deadlines, and take answers together that only count for them."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

from streamer.config.model import from_mapping
from streamer.events.schema import IncidentEvent
from streamer.rules import activities
from streamer.rules.activities import Activities
from streamer.rules.activity import Activity
from streamer.rules.engine import Engine
from tests.support.stories import PERSON, STORIES, Story, told


def test_earliest_deadline_is_found_after_any_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activities, "_SPARE", 5)
    moves = random.Random(7)
    made: dict[Any, Any] = {
        ("rule", str(number)): SimpleNamespace(
            stream=str(number),
            leaves=(),
            tasks=(),
            deferrable_task=None,
            deadline=None,
            sleeps=True,
            reporter=SimpleNamespace(key=number),
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


def test_answers_passed_over_or_deferred_change_no_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same random answers to an engine in which each activity takes each answer at once cause the same events."""
    moves = random.Random(20)
    ends = 0
    for _ in range(25):
        rules: dict[str, Any] = {
            f"rule{number}": {
                "when": moves.choice([one_object(moves), {"all": [one_object(moves), {"not": one_object(moves)}]}]),
                "hold": moves.choice([{"hits": "2 of 3"}, {"hits": "3 of 5"}, {"for": "500ms"}]),
                "grace": moves.choice(["300ms", "500ms", "3s", "8s"]),
                "escalate": {"after": "2s", "to": "critical"},
            }
            for number in range(6)
        }
        config = from_mapping({**STORIES[0].config().raw, "rules": rules})
        events = Story("", {}, script(moves), []).events()
        with monkeypatch.context() as patch:
            patch.setattr(Activity, "sleeps", False)
            patch.setattr(Activity, "deferrable_s", None)
            expected = told(Engine(config), events)
        assert told(Engine(config), events) == expected
        ends += sum(one.data.state == "end" for one in expected if isinstance(one, IncidentEvent))
    assert ends > 100


def one_object(moves: random.Random) -> dict[str, Any]:
    """Return a random condition on an object."""
    settings = {**PERSON, "label": moves.choice(["person", "dog"]), "min_score": moves.choice([0.6, 0.8])}
    return {**settings, "clear_score": 0.45, **moves.choice([{}, {"zone": "drive"}])}


def script(moves: random.Random) -> str:
    """Return random lines of a story; objects come and go for several answers."""
    second, objects, lines = 0.0, "-", []
    for _ in range(150):
        second = round(second + moves.choice([0.1, 0.2, 0.5]), 1)  # whose sums are rounded
        if moves.random() < 0.3:
            objects = moves.choice(["-", "-", "person@0.2,0.8*0.9 dog*0.5", "person@0.7,0.8*0.9", "person*0.5 dog*0.7"])
        other = moves.choice(["?", "=", "down", "reconnect", "clock"])
        lines.append(f"{second} {objects if moves.random() < 0.8 else other}")
    return "\n".join(lines)
