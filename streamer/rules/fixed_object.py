"""A condition on an object that does not move and is in one of several states, such as a gate that is open or closed.

The model searches for the object in each of its states. The state whose search gives the best score is the answer; with
no shape, or two searches of about the same score, there is none. The word of the state is also read by itself, for
sensors that show it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from streamer.config.condition import Condition as Settings
from streamer.config.condition import ObjectState
from streamer.config.rule import Hits, Rule
from streamer.rules.condition import LeafState, ObjectLeaf, Truth, Zones, finding_of
from streamer.rules.observation import AnsweredTime, Moment, Observation, Shape, is_reached, seconds_between

MARGIN = 0.05
"""Smallest difference of two states' scores that decides between them (`python -m benchmarks.object_states`)."""


class BestState(NamedTuple):
    shape: Shape
    """Shape with the best score of all searches."""
    margin: float
    """Its score minus the best one of any other search, which is 0 without a shape."""


@dataclass(slots=True)
class Reading:
    """The word of the state that the `hold` of the rule confirms."""

    word: str | None = None
    """None: no word is confirmed yet, or there was no answer for the `grace` of the rule."""
    answers: list[str] = field(default_factory=list)
    """Words of the newest answers, as many as `hold.hits` counts."""
    since: float = 0.0
    """Answered second from which on all answers gave the newest word."""
    time: AnsweredTime = field(default_factory=AnsweredTime)
    answered: Moment | None = None
    """Moment of the newest answer."""

    def take(self, word: str | None, moment: Moment, rule: Rule) -> None:
        """Take an answer, or None for a frame without one."""
        now = self.time.advance(moment, word is not None)
        if word is None:
            if self.answered is None or is_reached(rule.grace_s, seconds_between(self.answered, moment)):
                self.lose()
            return
        hits, seconds = rule.hold.hits or Hits(1, 1), rule.hold.for_ or 0.0
        if self.answers[-1:] != [word]:
            self.since = now
        self.answers = [*self.answers, word][-hits.of :]
        self.answered = moment
        if self.answers.count(word) >= hits.true and is_reached(seconds, now - self.since):
            self.word = word

    def lose(self) -> None:
        """Have no word until the next answers confirm one."""
        self.word, self.answered, self.answers, self.time.last = None, None, [], None


@dataclass(slots=True)
class FixedObjectState(LeafState):
    newest: str | None = None
    """Word of the newest answer."""
    reading: Reading = field(default_factory=Reading)


class FixedObjectLeaf(ObjectLeaf):
    """An object that is in the wanted state."""

    def __init__(self, settings: Settings, task: str | None, zones: Zones, rule: Rule) -> None:
        """`rule`: the one whose `hold` and `grace` confirm a word."""
        super().__init__(settings, task, zones)
        assert settings.state is not None
        self._wanted: ObjectState = settings.state
        self._rule = rule
        self.state: FixedObjectState = FixedObjectState()
        self.is_quiet = False

    @property
    def word(self) -> str | None:
        """The word of the state; None without an answer."""
        return self.state.reading.word

    def observe(self, seen: Observation) -> None:
        super().observe(seen)
        word = None if seen.outcome == "none" else self.state.newest
        self.state.reading.take(word, seen.moment, self._rule)

    def lose(self) -> None:
        super().lose()
        self.state.newest = None
        self.state.reading.lose()

    def _look(self, seen: Observation) -> Truth:
        best = best_state(self.select(seen), self._wanted.texts)
        self._keep(finding_of([] if best is None else [best.shape]))
        self.state.newest = None if best is None or best.margin < MARGIN else self._wanted.word_of(best.shape.label)
        return None if self.state.newest is None else self.state.newest == self._wanted.wanted_word


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
