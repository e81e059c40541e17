"""Beam search for the quality `official`. All beams of an answer share one cross cache.

The rules are those of beam search in transformers, so that the answers are the same.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pipelines.florence2.fast.decoder import Decoder
from pipelines.florence2.fast.graphs import device_tensor
from pipelines.florence2.fast.logits import LogitsProcessor, ids_of
from pipelines.florence2.generation_settings import GenerationSettings
from pipelines.florence2.processor import Generation

_NEVER = -1e9
"""Log-probability of a beam that must not be chosen, as in transformers."""
_ROOM = 64
"""Answer tokens for which the cache is allocated at first; doubled when the beams reach the end."""


class BeamSearch:
    """The search for one answer. Each `step` adds one token to all beams; `generation` is valid once `done`."""

    def __init__(
        self,
        decoder: Decoder,
        logits_processor: LogitsProcessor,
        generation: GenerationSettings,
        states: Tensor,
        max_tokens: int,
    ) -> None:
        """`states` (positions, width) is the encoder's output; `max_tokens` bounds the answer."""
        self.done = False
        self._decoder, self._logits_processor = decoder, logits_processor
        self._beams = beams = max(1, generation.num_beams or 1)
        self._early_stopping: bool | str = generation.early_stopping or False
        self._length_penalty = 1.0 if generation.length_penalty is None else float(generation.length_penalty)
        self._forced_ends = ids_of(generation.forced_eos_token_id)
        # One more than the bound: an end that is forced at the very last position is no real end.
        self._max_length = max_tokens + 2
        device = decoder.device
        self._cross = decoder.cache(1, len(states))
        decoder.fill_cross_cache(states[None], self._cross)
        self._bias = torch.zeros(1, 1, 1, len(states), dtype=decoder.dtype, device=device)
        self._own = decoder.cache(beams, min(_ROOM, self._max_length))
        self._running = device_tensor(logits_processor.start, torch.long, device).expand(beams, -1)
        self._uncertainty = torch.zeros(beams, len(logits_processor.start), device=device)
        # All beams begin alike, so only the first one counts in the first step.
        self._scores = torch.full((beams,), _NEVER, device=device)
        self._scores[0] = 0
        self._cached = 0
        """Tokens whose keys and values are in the cache."""
        self._finished = torch.zeros(beams, self._max_length, dtype=torch.long, device=device)
        self._finished_uncertainty = torch.zeros(beams, self._max_length, device=device)
        self._finished_scores = torch.full((beams,), _NEVER, device=device)
        self._is_finished = torch.zeros(beams, dtype=torch.bool, device=device)

    @property
    def generation(self) -> Generation:
        """The best answer."""
        return Generation(self._finished[0].tolist(), self._finished_uncertainty[0, 1:].tolist())

    def step(self) -> None:
        length = self._running.shape[1]
        token_scores = self._score_tokens(length)
        # Enough continuations to go on when all the best of them end.
        count = max(2, 1 + len(self._logits_processor.ends)) * self._beams
        scores, index = token_scores.flatten().topk(count)
        beam, tokens = index // token_scores.shape[1], index % token_scores.shape[1]
        sequences = torch.cat([self._running[beam], tokens[:, None]], 1)
        newest = self._logits_processor.uncertainty(token_scores[beam], tokens)
        uncertainty = torch.cat([self._uncertainty[beam], newest[:, None]], 1)
        ends = self._logits_processor.is_end(tokens) | (length + 1 >= self._max_length)
        self._finish(sequences, uncertainty, scores, ends)
        scores = scores + ends.float() * _NEVER
        self._scores, kept = scores.topk(self._beams)
        self._running, self._uncertainty = sequences[kept], uncertainty[kept]
        self._own[..., : self._cached, :] = self._own[:, :, beam[kept], :, : self._cached]
        self.done = bool(ends.all()) or self._is_settled(length + 1)

    def _score_tokens(self, length: int) -> Tensor:
        """Return the log-probability of each beam with each next token: (beams, vocabulary)."""
        if self._own.shape[4] < length:
            self._own = functional.pad(self._own, (0, 0, 0, min(self._own.shape[4], self._max_length - length)))
        ids = self._running[:, self._cached :]
        positions = torch.arange(self._cached, length, device=ids.device).expand(self._beams, -1)
        visible = self._decoder.visible(positions, length)
        caches = self._own, self._cross, self._bias
        logits = self._decoder(ids, positions, visible, *caches, skip=ids.shape[1] - 1)
        self._cached = length
        scores = logits.log_softmax(-1)
        if self._forced_ends and length == self._max_length - 1:
            scores.fill_(float("-inf"))[..., self._forced_ends] = 0
        else:
            history = functional.pad(self._running, (self._logits_processor.lead, 0))
            self._logits_processor.adapt(scores, history, positions[:, -1:], visible[:, -1:])
        return scores[:, 0] + self._scores[:, None]

    def _finish(self, sequences: Tensor, uncertainty: Tensor, scores: Tensor, ends: Tensor) -> None:
        """Merge the candidates that ended into the finished answers, best first."""
        ends = ends.clone()
        ends[self._beams :] = False
        scores = scores / (sequences.shape[1] - 1) ** self._length_penalty
        if self._early_stopping is True:
            scores = scores + self._is_finished.all().float() * _NEVER
        scores = scores + (~ends).float() * _NEVER
        missing = self._max_length - sequences.shape[1]
        sequences, uncertainty = (functional.pad(part, (0, missing)) for part in (sequences, uncertainty))
        self._finished_scores, kept = torch.cat([self._finished_scores, scores]).topk(self._beams)
        self._finished = torch.cat([self._finished, sequences])[kept]
        self._finished_uncertainty = torch.cat([self._finished_uncertainty, uncertainty])[kept]
        self._is_finished = torch.cat([self._is_finished, ends])[kept]

    def _is_settled(self, length: int) -> bool:
        """Return whether no running beam can become better than the finished answers."""
        if self._early_stopping is True and bool(self._is_finished.all()):
            return True
        longest = self._max_length if self._early_stopping == "never" and self._length_penalty > 0 else length
        possible = self._scores[0] / (longest - 1) ** self._length_penalty
        worst = torch.where(self._is_finished, self._finished_scores.min(), _NEVER)
        return not bool((possible > worst).any())
