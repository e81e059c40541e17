"""Beam search for the quality `official`: the beams of one question look at one and the same encoder cache.

The rules are those of transformers' own beam search, so that the answers are the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pipelines.florence2.fast.decoder import Decoder
from pipelines.florence2.fast.logits import LogitsProcessor, ids_of
from pipelines.florence2.processor import Generation

_NEVER = -1e9
"""Added to the score of what must not be chosen."""
_ROOM = 64


class BeamSearch:
    """One answer. Every `step` is one token further in all beams; `written` is the answer once `done`."""

    def __init__(self, decoder: Decoder, chooser: LogitsProcessor, generation: Any, states: Tensor, cap: int) -> None:
        """`states` (places, width) is what the encoder made; `cap` the tokens an answer may have."""
        self.done = False
        self._decoder, self._chooser = decoder, chooser
        self._beams = beams = max(1, generation.num_beams or 1)
        self._stop_early: bool | str = generation.early_stopping or False
        self._length_penalty = 1.0 if generation.length_penalty is None else float(generation.length_penalty)
        self._forced_ends = ids_of(generation.forced_eos_token_id)
        # At the very last place an end may be forced, and that is no real end: one more than the cap.
        self._longest = cap + 2
        device = decoder.device
        self._cross = decoder.cache(1, len(states))
        decoder.fill_cross_cache(states[None], self._cross)
        self._bias = torch.zeros(1, 1, 1, len(states), dtype=decoder.dtype, device=device)
        self._own = decoder.cache(beams, min(_ROOM, self._longest))
        self._running = torch.tensor(chooser.start, device=device).expand(beams, -1)
        self._doubts = torch.zeros(beams, len(chooser.start), device=device)
        # All beams begin alike: only the first one counts in the first step.
        self._scores = torch.full((beams,), _NEVER, device=device)
        self._scores[0] = 0
        self._written = 0
        self._finished = torch.zeros(beams, self._longest, dtype=torch.long, device=device)
        self._finished_doubts = torch.zeros(beams, self._longest, device=device)
        self._finished_scores = torch.full((beams,), _NEVER, device=device)
        self._is_finished = torch.zeros(beams, dtype=torch.bool, device=device)

    @property
    def written(self) -> Generation:
        """The best answer."""
        return Generation(self._finished[0].tolist(), self._finished_doubts[0, 1:].tolist())

    def step(self) -> None:
        length = self._running.shape[1]
        known = self._score_tokens(length)
        scores, beam, tokens = self._candidates(known)
        sequences = torch.cat([self._running[beam], tokens[:, None]], 1)
        doubts = torch.cat([self._doubts[beam], self._chooser.uncertainty(known[beam], tokens)[:, None]], 1)
        ends = self._chooser.is_end(tokens) | (length + 1 >= self._longest)
        self._finish(sequences, doubts, scores, ends)
        scores = scores + ends.float() * _NEVER
        self._scores, kept = scores.topk(self._beams)
        self._running, self._doubts = sequences[kept], doubts[kept]
        self._own[..., : self._written, :] = self._own[:, :, beam[kept], :, : self._written]
        self.done = bool(ends.all()) or self._is_settled(length + 1)

    def _score_tokens(self, length: int) -> Tensor:
        """(beams, vocabulary): log-probability of each beam with each token behind it."""
        if self._own.shape[4] < length:
            self._own = functional.pad(self._own, (0, 0, 0, min(self._own.shape[4], self._longest - length)))
        at = torch.full((self._beams,), self._written, device=self._running.device)
        ids = self._running[:, self._written :]
        logits = self._decoder(ids, at, length, self._own, self._cross, self._bias, skip=ids.shape[1] - 1)
        self._written = length
        scores = logits.log_softmax(-1)
        if self._forced_ends and length == self._longest - 1:
            scores.fill_(float("-inf"))[..., self._forced_ends] = 0
        else:
            self._chooser.adapt(scores, self._running, torch.full_like(at, length))
        return scores[:, 0] + self._scores[:, None]

    def _candidates(self, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best continuations (score, beam, token), enough to go on if all the best of them end."""
        count = max(2, 1 + len(self._chooser.ends)) * self._beams
        best, index = scores.flatten().topk(count)
        return best, index // scores.shape[1], index % scores.shape[1]

    def _finish(self, sequences: Tensor, doubts: Tensor, scores: Tensor, ends: Tensor) -> None:
        """Take the candidates that ended among the finished ones, the best first."""
        ends = ends.clone()
        ends[self._beams :] = False
        scores = scores / (sequences.shape[1] - 1) ** self._length_penalty
        if self._stop_early is True:
            scores = scores + self._is_finished.all().float() * _NEVER
        scores = scores + (~ends).float() * _NEVER
        missing = self._longest - sequences.shape[1]
        sequences, doubts = (functional.pad(part, (0, missing)) for part in (sequences, doubts))
        self._finished_scores, kept = torch.cat([self._finished_scores, scores]).topk(self._beams)
        self._finished = torch.cat([self._finished, sequences])[kept]
        self._finished_doubts = torch.cat([self._finished_doubts, doubts])[kept]
        self._is_finished = torch.cat([self._is_finished, ends])[kept]

    def _is_settled(self, length: int) -> bool:
        """No running beam can still get better than the finished ones."""
        if self._stop_early is True and bool(self._is_finished.all()):
            return True
        longest = self._longest if self._stop_early == "never" and self._length_penalty > 0 else length
        possible = self._scores[0] / (longest - 1) ** self._length_penalty
        worst = torch.where(self._is_finished, self._finished_scores.min(), _NEVER)
        return not bool((possible > worst).any())
