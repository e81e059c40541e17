"""Drafts: proposals, alignment, pauses and bounds."""

from __future__ import annotations

import random
from itertools import chain

import pytest

from pipelines.florence2.fast.speculative import MAX_STORED, PAUSE, Draft, DraftStore, Rates


def replay(draft: Draft, truth: list[int], most: int = 1000, guesses_right: bool = False) -> tuple[int, int]:
    """Return the passes and checked tokens that generating `truth` takes with a draft.

    `guesses_right`: the model chooses the right tokens also behind a draft token that is wrong. Default: it repeats the
    draft there.
    """
    place = passes = checked = 0
    while place < len(truth):
        proposal = list(draft.propose(min(most, len(truth) - place - 1)))
        right = 0
        while right < len(proposal) and proposal[right] == truth[place + right]:
            right += 1
        behind = truth[place + right + 1 : place + len(proposal) + 1] if guesses_right else proposal[right + 1 :]
        draft.record(len(proposal), right, truth[place + right], behind)
        place, passes, checked = place + right + 1, passes + 1, checked + len(proposal)
    return passes, checked


def spoiled(tokens: list[int], share: float, seed: int = 1) -> list[int]:
    rng = random.Random(seed)
    return [token if rng.random() < share else 1000 + rng.randrange(1000) for token in tokens]


TEXT = list(range(80))
LOCATIONS = range(5000, 6000)


def objects(count: int, seed: int) -> list[list[int]]:
    """Return the tokens of some objects: two words from a small vocabulary and four locations each."""
    rng = random.Random(seed)
    return [
        [100 + rng.randrange(7), 200 + rng.randrange(6), *(LOCATIONS[rng.randrange(1000)] for _ in range(4))]
        for _ in range(count)
    ]


def passes(old: list[list[int]], new: list[list[int]], guesses_right: bool = False) -> int:
    """Return the passes of an answer about the objects `new` with a draft about `old`."""
    draft = Draft([*chain(*old)], LOCATIONS, Rates(0.98, 0.95))
    return replay(draft, [*chain(*new), 2], guesses_right=guesses_right)[0]


def test_right_draft_takes_few_passes() -> None:
    assert replay(Draft(TEXT, LOCATIONS), TEXT)[0] <= 4
    assert replay(Draft(TEXT, LOCATIONS, Rates(words=0.99)), TEXT)[0] == 1


@pytest.mark.parametrize(("share", "passes"), [(0.8, 35), (0.5, 60), (0.0, 80)])
def test_partly_right_draft_saves_passes(share: float, passes: int) -> None:
    needed, checked = replay(Draft(spoiled(TEXT, share), LOCATIONS), TEXT)
    assert needed <= passes
    assert checked <= 3 * 80


def test_draft_aligns_after_insertions_and_deletions() -> None:
    old, new = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [1, 2, 50, 3, 4, 5, 8, 9, 10, 11]
    draft = Draft(old, LOCATIONS)
    replay(draft, new)
    assert draft.accepted >= 4


def test_wrong_draft_is_abandoned() -> None:
    needed, checked = replay(Draft([4000] * 80, LOCATIONS), TEXT)
    assert needed == len(TEXT)
    assert checked <= 52


@pytest.mark.parametrize("seed", range(5))
def test_moved_object_costs_its_locations_only(seed: int) -> None:
    old = objects(10, seed)
    new = [[*one[:2], *(token + 3 for token in one[2:])] if place == 4 else one for place, one in enumerate(old)]
    assert passes(old, new) <= 4 + 4


@pytest.mark.parametrize("seed", range(5))
def test_moved_objects_cost_few_passes_when_guesses_are_right(seed: int) -> None:
    old = objects(10, seed)
    new = [[*one[:2], *(token + 3 for token in one[2:])] for one in old]
    assert passes(old, new) > 4 * 10
    assert passes(old, new, guesses_right=True) <= 7


def test_only_locations_at_the_same_places_are_corrected() -> None:
    first, second = LOCATIONS[100], LOCATIONS[200]
    draft = Draft([7, first, first, 8, first, 9, first], LOCATIONS, Rates(0.99, 0.99))
    draft.record(6, 1, second, [second, 4, 5, second, second, second])
    assert draft.propose(9) == [second, 8, first, 9, first]
    draft = Draft([7, first, first, 8, first, 9, first], LOCATIONS, Rates(0.99, 0.99))
    draft.record(6, 1, second, [second, 4, second, 3, second, 1, 2, 3])
    assert draft.propose(9) == [second, 8, second, 9, second]


@pytest.mark.parametrize("seed", range(5))
def test_inserted_or_removed_object_costs_few_passes(seed: int) -> None:
    more = objects(11, seed)
    fewer = [*more[:5], *more[6:]]
    assert passes(more, fewer) <= 12
    assert passes(fewer, more) <= 20


def test_failed_locations_do_not_stop_words() -> None:
    """Locations that always differ are checked a few times in each answer, words as before."""
    drafts, key = DraftStore(LOCATIONS), ("gate", "cars")
    for number in range(6):
        answer = [
            token for place in range(10) for token in (100, 101, 102, LOCATIONS[(37 * place + 500 * number) % 1000])
        ]
        draft = drafts.draft(key)
        if draft:
            replay(draft, answer)
        drafts.store(key, answer, draft)
    assert draft
    assert draft.accepted >= 27
    assert draft.checked - draft.accepted <= 38


def test_failing_drafts_pause_and_resume() -> None:
    drafts, key = DraftStore(LOCATIONS), ("gate", "cars")
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
    drafts, key = DraftStore(LOCATIONS), ("gate", "cars")
    passes = 0
    for _ in range(5):
        draft = drafts.draft(key) or Draft([], LOCATIONS)
        passes, _ = replay(draft, TEXT)
        drafts.store(key, TEXT, draft)
    assert passes == 1
    assert draft.accepted == draft.checked > 0


def test_draft_store_is_bounded() -> None:
    drafts = DraftStore(LOCATIONS)
    for number in range(MAX_STORED + 9):
        drafts.store(("gate", str(number)), TEXT, None)
    assert len(drafts) == MAX_STORED
    assert drafts.draft(("gate", "0")) is None
