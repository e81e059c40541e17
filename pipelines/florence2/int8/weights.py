"""int8 weights for the decoder's matrices, of which a step reads every one for a few rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pipelines.florence2.fast.decoder import Decoder
from pipelines.florence2.fast.layers import Linear

# Measured on base in processor time, limited to AVX2: the head's product takes 6.2 ms instead of 8.4 ms for one row,
# 9.7 instead of 13.4 ms for 4 and 19 instead of 21 ms for 8. It is not public, so float32 products are the fallback.
_product: Any = getattr(torch.ops.aten, "_weight_int8pack_mm", None)

MAX_ROWS = 8
"""Rows of a product up to which int8 weights are faster; with 16 rows they take half as long again as float32."""
MIN_NUMBERS = 10_000_000
"""Numbers in the head from which on its float32 weights exceed a processor's cache; a smaller one stays as it is."""
EXACT = 32
"""Best outputs of the head that are computed again in float32."""


class Int8Linear(Linear):
    """A matrix with int8 weights, scaled per output. Activations stay floating-point, so rows never affect each other.

    Products of many rows use the float32 weights.
    """

    def __init__(self, matrix: Linear) -> None:
        super().__init__(matrix.weight, matrix.bias)
        self._scale = (self.weight.abs().amax(1).clamp(min=1e-12) / 127).bfloat16()
        self._rounded = (self.weight / self._scale.float()[:, None]).round().clamp(-127, 127).to(torch.int8)

    def __call__(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        if len(rows) > MAX_ROWS:
            return super().__call__(x)
        out: Tensor = _product(rows.bfloat16(), self._rounded, self._scale).to(x.dtype)
        if self.bias is not None:
            out += self.bias
        return out.view(*x.shape[:-1], -1)

    def plus(self, x: Tensor, y: Tensor) -> Tensor:
        return y.add_(self(x))


class Int8Head(Int8Linear):
    """The output head. Its best outputs are computed again in float32: between them a rounding would decide."""

    def __call__(self, x: Tensor) -> Tensor:
        out = super().__call__(x)
        if len(x) <= MAX_ROWS:
            best = out.topk(min(EXACT, out.shape[-1])).indices
            out.scatter_(1, best, torch.einsum("rkc,rc->rk", self.weight[best], x))
        return out


def with_int8_weights(decoder: Decoder) -> Decoder | None:
    """Return a decoder with rounded weights, which keeps and shares the exact ones; None where it would not be faster.

    It is faster in float32 on a CPU. With bfloat16 units, products of bfloat16 are as fast from two rows on.
    """
    is_small = decoder.vocabulary * decoder.heads * decoder.width < MIN_NUMBERS
    if _product is None or is_small or decoder.dtype != torch.float32 or decoder.device.type != "cpu":
        return None
    return decoder.with_matrices(Int8Linear, Int8Head)
