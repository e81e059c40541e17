"""The logits processor compared with transformers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    ExponentialDecayLengthPenalty,
    NoRepeatNGramLogitsProcessor,
    SuppressTokensLogitsProcessor,
)

from pipelines.florence2.fast.logits import NEAR_RATIO, LogitsProcessor
from pipelines.florence2.generation_settings import GenerationSettings


def adapt(processor: LogitsProcessor, scores: torch.Tensor, tokens: torch.Tensor, first: int) -> torch.Tensor:
    """Return adapted scores that follow the tokens from `first` on."""
    positions = torch.arange(first, first + scores.shape[1])[None]
    history = torch.nn.functional.pad(tokens, (processor.lead, 0), value=3)
    visible = torch.arange(tokens.shape[1]) <= positions[..., None]
    return processor.adapt(scores, history, positions, visible)


@given(
    tokens=st.lists(st.integers(0, 3), min_size=1, max_size=14),
    size=st.integers(0, 4),
    ahead=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_logits_processor_equals_transformers(tokens: list[int], size: int, ahead: int, seed: int) -> None:
    """Few different tokens, so that n-grams repeat; positions behind a draft take the draft into account."""
    ahead = min(ahead, len(tokens) - 1)
    generation = GenerationSettings(
        no_repeat_ngram_size=size,
        eos_token_id=2,
        decoder_start_token_id=2,
        exponential_decay_length_penalty=(5, 1.2),
        suppress_tokens=[5],
    )
    processor = LogitsProcessor(generation, 6, torch.device("cpu"))
    scores = torch.randn(1, ahead + 1, 6, generator=torch.Generator().manual_seed(seed))
    scores = torch.nn.functional.pad(scores, (0, 1000), value=-100.0)  # locations
    history = torch.tensor([[*tokens, 3, 3]])
    chosen = adapt(processor, scores.clone(), history, len(tokens) - ahead - 1).argmax(-1)
    for place in range(ahead + 1):
        ids: Any = history[:, : len(tokens) - ahead + place]
        theirs: Any = scores[:, place]
        if size:
            theirs = NoRepeatNGramLogitsProcessor(size)(ids, theirs)
        theirs = ExponentialDecayLengthPenalty((5, 1.2), [2], 1)(ids, theirs)
        theirs = SuppressTokensLogitsProcessor([5])(ids, theirs)
        if theirs.isnan().any():
            return  # transformers computes NaN for a banned end that is favoured.
        assert int(chosen[0, place]) == int(theirs.argmax())


@pytest.mark.parametrize(
    ("best", "draft", "ratio", "accepted"),
    [
        (500, 501, NEAR_RATIO + 0.01, True),
        (500, 499, NEAR_RATIO + 0.01, True),
        (500, 501, NEAR_RATIO - 0.01, False),
        (500, 502, 0.99, False),
        (500, 500, 1.0, True),
        (6, 5, 0.99, False),
        (5, 6, 0.99, False),
        (1005, 1006, 0.99, False),
        (4, 5, 0.99, False),
        (500, 0, 0.99, False),
    ],
    ids=lambda value: str(value),
)
def test_near_draft_is_next_location_of_like_probability(best: int, draft: int, ratio: float, accepted: bool) -> None:
    """The locations are the tokens 6 to 1005 of 1010."""
    processor = LogitsProcessor(GenerationSettings(eos_token_id=2, decoder_start_token_id=2), 6, torch.device("cpu"))
    scores = torch.full((1, 1, 1010), -9.0)
    scores[0, 0, draft] = math.log(ratio)
    scores[0, 0, best] = 0.0
    chosen = processor.accept_near(scores, torch.tensor([[best]]), torch.tensor([[draft]]))
    assert chosen.tolist() == [[draft if accepted else best]]


def test_near_draft_obeys_ban_of_repeats() -> None:
    generation = GenerationSettings(eos_token_id=2, decoder_start_token_id=2, no_repeat_ngram_size=2)
    processor = LogitsProcessor(generation, 6, torch.device("cpu"))
    scores = torch.full((1, 1, 1010), -9.0)
    scores[0, 0, 500:502] = torch.tensor([0.0, -0.01])
    history = torch.tensor([[400, 501, 400]])
    adapted = adapt(processor, scores, history, 2)
    assert processor.accept_near(adapted, torch.tensor([[500]]), torch.tensor([[501]])).tolist() == [[500]]
