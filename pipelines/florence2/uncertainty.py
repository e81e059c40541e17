"""Uncertainty of generated tokens, computed from the model's logits as tensor operations."""

from __future__ import annotations

import torch
from torch import Tensor

from pipelines.florence2.tasks import BINS

MAX_ERROR = 100
"""Bins; a location that is off by more counts as off by this much."""


class Uncertainty:
    """Computes the uncertainty of tokens: a number for words and another one for locations."""

    def __init__(self, first_location: int, device: torch.device) -> None:
        """`first_location` is the id of `<loc_0>`."""
        self._first = first_location
        distances = torch.arange(1 - BINS, BINS, device=device).abs()
        # Row BINS - 1 - bin holds how much closer than MAX_ERROR each bin is to `bin`.
        self._closeness = (MAX_ERROR - distances.clamp(max=MAX_ERROR)).float().unfold(0, BINS, 1)
        self._max_error = torch.full((1, 1, 1), float(MAX_ERROR), device=device)

    def __call__(self, scores: Tensor, tokens: Tensor) -> Tensor:
        """Return -log(probability) for a word token, and the expected error in bins, up to MAX_ERROR, for a location.

        `scores` (..., vocabulary) are logits or log-probabilities, `tokens` (...) were chosen from them. The
        probability of a single bin says little about a location, because the model spreads it over neighbouring bins.
        """
        return self.finish(self.measure(scores, tokens), tokens)

    def measure(self, scores: Tensor, tokens: Tensor) -> Tensor:
        """Return what `finish` needs: the probability of a word token, the expected error of a location."""
        probabilities = scores.softmax(-1)
        word = probabilities.gather(-1, tokens[..., None])[..., 0]
        reverse = self._first + BINS - 1 - tokens
        row = reverse.clamp(0, BINS - 1)
        closeness = self._closeness[row].view(-1, BINS, 1)
        locations = probabilities[..., self._first : self._first + BINS].reshape(-1, 1, BINS)
        # Tokens that are no location count with the maximum error.
        location = torch.baddbmm(self._max_error, locations, closeness, alpha=-1).view(tokens.shape)
        return torch.where(reverse == row, location, word)

    def finish(self, measured: Tensor, tokens: Tensor) -> Tensor:
        """Return the uncertainty of tokens, once for a whole answer."""
        is_location = (tokens >= self._first) & (tokens < self._first + BINS)
        return torch.where(is_location, measured, measured.log().neg())
