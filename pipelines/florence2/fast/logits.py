"""Choice of the next token by the checkpoint's generation settings, as tensor operations."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pipelines.florence2.fast.graphs import device_tensor
from pipelines.florence2.generation_settings import GenerationSettings
from pipelines.florence2.tasks import BINS
from pipelines.florence2.uncertainty import Uncertainty

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
        self.ends = device_tensor(ids_of(generation.eos_token_id), torch.long, device)
        self.locations = range(first_location, first_location + BINS)
        """Ids of the location tokens."""
        self.uncertainty = Uncertainty(first_location, device)
        """Returns the uncertainty of tokens (...) under adapted scores (..., vocabulary)."""
        self._ngram = generation.no_repeat_ngram_size or 0
        self.lead = max(0, self._ngram - 2)
        """Columns before the first token of a history, so that a window of n - 1 tokens ends at each token."""
        self._decay = generation.exponential_decay_length_penalty
        suppressed = generation.suppress_tokens
        self._suppressed = device_tensor(suppressed, torch.long, device) if suppressed else None
        self._never, self._always = (torch.full((), value, device=device) for value in (-math.inf, math.inf))

    def adapt(self, scores: Tensor, history: Tensor, positions: Tensor, visible: Tensor) -> Tensor:
        """Ban and favour tokens in the model's scores, float32 (rows, places, vocabulary), in place; return them.

        `positions` (rows, places) are those of the tokens that the scores follow. `history` (rows, lead + tokens) holds
        the tokens so far and the draft tokens that later places assume; `visible` (rows, places, tokens) marks those
        at the place's position and before it.
        """
        if 0 < self._ngram <= visible.shape[2]:
            self._ban_repeats(scores, history, positions, visible)
        if self._decay is not None:
            first, factor = self._decay
            over = (positions - first).clamp(min=0)
            growth = (torch.pow(factor, over.double()) - 1).float()[..., None]
            ends = scores[..., self.ends]
            # A banned end stays banned: -inf plus inf would be NaN.
            scores[..., self.ends] = torch.where(ends.isinf(), ends, ends + ends.abs() * growth)
        if self._suppressed is not None:
            scores.index_fill_(-1, self._suppressed, -math.inf)
        return scores

    def accept_near(self, scores: Tensor, tokens: Tensor, draft: Tensor) -> Tensor:
        """Return `tokens`, the best ones under adapted `scores`, with the draft's location where that is near.

        A drafted location is near if it is at most NEAR_BINS away from the best token and has at least NEAR_RATIO of
        its probability. `draft` has the shape of `tokens`, (rows, positions); 0 stands for no token.
        """
        first, end = self.locations.start, self.locations.stop
        best = scores.gather(-1, tokens[..., None])[..., 0]
        drafted = scores.gather(-1, draft[..., None])[..., 0]
        low, high = torch.minimum(tokens, draft), torch.maximum(tokens, draft)
        near = high - low <= NEAR_BINS
        near &= (low >= first) & (high < end)
        near &= drafted >= best + math.log(NEAR_RATIO)
        return torch.where(near, draft, tokens)

    def is_end(self, tokens: Tensor) -> Tensor:
        found = tokens[..., None] == self.ends
        return found[..., 0] if len(self.ends) == 1 else found.any(-1)

    def _ban_repeats(self, scores: Tensor, history: Tensor, positions: Tensor, visible: Tensor) -> None:
        """Ban repeated n-grams: a token that followed an earlier copy of the last n - 1 tokens cannot follow again."""
        size = self._ngram
        windows = history[:, self.lead :].unfold(1, size, 1)[:, None]
        last = history.unfold(1, size - 1, 1).gather(1, positions[..., None].expand(-1, -1, size - 1))
        same = (windows[..., :-1] == last[:, :, None]).all(-1)
        same &= visible[..., size - 1 :]
        # amin with +inf leaves a score as it is, with -inf it bans the token.
        limits = torch.where(same, self._never, self._always)
        scores.scatter_reduce_(2, windows[..., -1].expand_as(same), limits, "amin")
