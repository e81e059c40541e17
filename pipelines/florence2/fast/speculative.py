"""Speculative decoding with drafts: a camera's previous answer to a prompt is the guess for its next one.

A draft never changes an answer. The decoder checks a piece of the draft in one pass, accepts it up to the first
difference and adds its own token there; then the draft is aligned with the tokens that were generated. A draft that
keeps failing is not used for some answers. This module is pure Python and knows no model.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

INITIAL_RUN = 4.0
"""Accepted tokens in a row that are expected of a key's first draft."""
MAX_RUN = 1024.0
ALIGN_BACK, ALIGN_AHEAD = 4, 12
"""Window of draft tokens, around the current position, that is searched for the token after a difference."""
MIN_ACCEPTANCE = 0.15
"""Share of checked tokens that must be accepted; below it, checking costs more than the saved passes."""
MIN_CHECKED = 32
"""Checked tokens before a draft can be abandoned in the middle of an answer."""
PAUSE = 8
"""Answers without a draft after the acceptance fell below MIN_ACCEPTANCE."""
MAX_STORED = 1024
"""Previous answers that are kept; the least recently stored one is dropped first."""

Key = tuple[str, str]
"""Stream and task name."""


@dataclass(slots=True)
class _PreviousAnswer:
    tokens: list[int]
    run: float = INITIAL_RUN
    acceptance: float = 1.0
    """Moving average of the accepted share of recent drafts."""
    pause: int = 0
    """Answers that still go without a draft."""

    def evaluate(self, draft: Draft) -> None:
        """Update the statistics from a draft of which at least one token was checked."""
        self.run = draft.run
        self.acceptance += 0.5 * (draft.accepted / draft.checked - self.acceptance)
        if self.acceptance < MIN_ACCEPTANCE:
            self.pause, self.acceptance, self.run = PAUSE, 1.0, 1.0


class Draft:
    """The guess for one answer, and how much of it was accepted."""

    def __init__(self, tokens: Sequence[int], run: float = INITIAL_RUN) -> None:
        self.run = run
        """Moving average of accepted tokens in a row; twice as many are proposed at once."""
        self.checked = self.accepted = 0
        self._tokens = tokens
        self._next = 0

    def propose(self, limit: int) -> Sequence[int]:
        """Return the next tokens to check, at most `limit`; none after too few were accepted."""
        if self.checked >= MIN_CHECKED and self.accepted < MIN_ACCEPTANCE * self.checked:
            return ()
        width = min(max(2, round(2 * self.run)), limit)
        return self._tokens[self._next : self._next + max(0, width)]

    def record(self, proposed: int, accepted: int, token: int) -> None:
        """Record that `accepted` of the `proposed` tokens were right and that `token` follows them in the answer."""
        self.checked += proposed
        self.accepted += accepted
        self._next += accepted
        if proposed:
            # A fully accepted proposal was too short to show the length of the run.
            run = accepted if accepted < proposed else 2 * proposed
            self.run = min(MAX_RUN, (self.run + run) / 2)
        self._align(token)

    def _align(self, token: int) -> None:
        """Continue behind the nearest copy of `token` in the window; without a copy, skip one draft token."""
        low = max(0, self._next - ALIGN_BACK)
        high = min(len(self._tokens), self._next + ALIGN_AHEAD)
        copies = [index for index in range(low, high) if self._tokens[index] == token]
        self._next = min(copies, key=lambda index: abs(index - self._next), default=self._next) + 1


class DraftStore:
    """Previous answers by stream and task name."""

    def __init__(self) -> None:
        self._previous: OrderedDict[Key, _PreviousAnswer] = OrderedDict()

    def __len__(self) -> int:
        return len(self._previous)

    def draft(self, key: Key) -> Draft | None:
        """Return a draft of the next answer; None without a previous answer or while drafts are paused."""
        previous = self._previous.get(key)
        if previous is None or previous.pause:
            return None
        return Draft(previous.tokens, previous.run)

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
