"""The text encoder: one row per job, over its image tokens and prompt tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pipelines.florence2.fast.layers import FeedForward, linear, norm


class _Layer:
    def __init__(self, layer: Any) -> None:
        attention = layer.self_attn
        self.heads: int = attention.num_heads
        self.qkv = linear(attention.q_proj, attention.k_proj, attention.v_proj)
        self.out = linear(attention.out_proj)
        self.norm = norm(layer.self_attn_layer_norm)
        self.feed_forward = FeedForward(layer)

    def __call__(self, x: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        x = self.feed_forward(self.norm(self.out(y).add_(x)))
        if x.dtype == torch.float16:
            limit = torch.finfo(torch.float16).max - 1000
            x = x.clamp(-limit, limit)
        return x


class Embedding:
    """Makes the input of the encoder layers."""

    def __init__(self, encoder: Any) -> None:
        self._tokens = encoder.embed_tokens.weight.detach()
        self._scale = float(encoder.embed_tokens.embed_scale)
        self._positions = encoder.embed_positions.weight.detach()[encoder.embed_positions.offset :]
        self._norm = norm(encoder.layernorm_embedding)

    def __call__(self, image: Tensor, prompt: Sequence[int]) -> Tensor:
        """Return (positions, width): the image tokens (tokens, width), then the prompt."""
        x = torch.cat([image, self._tokens[list(prompt)] * self._scale])
        return self._norm(x + self._positions[: len(x)])


class Encoder:
    """The encoder layers, with the embedding of the prompt."""

    def __init__(self, model: Any) -> None:
        encoder = model.model.language_model.encoder
        self.embed: Callable[[Tensor, Sequence[int]], Tensor] = Embedding(encoder)
        self.width: int = encoder.embed_tokens.weight.shape[1]
        self._layers = [_Layer(layer) for layer in encoder.layers]

    def __call__(self, images: Sequence[Tensor], prompts: Sequence[Sequence[int]]) -> Tensor:
        """Return (rows, positions, width): the image tokens (tokens, width), the prompt, then padding."""
        rows = [self.embed(image, prompt) for image, prompt in zip(images, prompts, strict=True)]
        longest = max(len(row) for row in rows)
        mask = None
        if any(len(row) < longest for row in rows):
            lengths = torch.tensor([len(row) for row in rows], device=rows[0].device)
            mask = (torch.arange(longest, device=lengths.device) < lengths[:, None])[:, None, None]
        return self.run_layers(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), mask)

    def run_layers(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the output of the layers, both (rows, positions, width)."""
        for layer in self._layers:
            x = layer(x, mask)
        return x
