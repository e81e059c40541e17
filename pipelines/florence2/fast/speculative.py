"""Temporal drafts: a camera's previous answer to the same question, as a guess of the next one. Knows no model.

A draft never changes an answer. The decoder checks a piece of it in one pass, takes it up to the first difference and
goes on with its own token; the draft is then lined up with what was really written. What keeps failing is not tried.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

FIRST_RUN = 4.0
"""Right tokens in a row that are expected while nothing is known of a camera's question."""
MAX_RUN = 1024.0
LOOK_BACK, LOOK_AHEAD = 4, 12
"""Where in the draft the text may go on after a difference."""
WORTH = 0.15
"""Share of checked tokens that have to be right; below, checking them costs more than the passes it saves."""
ENOUGH = 32
"""Checked tokens after which a draft is given up in the middle of an answer."""
REST = 8
"""Answers without a draft after it was not worth it."""
KEPT = 1024
"""Questions whose last answers are kept."""

Key = tuple[str, str]
"""Stream and task name."""


@dataclass(slots=True)
class _Memory:
    """What is known of one camera's question."""

    tokens: list[int]
    run: float = FIRST_RUN
    worth: float = 1.0
    rest: int = 0


@dataclass(slots=True)
class Figures:
    """Counts since the start."""

    checked: int = 0
    accepted: int = 0
    answers: int = 0
    """Answers that had a draft."""

    @property
    def acceptance(self) -> float:
        """Share of the checked tokens that were right."""
        return self.accepted / self.checked if self.checked else 0.0


class Draft:
    """One answer's guess, and how far it was used."""

    def __init__(self, tokens: Sequence[int], run: float = FIRST_RUN) -> None:
        self.run = run
        """Right tokens in a row, on average lately; twice as many are checked at once."""
        self.checked = self.accepted = 0
        self._tokens = tokens
        self._next = 0

    def propose(self, most: int) -> Sequence[int]:
        """The tokens to check now, at most that many; none any more once too few were right."""
        if self.checked >= ENOUGH and self.accepted < WORTH * self.checked:
            return ()
        width = min(max(2, round(2 * self.run)), most)
        return self._tokens[self._next : self._next + max(0, width)]

    def settle(self, proposed: int, accepted: int, token: int) -> None:
        """Learn that `accepted` of the proposed tokens were right, and that `token` came behind them."""
        self.checked += proposed
        self.accepted += accepted
        self._next += accepted
        if proposed:
            # Where everything was right, more would have been.
            found = accepted if accepted < proposed else 2 * proposed
            self.run = min(MAX_RUN, (self.run + found) / 2)
        self._align(token)

    def _align(self, token: int) -> None:
        """Go on behind the nearest copy of `token`; where there is none, it replaced a token of the draft."""
        low = max(0, self._next - LOOK_BACK)
        high = min(len(self._tokens), self._next + LOOK_AHEAD)
        near = [place for place in range(low, high) if self._tokens[place] == token]
        self._next = min(near, key=lambda place: abs(place - self._next), default=self._next) + 1


class DraftStore:
    """The last answers, and how well they served."""

    def __init__(self) -> None:
        self.figures = Figures()
        self._known: OrderedDict[Key, _Memory] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def draft(self, key: Key) -> Draft | None:
        """A guess for the next answer to this question; None where there is none or it does not pay."""
        memory = self._known.get(key)
        if memory is None or memory.rest:
            return None
        return Draft(memory.tokens, memory.run)

    def learn(self, key: Key, tokens: Sequence[int], draft: Draft | None) -> None:
        """Keep an answer's tokens, without start and end, and what became of its draft."""
        memory = self._known.pop(key, None) or _Memory([])
        memory.tokens = list(tokens)
        memory.rest = max(0, memory.rest - 1)
        if draft is not None and draft.checked:
            self._judge(memory, draft)
        self._known[key] = memory
        if len(self._known) > KEPT:
            self._known.popitem(last=False)

    def _judge(self, memory: _Memory, draft: Draft) -> None:
        self.figures.checked += draft.checked
        self.figures.accepted += draft.accepted
        self.figures.answers += 1
        memory.run = draft.run
        memory.worth += 0.5 * (draft.accepted / draft.checked - memory.worth)
        if memory.worth < WORTH:
            memory.rest, memory.worth, memory.run = REST, 1.0, 1.0
