"""The text encoder: one row per job, over its image tokens and prompt tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from pipelines.florence2.architecture import POSITION_OFFSET, Text
from pipelines.florence2.fast.graphs import device_tensor
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

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2)
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
        self.positions = len(self._positions)
        """Maximum length of a row."""

    def __call__(self, image: Tensor, prompt: Sequence[int]) -> Tensor:
        """Return (positions, width): the image tokens (tokens, width), then the prompt."""
        return self.rows(image[None], device_tensor([prompt], torch.long, image.device))[0]

    def rows(self, images: Tensor, prompts: Tensor) -> Tensor:
        """Return (rows, positions, width) of image tokens (rows, tokens, width) and prompts (rows, prompt tokens)."""
        x = torch.cat([images, functional.embedding(prompts, self._tokens) * self._scale], 1)
        return self._norm(x + self._positions[: x.shape[1]])


class Encoder:
    """The encoder layers, with the embedding of the prompt."""

    def __init__(self, weights: Weights, text: Text) -> None:
        encoder = weights.at("model.language_model.encoder")
        self.embed = Embedding(encoder, text.scale)
        self.width = text.d_model
        self.dtype, self.device = weights.dtype, weights.device
        self._layers = [
            _Layer(encoder.at(f"layers.{index}"), text.encoder_attention_heads, text.activation_function)
            for index in range(text.encoder_layers)
        ]

    def __call__(self, images: Sequence[Tensor], prompts: Sequence[Sequence[int]]) -> Tensor:
        """Return (rows, positions, width): the image tokens (tokens, width), the prompt, then padding."""
        lengths = [len(prompt) for prompt in prompts]
        bias = None
        if min(lengths) < max(lengths):
            ends = device_tensor([len(images[0]) + length for length in lengths], torch.long, self.device)
            bias = self.bias(ends, len(images[0]) + max(lengths))
        ids = device_tensor(padded(prompts, max(lengths)), torch.long, self.device)
        return self.run_layers(self.embed.rows(torch.stack(list(images)), ids), bias)

    def bias(self, lengths: Tensor, positions: int) -> Tensor:
        """Return what attention adds to its scores, (rows, 1, 1, positions): minus infinity behind each row's end."""
        behind = torch.arange(positions, device=lengths.device) >= lengths[:, None]
        zeros = torch.zeros(behind.shape, dtype=self.dtype, device=lengths.device)
        return zeros.masked_fill_(behind, float("-inf"))[:, None, None]

    def run_layers(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return the output of the layers, both (rows, positions, width)."""
        for layer in self._layers:
            x = layer(x, bias)
        return x


def padded(prompts: Sequence[Sequence[int]], length: int) -> list[list[int]]:
    """Return the prompts with zeros up to `length`; attention does not read them."""
    return [[*prompt, *[0] * (length - len(prompt))] for prompt in prompts]
