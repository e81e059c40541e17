"""The text decoder, for rows at different positions, over key and value caches that the caller owns."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from pipelines.florence2.architecture import POSITION_OFFSET, Text
from pipelines.florence2.fast.layers import FeedForward, Linear, attend, linear, norm
from pipelines.florence2.weights import HEAD, Part, Weights


class _Layer:
    def __init__(self, layer: Part, width: int, activation: str) -> None:
        """`width` is that of one attention head."""
        own, cross = layer.at("self_attn"), layer.at("encoder_attn")
        self.qkv = linear(*(own.at(f"{matrix}_proj") for matrix in "qkv"), gains=(width**-0.5,))
        self.out = linear(own.at("out_proj"))
        self.norm = norm(layer.at("self_attn_layer_norm"))
        self.cross_query = linear(cross.at("q_proj"), gains=(width**-0.5,))
        self.cross_key_value = linear(cross.at("k_proj"), cross.at("v_proj"))
        self.cross_out = linear(cross.at("out_proj"))
        self.cross_norm = norm(layer.at("encoder_attn_layer_norm"))
        self.feed_forward = FeedForward(layer, activation)


class Decoder:
    """The decoder layers and the output head."""

    def __init__(self, weights: Weights, text: Text) -> None:
        decoder = weights.at("model.language_model.decoder")
        self._tokens = decoder["embed_tokens.weight"]
        self._scale = text.scale
        # Before the layers: the largest copy is made while little else is in memory.
        self._head = Linear(weights[HEAD])
        self._positions = decoder["embed_positions.weight"][POSITION_OFFSET:]
        self._norm = norm(decoder.at("layernorm_embedding"))
        self.heads = text.decoder_attention_heads
        self.width = text.d_model // self.heads
        self._layers = [
            _Layer(decoder.at(f"layers.{index}"), self.width, text.activation_function)
            for index in range(text.decoder_layers)
        ]
        self.depth = len(self._layers)
        self.vocabulary = text.vocab_size
        self.dtype, self.device = weights.dtype, weights.device

    def replace_matrices(self, inner: Callable[[Linear], Linear], head: Callable[[Linear], Linear]) -> None:
        """Replace the matrices that each step reads: those of the layers, and the output head."""
        for layer in self._layers:
            layer.qkv, layer.out = inner(layer.qkv), inner(layer.out)
            layer.cross_query, layer.cross_out = inner(layer.cross_query), inner(layer.cross_out)
            layer.feed_forward.up, layer.feed_forward.down = (
                inner(layer.feed_forward.up),
                inner(layer.feed_forward.down),
            )
        self._head = head(self._head)

    def cache(self, rows: int, positions: int) -> Tensor:
        """Return an empty cache for keys and values: (layers, 2, rows, heads, positions, width)."""
        shape = (self.depth, 2, rows, self.heads, positions, self.width)
        return torch.zeros(shape, dtype=self.dtype, device=self.device)

    def fill_cross_cache(self, states: Tensor, cross: Tensor) -> None:
        """Write keys and values of the encoder's output (rows, positions, width) into the rows' part of a cache."""
        positions = states.shape[1]
        for layer, cache in zip(self._layers, cross, strict=True):
            projected = layer.cross_key_value(states).unflatten(-1, (2, self.heads, self.width))
            cache[:, :, :, :positions] = projected.permute(2, 0, 3, 1, 4)

    def __call__(
        self, ids: Tensor, at: Tensor, seen: int, own: Tensor, cross: Tensor, bias: Tensor, skip: int
    ) -> Tensor:
        """Return float32 logits behind each token but the first `skip`: (rows, tokens - skip, vocabulary).

        `ids` (rows, tokens) are at the positions `at` (rows) and after; their keys and values are written to `own`.
        `seen` is the largest position plus one. `cross` and `bias` (rows, 1, 1, positions) may have fewer rows than
        `ids`: then consecutive rows, the beams of one answer, share a row of the cross cache.
        """
        rows, tokens = ids.shape
        positions = at[:, None] + torch.arange(tokens, device=at.device)
        # Positions of rejected drafts may be behind the table's end; nothing ever attends to them.
        x = functional.embedding(ids, self._tokens) * self._scale
        x = self._norm(x + functional.embedding(positions.clamp(max=len(self._positions) - 1), self._positions))
        late = torch.arange(seen, device=at.device) > positions[:, None, :, None]
        future = torch.zeros(late.shape, dtype=self.dtype, device=at.device).masked_fill_(late, float("-inf"))
        index = torch.arange(rows, device=at.device)[:, None]
        for layer, (keys, values), (cross_keys, cross_values) in zip(self._layers, own, cross, strict=True):
            q, k, v = layer.qkv(x).unflatten(-1, (3, self.heads, self.width)).unbind(2)
            keys[index, :, positions], values[index, :, positions] = k, v
            y = attend(q.transpose(1, 2), keys[:, :, :seen], values[:, :, :seen], future)
            x = layer.norm(layer.out(y.transpose(1, 2).flatten(2)).add_(x))
            q = layer.cross_query(x).view(len(cross_keys), -1, self.heads, self.width).transpose(1, 2)
            y = attend(q, cross_keys, cross_values, bias).transpose(1, 2).reshape(rows, tokens, -1)
            x = layer.cross_norm(layer.cross_out(y).add_(x))
            x = layer.feed_forward(x)
        # Flat and contiguous: otherwise torch copies the head, the largest matrix of the model, for each product.
        flat = x[:, skip:].reshape(-1, x.shape[2])
        return self._head(flat).float().view(rows, tokens - skip, -1)
