"""The rehearsal: on examples of what it must not forget, a model keeps the probabilities that it had before training.

The probabilities of all words say more than the one right word, so few examples suffice (Li and Hoiem, Learning
without Forgetting, 2016).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pipelines.florence2.examples import Example
from pipelines.florence2.finetune.batches import IGNORED, Batch
from pipelines.florence2.finetune.loss import cross_entropy, token_logits
from pipelines.florence2.finetune.settings import TrainingSettings


class Rehearsal:
    """The rehearsed examples, and the model as it is before training."""

    def __init__(self, model: Any, examples: Sequence[Example], settings: TrainingSettings) -> None:
        """`model`: a Florence2ForConditionalGeneration without adapters. Adapters leave its weights as they are, so
        these are copied only if they are trained themselves."""
        self._examples = frozenset(examples)
        shared = {} if settings.full else {id(weights): weights for weights in model.parameters()}
        self._before = copy.deepcopy(model, shared).eval().requires_grad_(False) if examples else None

    def losses(self, logits: Tensor, batch: Batch, examples: Sequence[Example], all_rehearsed: bool = False) -> Tensor:
        """Return the losses of all tokens, in another order: float32 (tokens).

        `logits`: those of the trained model, as `token_logits` returns them. The loss of a rehearsed example is the
        cross entropy with the probabilities of the model before training, that of any other one with the right word.
        """
        rehearsed = torch.tensor([all_rehearsed or one in self._examples for one in examples], device=logits.device)
        if self._before is None or not rehearsed.any():
            return cross_entropy(logits, batch)
        with torch.no_grad():
            before = token_logits(self._before, batch.rows(rehearsed)).softmax(-1)
        tokens = rehearsed[:, None].expand_as(batch.labels)[batch.labels != IGNORED]
        kept = -(before * logits[tokens].log_softmax(-1)).sum(-1)
        if rehearsed.all():
            return kept
        return torch.cat([kept, cross_entropy(logits[~tokens], batch.rows(~rehearsed))])
