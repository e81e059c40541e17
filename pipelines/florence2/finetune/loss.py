"""The loss of answers: cross entropy of each token after the tokens before it, or distance from another model.

It does not use the loss of transformers' Florence-2, whose labels were shifted twice in some versions.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.florence2.finetune.batches import IGNORED, Batch


def token_losses(model: Any, batch: Batch, train_vision: bool = False) -> Tensor:
    """Return the cross entropy of all tokens of a batch's answers, float32 (tokens). For the arguments see
    `token_logits`."""
    return cross_entropy(token_logits(model, batch, train_vision), batch)


def cross_entropy(logits: Tensor, batch: Batch) -> Tensor:
    """Return the cross entropy of all tokens of a batch's answers, float32 (tokens)."""
    return nn.functional.cross_entropy(logits, batch.labels[batch.labels != IGNORED], reduction="none")


def token_logits(model: Any, batch: Batch, train_vision: bool = False) -> Tensor:
    """Return the scores of all words for each token of a batch's answers, float32 (tokens, words).

    `model`: a Florence2ForConditionalGeneration, or one with adapters. Without `train_vision` no gradient flows into
    the vision tower.
    """
    with nullcontext() if train_vision else torch.no_grad():
        features = model.get_image_features(batch.pixels).pooler_output
    prompts = model.get_input_embeddings()(batch.prompts)
    embedded = torch.cat([features[batch.picture].to(prompts.dtype), prompts], dim=1)
    image_seen = batch.seen.new_ones(len(batch.seen), features.shape[1])
    seen = torch.cat([image_seen, batch.seen], dim=1)
    language = model.model.language_model
    encoded = language.encoder(inputs_embeds=embedded, attention_mask=seen).last_hidden_state
    text = model.config.text_config
    start = batch.labels.new_full((len(batch.labels), 1), text.decoder_start_token_id)
    given = torch.cat([start, batch.labels[:, :-1]], dim=1)
    decoded = language.decoder(
        input_ids=given.masked_fill(given == IGNORED, text.pad_token_id),
        encoder_hidden_states=encoded,
        encoder_attention_mask=seen,
        use_cache=False,
    ).last_hidden_state
    logits: Tensor = model.lm_head(decoded[batch.labels != IGNORED])
    return logits.float()
