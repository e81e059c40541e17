"""The text decoder: some tokens further for rows that stand at different places, over caches the caller owns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pipelines.florence2.fast.layers import Linear, Norm, attend, linear, norm


@dataclass(frozen=True, slots=True)
class _Layer:
    qkv: Linear
    out: Linear
    norm: Norm
    question: Linear
    source: Linear
    """Keys and values of what the encoder made."""
    answer: Linear
    cross_norm: Norm
    up: Linear
    down: Linear
    end: Norm
    activation: Any

    @classmethod
    def of(cls, layer: Any) -> _Layer:
        own, cross = layer.self_attn, layer.encoder_attn
        return cls(
            qkv=linear(own.q_proj, own.k_proj, own.v_proj, gains=(own.scaling,)),
            out=linear(own.out_proj),
            norm=norm(layer.self_attn_layer_norm),
            question=linear(cross.q_proj, gains=(cross.scaling,)),
            source=linear(cross.k_proj, cross.v_proj),
            answer=linear(cross.out_proj),
            cross_norm=norm(layer.encoder_attn_layer_norm),
            up=linear(layer.fc1),
            down=linear(layer.fc2),
            end=norm(layer.final_layer_norm),
            activation=layer.activation_fn,
        )


class Decoder:
    """Weights of the decoder and the output head."""

    def __init__(self, model: Any) -> None:
        decoder = model.model.language_model.decoder
        self._tokens = decoder.embed_tokens.weight.detach()
        self._scale = float(decoder.embed_tokens.embed_scale)
        self._places = decoder.embed_positions.weight.detach()[decoder.embed_positions.offset :]
        self._norm = norm(decoder.layernorm_embedding)
        self._layers = [_Layer.of(layer) for layer in decoder.layers]
        self._head = Linear.of(model.lm_head.weight.detach(), None)
        self.heads: int = decoder.layers[0].self_attn.num_heads
        self.width: int = decoder.layers[0].self_attn.head_dim
        self.depth = len(self._layers)
        self.vocabulary = len(model.lm_head.weight)
        self.dtype: torch.dtype = self._tokens.dtype
        self.device: torch.device = self._tokens.device

    def cache(self, rows: int, places: int) -> Tensor:
        """Room for keys and values: (layers, 2, rows, heads, places, width), zeros."""
        shape = (self.depth, 2, rows, self.heads, places, self.width)
        return torch.zeros(shape, dtype=self.dtype, device=self.device)

    def fill_cross_cache(self, states: Tensor, cross: Tensor) -> None:
        """Write what the encoder made of some rows (rows, places, width) into their part of a cache."""
        places = states.shape[1]
        for layer, room in zip(self._layers, cross, strict=True):
            made = layer.source(states).unflatten(-1, (2, self.heads, self.width))
            room[:, :, :, :places] = made.permute(2, 0, 3, 1, 4)

    def __call__(
        self, ids: Tensor, at: Tensor, seen: int, own: Tensor, cross: Tensor, bias: Tensor, skip: int
    ) -> Tensor:
        """float32 logits behind each token but the first `skip`: (rows, tokens - skip, vocabulary).

        `ids` (rows, tokens) stand at the places `at` (rows) and after; their keys and values are written to `own`.
        `seen` is the largest place of all, plus one. `cross` and `bias` (rows, 1, 1, places) may hold fewer rows than
        `ids`: then several rows in a row, the beams of one question, look at the same one.
        """
        rows, tokens = ids.shape
        places = at[:, None] + torch.arange(tokens, device=at.device)
        # Places of rejected drafts may lie behind the table's end; what stands there is never looked at.
        x = functional.embedding(ids, self._tokens) * self._scale
        x = self._norm(x + functional.embedding(places.clamp(max=len(self._places) - 1), self._places))
        late = torch.arange(seen, device=at.device) > places[:, None, :, None]
        future = torch.zeros(late.shape, dtype=self.dtype, device=at.device).masked_fill_(late, float("-inf"))
        index = torch.arange(rows, device=at.device)[:, None]
        for layer, (keys, values), (far_keys, far_values) in zip(self._layers, own, cross, strict=True):
            q, k, v = layer.qkv(x).unflatten(-1, (3, self.heads, self.width)).unbind(2)
            keys[index, :, places], values[index, :, places] = k, v
            y = attend(q.transpose(1, 2), keys[:, :, :seen], values[:, :, :seen], future)
            x = layer.norm(layer.out(y.transpose(1, 2).flatten(2)).add_(x))
            q = layer.question(x).view(len(far_keys), -1, self.heads, self.width).transpose(1, 2)
            y = attend(q, far_keys, far_values, bias).transpose(1, 2).reshape(rows, tokens, -1)
            x = layer.cross_norm(layer.answer(y).add_(x))
            x = layer.end(layer.down(layer.activation(layer.up(x))).add_(x))
        # Flat and whole in memory: for anything else torch copies the head, which is larger than all else together.
        flat = x[:, skip:].reshape(-1, x.shape[2])
        return self._head(flat).float().view(rows, tokens - skip, -1)
