"""The text decoder, for rows at different positions, over key and value caches that the caller owns."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy

import torch
from torch import Tensor
from torch.nn import functional

from pipelines.florence2.architecture import POSITION_OFFSET, Text
from pipelines.florence2.fast.layers import ACTIVATIONS, Linear, attend, linear, norm
from pipelines.florence2.weights import HEAD, Part, Weights

BEHIND = 256
"""Positions behind the longest answer. Only rejected drafts and the padding of a step are there."""


class _Layer:
    """The matrices and norms of a layer.

    The bias of each block's last matrix is part of the norm before the block: so the residual contains it, and one
    operation computes product and sum.
    """

    def __init__(self, layer: Part, width: int, following: Part | None) -> None:
        """`width` is that of one attention head, `following` is the next layer."""
        own, cross, up, down = layer.at("self_attn"), layer.at("encoder_attn"), layer.at("fc1"), layer.at("fc2")
        out, cross_out, gains = own.at("out_proj"), cross.at("out_proj"), (width**-0.5,)
        self.qkv = linear(*(own.at(f"{matrix}_proj") for matrix in "qkv"), gains=gains, shift=out.bias)
        self.out = Linear(out.weight)
        self.norm = norm(layer.at("self_attn_layer_norm"), cross_out.bias)
        self.cross_query = linear(cross.at("q_proj"), gains=gains, shift=cross_out.bias)
        self.cross_key_value = linear(cross.at("k_proj"), cross.at("v_proj"))
        self.cross_out = Linear(cross_out.weight)
        self.cross_norm = norm(layer.at("encoder_attn_layer_norm"), down.bias)
        self.up = linear(up, shift=down.bias)
        self.down = Linear(down.weight)
        self.final_norm = norm(layer.at("final_layer_norm"), _entry(following))

    def with_matrices(self, inner: Callable[[Linear], Linear]) -> _Layer:
        other = copy(self)
        other.qkv, other.out = inner(self.qkv), inner(self.out)
        other.cross_query, other.cross_out = inner(self.cross_query), inner(self.cross_out)
        other.up, other.down = inner(self.up), inner(self.down)
        return other


def _entry(layer: Part | None) -> Tensor | None:
    """Return the bias that the norm before a layer takes over from the layer's first block."""
    return layer.at("self_attn.out_proj").bias if layer else None


class Decoder:
    """The decoder layers and the output head."""

    def __init__(self, weights: Weights, text: Text) -> None:
        decoder = weights.at("model.language_model.decoder")
        self._tokens = decoder["embed_tokens.weight"]
        self._scale = text.scale
        # Before the layers: the largest copy is made while little else is in memory.
        self._head = Linear(weights[HEAD])
        self.heads = text.decoder_attention_heads
        self.width = text.d_model // self.heads
        self.depth = text.decoder_layers
        self.vocabulary = text.vocab_size
        self.dtype, self.device = weights.dtype, weights.device
        layers = [decoder.at(f"layers.{index}") for index in range(self.depth)]
        positions = decoder["embed_positions.weight"][POSITION_OFFSET:]
        self._positions = torch.cat([positions, positions[-1:].expand(BEHIND, -1)])
        self._norm = norm(decoder.at("layernorm_embedding"), _entry(layers[0]))
        self._activation = ACTIVATIONS[text.activation_function]
        self._layers = [
            _Layer(layer, self.width, following) for layer, following in zip(layers, [*layers[1:], None], strict=True)
        ]
        self._numbers = torch.arange(len(self._positions), device=self.device)
        self._zero, self._never = (
            torch.full((), value, dtype=self.dtype, device=self.device) for value in (0.0, float("-inf"))
        )

    @property
    def positions(self) -> int:
        """Positions that a token can have."""
        return len(self._numbers)

    def with_matrices(self, inner: Callable[[Linear], Linear], head: Callable[[Linear], Linear]) -> Decoder:
        """Return a decoder with other matrices for what each step reads: those of the layers, and the output head."""
        other = copy(self)
        other._layers = [layer.with_matrices(inner) for layer in self._layers]
        other._head = head(self._head)
        return other

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

    def visible(self, positions: Tensor, seen: int) -> Tensor:
        """Return which of the first `seen` tokens those at `positions` (rows, tokens) see: (rows, tokens, seen)."""
        return self._numbers[:seen] <= positions[:, :, None]

    def __call__(
        self, ids: Tensor, positions: Tensor, visible: Tensor, own: Tensor, cross: Tensor, bias: Tensor, skip: int
    ) -> Tensor:
        """Return float32 logits behind each token but the first `skip`: (rows, tokens - skip, vocabulary).

        The keys and values of `ids` (rows, tokens) at `positions` (rows, tokens) are written to `own`; `visible` is
        from the method of this name. `cross` and `bias` (rows, 1, 1, positions) may have fewer rows than `ids`: then
        consecutive rows, the beams of one answer, share a row of the cross cache.
        """
        rows, tokens = ids.shape
        seen = visible.shape[2]
        x = functional.embedding(ids, self._tokens)
        if self._scale != 1:
            x = x * self._scale
        # Rows and tokens are one dimension, as torch's products need them.
        x = self._norm(x + functional.embedding(positions, self._positions)).flatten(0, 1)
        future = torch.where(visible[:, None], self._zero, self._never)
        index = self._numbers[:rows, None]
        for layer, cache, (cross_keys, cross_values) in zip(self._layers, own, cross, strict=True):
            qkv = layer.qkv(x).view(rows, tokens, 3, self.heads, self.width)
            cache[:, index, :, positions] = qkv[:, :, 1:]
            y = attend(qkv[:, :, 0].transpose(1, 2), cache[0, :, :, :seen], cache[1, :, :, :seen], future)
            x = layer.norm(layer.out.plus(y.transpose(1, 2).reshape(rows * tokens, -1), x))
            q = layer.cross_query(x).view(len(cross_keys), -1, self.heads, self.width).transpose(1, 2)
            y = attend(q, cross_keys, cross_values, bias)
            x = layer.cross_norm(layer.cross_out.plus(y.transpose(1, 2).reshape(rows * tokens, -1), x))
            x = layer.final_norm(layer.down.plus(layer.up.activated(x, self._activation), x))
        if skip:
            x = x.view(rows, tokens, -1)[:, skip:].flatten(0, 1)
        return self._head(x).float().view(rows, tokens - skip, -1)
