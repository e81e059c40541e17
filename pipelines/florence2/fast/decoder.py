"""The text decoder, for rows at different positions, over key and value caches that the caller owns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pipelines.florence2.fast.layers import FeedForward, Linear, attend, linear, norm


class _Layer:
    def __init__(self, layer: Any) -> None:
        own, cross = layer.self_attn, layer.encoder_attn
        self.qkv = linear(own.q_proj, own.k_proj, own.v_proj, gains=(own.scaling,))
        self.out = linear(own.out_proj)
        self.norm = norm(layer.self_attn_layer_norm)
        self.cross_query = linear(cross.q_proj, gains=(cross.scaling,))
        self.cross_key_value = linear(cross.k_proj, cross.v_proj)
        self.cross_out = linear(cross.out_proj)
        self.cross_norm = norm(layer.encoder_attn_layer_norm)
        self.feed_forward = FeedForward(layer)


class Decoder:
    """The decoder layers and the output head."""

    def __init__(self, model: Any) -> None:
        decoder = model.model.language_model.decoder
        self._tokens = decoder.embed_tokens.weight.detach()
        self._scale = float(decoder.embed_tokens.embed_scale)
        self._positions = decoder.embed_positions.weight.detach()[decoder.embed_positions.offset :]
        self._norm = norm(decoder.layernorm_embedding)
        self._layers = [_Layer(layer) for layer in decoder.layers]
        self._head = Linear(model.lm_head.weight.detach())
        self.heads: int = decoder.layers[0].self_attn.num_heads
        self.width: int = decoder.layers[0].self_attn.head_dim
        self.depth = len(self._layers)
        self.vocabulary = len(model.lm_head.weight)
        self.dtype: torch.dtype = self._tokens.dtype
        self.device: torch.device = self._tokens.device

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
