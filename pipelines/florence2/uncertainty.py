"""Uncertainty of generated tokens, computed from the model's logits as tensor operations."""

from __future__ import annotations

import torch
from torch import Tensor

from pipelines.florence2.tasks import BINS

MAX_ERROR = 100
"""Bins; a location that is off by more counts as off by this much."""


def uncertainty(scores: Tensor, tokens: Tensor, first_location: int) -> Tensor:
    """Return -log(probability) for a word token, and the expected error in bins, up to MAX_ERROR, for a location.

    `scores` (..., vocabulary) are logits or log-probabilities, `tokens` (...) were chosen from them, and
    `first_location` is the id of `<loc_0>`. The probability of a single bin says little about a location, because the
    model spreads it over neighbouring bins.
    """
    normaliser = scores.logsumexp(-1)
    word = normaliser - scores.gather(-1, tokens[..., None])[..., 0]
    end = first_location + BINS
    probabilities = (scores[..., first_location:end] - normaliser[..., None]).exp()
    bins = torch.arange(first_location, end, device=tokens.device)
    errors = (bins - tokens[..., None]).abs().clamp(max=MAX_ERROR) - MAX_ERROR
    # Tokens that are no location count with the maximum error.
    location = MAX_ERROR + (probabilities * errors).sum(-1)
    return torch.where((tokens >= first_location) & (tokens < end), location, word)
