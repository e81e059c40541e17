"""A condition on an object that does not move and is in one of several states, such as a gate that is open or closed.

The model searches for the object in each of its states. The state whose search gives the best score is the answer; with
no shape, or two searches of about the same score, there is none.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from streamer.config.condition import Condition as Settings
from streamer.config.condition import ObjectState
from streamer.rules.condition import ObjectLeaf, Truth, Zones
from streamer.rules.observation import Observation, Shape

MARGIN = 0.05
"""Smallest difference of two states' scores that decides between them (`python -m benchmarks.object_states`)."""


class BestState(NamedTuple):
    shape: Shape
    """Shape with the best score of all searches."""
    margin: float
    """Its score minus the best one of any other search, which is 0 without a shape."""


class FixedObjectLeaf(ObjectLeaf):
    """An object that is in the wanted state."""

    def __init__(self, settings: Settings, task: str | None, zones: Zones) -> None:
        super().__init__(settings, task, zones)
        assert settings.state is not None
        self._wanted: ObjectState = settings.state
        self.is_quiet = False

    def _look(self, seen: Observation, now: float) -> Truth:
        best = best_state(self.select(seen), self._wanted.texts)
        self._keep([best.shape] if best is not None else [])
        if best is None or best.margin < MARGIN:
            return None
        return best.shape.label.casefold() == self._wanted.wanted_text.casefold()


def best_state(shapes: Sequence[Shape], texts: Collection[str]) -> BestState | None:
    """Return the shape that answers which of the texts names the state; None if there is no shape with a score."""
    scores: dict[str, tuple[float, Shape]] = {}
    known = {text.casefold() for text in texts}
    for shape in shapes:
        text = shape.label.casefold()
        if text in known and shape.score is not None and shape.score > scores.get(text, (-1.0, shape))[0]:
            scores[text] = shape.score, shape
    ranked = sorted(scores.values(), key=lambda one: -one[0])
    if not ranked:
        return None
    return BestState(ranked[0][1], ranked[0][0] - (ranked[1][0] if len(ranked) > 1 else 0.0))
