"""Speculative decoding with drafts: a camera's previous answer to a prompt is the guess for its next one.

The decoder checks a piece of the draft in one pass, accepts it up to the first difference and adds its own token there;
then the draft is aligned with the tokens that were generated. The same pass has also chosen tokens behind it, as if the
draft were right. Where those are locations, they replace the draft's: they come from the new picture, and depend little
on the locations before them. A draft that keeps failing is not used for some answers.
This module is pure Python and knows no model.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

MIN_ACCEPTANCE = 0.2
"""Acceptance below which checking a token costs more than the passes that it saves: a token more makes a pass 5 to 20 %
longer, the most in float32 without AVX-512."""
MIN_PROBABILITY = 0.1
"""Least probability with which a proposed token and all before it are accepted. It may be below MIN_ACCEPTANCE, because
the pass also corrects locations behind the first difference."""
RATE_STEP = 0.1
"""Weight of one checked token in the moving averages of `Rates`."""
MIN_RATE = 0.3
"""Rates with which an answer starts at least, so that a draft that failed is tried again."""
PAUSE = 8
"""Answers without a draft after the acceptance fell below MIN_ACCEPTANCE."""
MAX_STORED = 1024
"""Previous answers that are kept; the least recently stored one is dropped first."""

WINDOW = 64
"""Draft tokens before and behind the current position that are searched after a difference: about ten boxes."""
CONTEXT = 6
"""Newest tokens of an answer by which its place in the draft is found: a label of two words and four locations."""
MAX_MOVE = 40
"""Bins by which a location may have moved and still mark the same object."""
OLDER = 0.5
"""Weight of a token in the comparison, relative to the next newer one."""
STEP_COST = 0.05
"""Cost of one token of distance from the current position, relative to one different token."""

DraftMode = Literal["exact", "near", "off"]
"""exact: an accepted draft equals the best tokens. near: locations may be next to the best ones. off: no drafts."""
Key = tuple[str, str]
"""Stream and task name."""


@dataclass(slots=True)
class Rates:
    """Moving averages of the accepted share of checked tokens: a word repeats more often than a location."""

    words: float = 0.8
    locations: float = 0.7

    def of(self, is_location: bool) -> float:
        return self.locations if is_location else self.words

    def at_least(self, rate: float) -> Rates:
        return Rates(max(self.words, rate), max(self.locations, rate))

    def update(self, is_location: bool, accepted: bool) -> None:
        rate = self.of(is_location) + RATE_STEP * (accepted - self.of(is_location))
        if is_location:
            self.locations = rate
        else:
            self.words = rate


@dataclass(slots=True)
class _PreviousAnswer:
    tokens: list[int]
    rates: Rates = field(default_factory=Rates)
    acceptance: float = 1.0
    """Moving average of the accepted share of recent drafts."""
    pause: int = 0
    """Answers that still go without a draft."""

    def evaluate(self, draft: Draft) -> None:
        """Update the statistics from a draft of which at least one token was checked."""
        self.rates = draft.rates
        self.acceptance += 0.5 * (draft.accepted / draft.checked - self.acceptance)
        if self.acceptance < MIN_ACCEPTANCE:
            self.pause, self.acceptance, self.rates = PAUSE, 1.0, Rates()


class Draft:
    """The guess for one answer, and how much of it was accepted."""

    def __init__(self, tokens: Sequence[int], locations: range, rates: Rates | None = None) -> None:
        """`locations` are the ids of the location tokens."""
        self.rates = rates or Rates()
        self.checked = self.accepted = 0
        self._tokens = list(tokens)
        self._locations = locations
        self._next = 0
        self._newest: list[int] = []
        """The newest tokens of the answer, at most CONTEXT."""

    def propose(self, limit: int) -> Sequence[int]:
        """Return the next tokens to check, at most `limit`.

        A token is proposed while it and all before it are accepted together with a probability of MIN_PROBABILITY.
        """
        width, probability = 0, 1.0
        for token in self._tokens[self._next : self._next + max(0, limit)]:
            probability *= self.rates.of(token in self._locations)
            if probability < MIN_PROBABILITY:
                break
            width += 1
        return self._tokens[self._next : self._next + width]

    def record(self, proposed: int, accepted: int, token: int, guesses: Sequence[int]) -> None:
        """Record that `accepted` of the `proposed` tokens were accepted and that `token` follows them in the answer.

        `guesses` are the tokens that the pass chose behind it: one for each proposed token that was not accepted. What
        follows these belongs to longer drafts of other rows.
        """
        self.checked += proposed
        self.accepted += accepted
        # Tokens behind the first rejected one were not judged on their own.
        for index in range(min(proposed, accepted + 1)):
            self.rates.update(self._tokens[self._next + index] in self._locations, index < accepted)
        known = [*self._newest, *self._tokens[self._next : self._next + accepted], token]
        self._newest = known[-CONTEXT:]
        expected = self._next + accepted
        position = self._position(expected)
        self._next = position + 1
        if position == expected:
            self._correct_locations(guesses[: proposed - accepted])

    def _correct_locations(self, guesses: Sequence[int]) -> None:
        """Replace the next locations by those of `guesses`, as long as both have locations at the same places."""
        upcoming = enumerate(self._tokens[self._next : self._next + len(guesses)], self._next)
        for (at, token), guess in zip(upcoming, guesses, strict=False):
            if (token in self._locations) != (guess in self._locations):
                return
            if guess in self._locations:
                self._tokens[at] = guess

    def _position(self, expected: int) -> int:
        """Return the position of the answer's newest token in the draft, which was expected at `expected`.

        A moved location is still at its position. After an inserted or removed object, the position is the one with
        the most similar tokens before it.
        """
        if expected < len(self._tokens) and self._difference(self._tokens[expected], self._newest[-1]) < 1:
            return expected
        low, high = max(0, expected - WINDOW), min(len(self._tokens), expected + WINDOW)
        similar = [at for at in range(low, high) if self._difference(self._tokens[at], self._newest[-1]) < 1]
        return min([expected, *similar], key=lambda at: self._cost(at) + STEP_COST * abs(at - expected))

    def _cost(self, at: int) -> float:
        """Return the weighted difference when the answer's newest token is at position `at` of the draft."""
        cost, weight = 0.0, 1.0
        for back, token in enumerate(reversed(self._newest)):
            is_inside = 0 <= at - back < len(self._tokens)
            cost += weight * (self._difference(self._tokens[at - back], token) if is_inside else 1.0)
            weight *= OLDER
        return cost

    def _difference(self, a: int, b: int) -> float:
        """Return 0 for the same token and 1 for another one; for locations, the distance as a part of MAX_MOVE."""
        if a in self._locations and b in self._locations:
            return min(abs(a - b) / MAX_MOVE, 1.0)
        return float(a != b)


class DraftStore:
    """Previous answers by stream and task name."""

    def __init__(self, locations: range) -> None:
        """`locations` are the ids of the location tokens."""
        self._locations = locations
        self._previous: OrderedDict[Key, _PreviousAnswer] = OrderedDict()

    def __len__(self) -> int:
        return len(self._previous)

    def clear(self) -> None:
        self._previous.clear()

    def draft(self, key: Key) -> Draft | None:
        """Return a draft of the next answer; None without a previous answer or while drafts are paused."""
        previous = self._previous.get(key)
        if previous is None or previous.pause:
            return None
        return Draft(previous.tokens, self._locations, previous.rates.at_least(MIN_RATE))

    def store(self, key: Key, tokens: Sequence[int], draft: Draft | None) -> None:
        """Store an answer's tokens, without start and end, and update the statistics from its draft."""
        previous = self._previous.pop(key, None) or _PreviousAnswer([])
        previous.tokens = list(tokens)
        previous.pause = max(0, previous.pause - 1)
        if draft is not None and draft.checked:
            previous.evaluate(draft)
        self._previous[key] = previous
        if len(self._previous) > MAX_STORED:
            self._previous.popitem(last=False)
