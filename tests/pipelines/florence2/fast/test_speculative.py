"""Drafts: proposals, alignment, pauses and bounds."""

from __future__ import annotations

import random

import pytest

from pipelines.florence2.fast.speculative import MAX_STORED, MIN_CHECKED, PAUSE, Draft, DraftStore


def replay(draft: Draft, truth: list[int], most: int = 1000) -> tuple[int, int]:
    """Return the passes and checked tokens that generating `truth` takes with a draft."""
    place = passes = checked = 0
    while place < len(truth):
        proposal = list(draft.propose(min(most, len(truth) - place - 1)))
        right = 0
        while right < len(proposal) and proposal[right] == truth[place + right]:
            right += 1
        draft.record(len(proposal), right, truth[place + right])
        place, passes, checked = place + right + 1, passes + 1, checked + len(proposal)
    return passes, checked


def spoiled(tokens: list[int], share: float, seed: int = 1) -> list[int]:
    rng = random.Random(seed)
    return [token if rng.random() < share else 1000 + rng.randrange(1000) for token in tokens]


TEXT = list(range(80))


def test_right_draft_takes_few_passes() -> None:
    assert replay(Draft(TEXT), TEXT)[0] <= 5
    assert replay(Draft(TEXT, 80), TEXT)[0] == 1


@pytest.mark.parametrize(("share", "passes"), [(0.8, 35), (0.5, 60), (0.0, 80)])
def test_partly_right_draft_saves_passes(share: float, passes: int) -> None:
    needed, checked = replay(Draft(spoiled(TEXT, share)), TEXT)
    assert needed <= passes
    assert checked <= 3 * 80


def test_draft_aligns_after_insertions_and_deletions() -> None:
    old, new = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [1, 2, 50, 3, 4, 5, 8, 9, 10, 11]
    draft = Draft(old, 2)
    replay(draft, new)
    assert draft.accepted >= 4


def test_wrong_draft_is_abandoned() -> None:
    _, checked = replay(Draft([5000] * 80), TEXT)
    assert checked <= MIN_CHECKED + 16


def test_failing_drafts_pause_and_resume() -> None:
    drafts, key = DraftStore(), ("gate", "cars")
    rounds = []
    for number in range(3 * PAUSE):
        draft = drafts.draft(key)
        rounds.append(draft is not None)
        truth = [1000 * number + token for token in range(40)]
        if draft:
            replay(draft, truth)
            assert draft.accepted == 0
        drafts.store(key, truth, draft)
    assert 2 <= sum(rounds) <= PAUSE
    assert rounds[0] is False, "nothing is known yet"
    drafts.store(key, TEXT, None)
    while not (again := drafts.draft(key)):
        drafts.store(key, TEXT, None)
    replay(again, TEXT)
    assert again.accepted > 60


def test_unchanged_answer_takes_one_pass() -> None:
    drafts, key = DraftStore(), ("gate", "cars")
    passes = 0
    for _ in range(5):
        draft = drafts.draft(key) or Draft([])
        passes, _ = replay(draft, TEXT)
        drafts.store(key, TEXT, draft)
    assert passes == 1
    assert draft.accepted == draft.checked > 0


def test_draft_store_is_bounded() -> None:
    drafts = DraftStore()
    for number in range(MAX_STORED + 9):
        drafts.store(("gate", str(number)), TEXT, None)
    assert len(drafts) == MAX_STORED
    assert drafts.draft(("gate", "0")) is None
