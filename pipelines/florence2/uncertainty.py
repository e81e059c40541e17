"""How unsure the model was of each token it wrote; from its scores, as operations on tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from pipelines.florence2.tasks import BINS

FAR = 100
"""Bins; a location that far off is as wrong as one anywhere else."""


def uncertainty(scores: Tensor, tokens: Tensor, first: int) -> Tensor:
    """Of a word's token: -log of its probability. Of a location: how many bins off it is expected to be, at most FAR.

    `scores` (..., vocabulary) are logits or log-probabilities; `tokens` (...) were chosen from them; `first` is the id
    of `<loc_0>`. Neighbouring bins share what the model knows of one place, so a bin's own probability says little.
    """
    whole = scores.logsumexp(-1)
    word = whole - scores.gather(-1, tokens[..., None])[..., 0]
    places = (scores[..., first : first + BINS] - whole[..., None]).exp()
    bins = torch.arange(first, first + BINS, device=tokens.device)
    off = (bins - tokens[..., None]).abs().clamp(max=FAR) - FAR
    # All that is no location counts as far off.
    location = FAR + (places * off).sum(-1)
    return torch.where((tokens >= first) & (tokens < first + BINS), location, word)
