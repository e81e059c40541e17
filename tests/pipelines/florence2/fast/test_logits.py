"""The logits processor compared with transformers."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GenerationConfig
from transformers.generation.logits_process import (
    ExponentialDecayLengthPenalty,
    NoRepeatNGramLogitsProcessor,
    SuppressTokensLogitsProcessor,
)

from pipelines.florence2.fast.logits import LogitsProcessor, unsupported


@given(
    tokens=st.lists(st.integers(0, 3), min_size=1, max_size=14),
    size=st.integers(0, 4),
    ahead=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_logits_processor_equals_transformers(tokens: list[int], size: int, ahead: int, seed: int) -> None:
    """Few different tokens, so that n-grams repeat; positions behind a draft take the draft into account."""
    ahead = min(ahead, len(tokens) - 1)
    generation = GenerationConfig(
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
    chosen, _ = processor(scores.clone(), history, torch.tensor([len(tokens) - ahead]))
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


def test_unsupported_generation_settings_are_named() -> None:
    known = GenerationConfig(num_beams=3, no_repeat_ngram_size=3, forced_bos_token_id=0, max_length=20, eos_token_id=2)
    assert unsupported(known) == []
    assert unsupported(GenerationConfig(repetition_penalty=1.2, min_length=4)) == ["min_length", "repetition_penalty"]
