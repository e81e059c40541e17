"""The text encoder: one row per job, over its image tokens and prompt tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from pipelines.florence2.architecture import POSITION_OFFSET, Text
from pipelines.florence2.fast.layers import FeedForward, linear, norm
from pipelines.florence2.weights import Part, Weights


class _Layer:
    def __init__(self, layer: Part, heads: int, activation: str) -> None:
        attention = layer.at("self_attn")
        self.heads = heads
        self.qkv = linear(*(attention.at(f"{matrix}_proj") for matrix in "qkv"))
        self.out = linear(attention.at("out_proj"))
        self.norm = norm(layer.at("self_attn_layer_norm"))
        self.feed_forward = FeedForward(layer, activation)

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

    def __init__(self, encoder: Part, scale: float) -> None:
        self._tokens = encoder["embed_tokens.weight"]
        self._scale = scale
        self._positions = encoder["embed_positions.weight"][POSITION_OFFSET:]
        self._norm = norm(encoder.at("layernorm_embedding"))

    def __call__(self, image: Tensor, prompt: Sequence[int]) -> Tensor:
        """Return (positions, width): the image tokens (tokens, width), then the prompt."""
        x = torch.cat([image, self._tokens[list(prompt)] * self._scale])
        return self._norm(x + self._positions[: len(x)])


class Encoder:
    """The encoder layers, with the embedding of the prompt."""

    def __init__(self, weights: Weights, text: Text) -> None:
        encoder = weights.at("model.language_model.encoder")
        self.embed: Callable[[Tensor, Sequence[int]], Tensor] = Embedding(encoder, text.scale)
        self.width = text.d_model
        self._layers = [
            _Layer(encoder.at(f"layers.{index}"), text.encoder_attention_heads, text.activation_function)
            for index in range(text.encoder_layers)
        ]

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
