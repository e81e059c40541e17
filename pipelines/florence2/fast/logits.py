"""Choice of the next token by the checkpoint's generation settings, as tensor operations."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pipelines.florence2.generation_settings import GenerationSettings
from pipelines.florence2.tasks import BINS
from pipelines.florence2.uncertainty import uncertainty

NEAR_RATIO = 0.8
"""Minimum probability of a near location, relative to the best one's. Neighbours of the best location have about 0.9 of
its probability in the shipped model; a lower minimum accepts hardly more."""
NEAR_BINS = 1
"""Maximum distance of a near location from the best one: a thousandth of the frame's width or height."""


def ids_of(value: int | list[int] | None) -> list[int]:
    """Return a generation setting's token ids as a list; the setting is one id, several or None."""
    return [] if value is None else [value] if isinstance(value, int) else list(value)


class LogitsProcessor:
    """Applies a checkpoint's generation settings to the model's scores."""

    def __init__(self, generation: GenerationSettings, first_location: int, device: torch.device) -> None:
        self.start = ids_of(generation.decoder_start_token_id) + ids_of(generation.forced_bos_token_id)
        """Tokens at the start of every answer, forced by the settings."""
        self.ends = torch.tensor(ids_of(generation.eos_token_id), dtype=torch.long, device=device)
        self.locations = range(first_location, first_location + BINS)
        """Ids of the location tokens."""
        self._ngram = generation.no_repeat_ngram_size or 0
        self._decay = generation.exponential_decay_length_penalty
        self._suppressed = torch.tensor(generation.suppress_tokens or [], dtype=torch.long, device=device)

    def uncertainty(self, scores: Tensor, tokens: Tensor) -> Tensor:
        """Return the uncertainty of `tokens` (...) under adapted `scores` (..., vocabulary)."""
        return uncertainty(scores, tokens, self.locations.start)

    def adapt(self, scores: Tensor, history: Tensor, length: Tensor) -> Tensor:
        """Ban and favour tokens in the model's scores, float32 (rows, positions, vocabulary), in place; return them.

        `history` (rows, tokens) holds the tokens so far and the draft tokens that later positions assume; `length`
        (rows) counts those before the first position.
        """
        lengths = length[:, None] + torch.arange(scores.shape[1], device=scores.device)
        if 0 < self._ngram <= history.shape[1]:
            self._ban_repeats(scores, history, lengths)
        if self._decay is not None:
            first, factor = self._decay
            over = (lengths - first - 1).clamp(min=0)
            growth = (torch.pow(factor, over.double()) - 1).float()[..., None]
            ends = scores[..., self.ends]
            # A banned end stays banned: -inf plus inf would be NaN.
            scores[..., self.ends] = torch.where(ends.isinf(), ends, ends + ends.abs() * growth)
        scores[..., self._suppressed] = float("-inf")
        return scores

    def accept_near(self, scores: Tensor, tokens: Tensor, draft: Tensor) -> Tensor:
        """Return `tokens`, the best ones under adapted `scores`, with the draft's location where that is near.

        A drafted location is near if it is at most NEAR_BINS away from the best token and has at least NEAR_RATIO of
        its probability. `draft` has the shape of `tokens`, (rows, positions); -1 stands for no token.
        """
        first, end = self.locations.start, self.locations.stop
        best = scores.gather(-1, tokens[..., None])[..., 0]
        drafted = scores.gather(-1, draft.clamp(min=0)[..., None])[..., 0]
        near = (tokens - draft).abs() <= NEAR_BINS
        near &= (tokens >= first) & (tokens < end) & (draft >= first) & (draft < end)
        near &= drafted >= best + math.log(NEAR_RATIO)
        return torch.where(near, draft, tokens)

    def is_end(self, tokens: Tensor) -> Tensor:
        return torch.isin(tokens, self.ends)

    def _ban_repeats(self, scores: Tensor, history: Tensor, lengths: Tensor) -> None:
        """Ban repeated n-grams: a token that followed an earlier copy of the last n - 1 tokens cannot follow again."""
        size = self._ngram
        windows = history.unfold(1, size, 1)
        back = torch.arange(1 - size, 0, device=history.device)
        index = (lengths[..., None] + back).clamp(min=0)
        last = history[:, None].expand(-1, lengths.shape[1], -1).gather(2, index)
        same = (windows[:, None, :, :-1] == last[:, :, None]).all(-1)
        same &= torch.arange(size, history.shape[1] + 1, device=history.device) <= lengths[..., None]
        # amin with +inf leaves a score as it is, with -inf it bans the token.
        limits = torch.where(same, float("-inf"), float("inf"))
        tokens = windows[:, None, :, -1].expand_as(same)
        scores.scatter_reduce_(2, tokens, limits, "amin")
