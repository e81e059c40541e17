"""The rewritten parts of the model against the library's own, and the drafts."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GenerationConfig
from transformers.generation.logits_process import (
    ExponentialDecayLengthPenalty,
    NoRepeatNGramLogitsProcessor,
    SuppressTokensLogitsProcessor,
)

from pipelines.florence2.checkpoint import load
from pipelines.florence2.checkpoint_files import open_folder
from pipelines.florence2.fast.davit import DaViT
from pipelines.florence2.fast.decoder import Decoder
from pipelines.florence2.fast.encoder import Encoder
from pipelines.florence2.fast.logits import LogitsProcessor, unsupported
from pipelines.florence2.fast.speculative import MAX_STORED, MIN_CHECKED, PAUSE, Draft, DraftStore

PROMPTS = [[0, 5, 6, 7, 2], [0, 9, 2]]


def assert_close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Any:
    return load(open_folder(str(checkpoint)), "cpu", "float32").model


@pytest.fixture(autouse=True)
def _inference() -> Any:
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("size", [(96, 96), (144, 144), (100, 130), (72, 200), (7, 9)])
def test_vision_equals_the_librarys(model: Any, size: tuple[int, int]) -> None:
    """Windows of 4: most of these sizes need padding in one stage or another."""
    pixels = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    vision = DaViT(model, *size)
    theirs = model.model.get_image_features(pixels).pooler_output
    assert_close(vision(pixels), theirs)
    assert vision.tokens == theirs.shape[1]


def test_encoder_and_decoder_equal_the_librarys(model: Any) -> None:
    """Rows of different length, tokens in pieces, rows at different places in one pass."""
    pixels = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    states = Encoder(model)(list(DaViT(model, 96, 96)(pixels)), PROMPTS)
    image = [model.config.image_token_id] * 10
    written = torch.tensor([[2, 0, 10, 11, 12], [2, 0, 20, 21, 22]])
    theirs = model(
        input_ids=torch.tensor([image + PROMPTS[0], [*image, *PROMPTS[1], 1, 1]]),
        attention_mask=torch.tensor([[1] * 15, [1] * 13 + [0] * 2]),
        pixel_values=pixels,
        decoder_input_ids=written,
    )
    assert_close(states[0], theirs.encoder_last_hidden_state[0])
    assert_close(states[1, :13], theirs.encoder_last_hidden_state[1, :13])

    decoder = Decoder(model)
    own, cross = decoder.cache(2, 20), decoder.cache(2, 20)
    decoder.fill_cross_cache(states, cross)
    bias = torch.zeros(2, 1, 1, 20)
    bias[0, ..., 15:], bias[1, ..., 13:] = float("-inf"), float("-inf")
    first = decoder(written[:, :2], torch.tensor([0, 0]), 2, own, cross, bias, skip=1)
    assert_close(first[:, 0], theirs.logits[:, 1])
    piece = decoder(written[:1, 2:4], torch.tensor([2]), 4, own[:, :, :1], cross[:, :, :1], bias[:1], skip=0)
    assert_close(piece[0], theirs.logits[0, 2:4])
    mixed = torch.stack([written[0, 4:5], written[1, 2:3]])
    both = decoder(mixed, torch.tensor([4, 2]), 5, own, cross, bias, skip=0)
    assert_close(both[:, 0], torch.stack([theirs.logits[0, 4], theirs.logits[1, 2]]))


@given(
    tokens=st.lists(st.integers(0, 3), min_size=1, max_size=14),
    size=st.integers(0, 4),
    ahead=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_choice_equals_the_librarys(tokens: list[int], size: int, ahead: int, seed: int) -> None:
    """Few different tokens, so that they repeat; places behind drafts see the drafts."""
    ahead = min(ahead, len(tokens) - 1)
    generation = GenerationConfig(
        no_repeat_ngram_size=size,
        eos_token_id=2,
        decoder_start_token_id=2,
        exponential_decay_length_penalty=(5, 1.2),
        suppress_tokens=[5],
    )
    chooser = LogitsProcessor(generation, 6, torch.device("cpu"))
    scores = torch.randn(1, ahead + 1, 6, generator=torch.Generator().manual_seed(seed))
    scores = torch.nn.functional.pad(scores, (0, 1000), value=-100.0)  # locations
    history = torch.tensor([[*tokens, 3, 3]])
    chosen, _ = chooser(scores.clone(), history, torch.tensor([len(tokens) - ahead]))
    for place in range(ahead + 1):
        ids: Any = history[:, : len(tokens) - ahead + place]
        theirs: Any = scores[:, place]
        if size:
            theirs = NoRepeatNGramLogitsProcessor(size)(ids, theirs)
        theirs = ExponentialDecayLengthPenalty((5, 1.2), [2], 1)(ids, theirs)
        theirs = SuppressTokensLogitsProcessor([5])(ids, theirs)
        if theirs.isnan().any():
            return  # A banned end that is favoured is no number there.
        assert int(chosen[0, place]) == int(theirs.argmax())


def test_what_the_choice_does_not_know_is_named() -> None:
    known = GenerationConfig(num_beams=3, no_repeat_ngram_size=3, forced_bos_token_id=0, max_length=20, eos_token_id=2)
    assert unsupported(known) == []
    assert unsupported(GenerationConfig(repetition_penalty=1.2, min_length=4)) == ["min_length", "repetition_penalty"]


def replay(draft: Draft, truth: list[int], most: int = 1000) -> tuple[int, int]:
    """(Passes, tokens checked) that writing `truth` takes with a draft, as the decoder does it."""
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


def test_a_right_draft_takes_few_passes() -> None:
    assert replay(Draft(TEXT), TEXT)[0] <= 5
    assert replay(Draft(TEXT, 80), TEXT)[0] == 1


@pytest.mark.parametrize(("share", "passes"), [(0.8, 35), (0.5, 60), (0.0, 80)])
def test_a_partly_right_draft_saves_passes_and_checks_little(share: float, passes: int) -> None:
    needed, checked = replay(Draft(spoiled(TEXT, share)), TEXT)
    assert needed <= passes
    assert checked <= 3 * 80


def test_a_draft_is_lined_up_after_what_came_new_and_what_is_gone() -> None:
    old, new = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [1, 2, 50, 3, 4, 5, 8, 9, 10, 11]
    draft = Draft(old, 2)
    replay(draft, new)
    assert draft.accepted >= 4


def test_a_wrong_draft_is_given_up() -> None:
    _, checked = replay(Draft([5000] * 80), TEXT)
    assert checked <= MIN_CHECKED + 16


def test_drafts_rest_where_they_do_not_pay_and_come_back() -> None:
    drafts, key = DraftStore(), ("gate", "cars")
    rounds = []
    for number in range(3 * PAUSE):
        draft = drafts.draft(key)
        rounds.append(draft is not None)
        truth = [1000 * number + token for token in range(40)]
        if draft:
            replay(draft, truth)
        drafts.store(key, truth, draft)
    assert 2 <= sum(rounds) <= PAUSE
    assert rounds[0] is False, "nothing is known yet"
    assert drafts.stats.acceptance == 0.0
    drafts.store(key, TEXT, None)
    while not (again := drafts.draft(key)):
        drafts.store(key, TEXT, None)
    replay(again, TEXT)
    assert again.accepted > 60


def test_a_still_scene_settles_at_one_pass() -> None:
    drafts, key = DraftStore(), ("gate", "cars")
    passes = 0
    for _ in range(5):
        draft = drafts.draft(key) or Draft([])
        passes, _ = replay(draft, TEXT)
        drafts.store(key, TEXT, draft)
    assert passes == 1
    assert drafts.stats.acceptance == 1.0


def test_drafts_are_bounded() -> None:
    drafts = DraftStore()
    for number in range(MAX_STORED + 9):
        drafts.store(("gate", str(number)), TEXT, None)
    assert len(drafts) == MAX_STORED
    assert drafts.draft(("gate", "0")) is None
