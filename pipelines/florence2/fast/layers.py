"""Building blocks of vision tower, encoder and decoder: weights without autograd, and operations on them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import zip_longest
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipelines.florence2.weights import Part

EPS = 1e-5
"""Added to the variance in every layer norm of the model."""
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_new": partial(functional.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(functional.gelu, approximate="tanh"),
    "relu": functional.relu,
    "silu": functional.silu,
    "swish": functional.silu,
}
"""Activation functions by their names in a config."""

LARGE = 2**18
"""Numbers in a float32 matrix from which the product depends on the rows. A smaller one stays in a processor's cache,
where all products take about the same time."""
FEW_ROWS = 4
"""Rows up to which MKL's products are the faster ones, and oneDNN's from there on."""
SLICES = 16
"""Slices of a matrix that the threads share for one row."""

MASKED_ATTENTION = [SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Kernels of a card for attention with a mask, the fastest one first. For one query, cuDNN's takes 7 us on an H100
where torch's first choice takes 32."""

# torch.compile uses these two operators on a CPU. With the matrix reordered once, a bfloat16 product of few rows takes
# half the time. They are not public, so plain products are the fallback.
_reorder: Any = getattr(torch.ops.mkldnn, "_reorder_linear_weight", None)
_product: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
_is_tracing: Callable[[], bool] = torch.jit.is_tracing  # type: ignore[attr-defined]


class Linear:
    """A matrix and its bias, with the fastest product that a CPU has for their type.

    bfloat16 matrices are reordered for oneDNN. float32 matrices stay as they are.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        is_usable = weight.device.type == "cpu" and torch.backends.mkldnn.is_available() and _reorder and _product
        is_bfloat16 = is_usable and weight.dtype == torch.bfloat16
        self.reordered = bool(is_bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
        # The choice between products was measured against MKL.
        is_float32 = is_usable and weight.dtype == torch.float32 and torch.backends.mkl.is_available()
        self.large = bool(is_float32 and weight.numel() >= LARGE)
        weight = weight.contiguous()
        self.weight: Tensor = _reorder(weight, None) if self.reordered else weight
        self.bias = bias
        # Its tanh formula differs from GELU by 0.0005 at most, a tenth of what these types round.
        self._has_gelu = weight.device.type == "cuda" and weight.dtype.itemsize == 2 and bias is not None

    def __call__(self, x: Tensor) -> Tensor:
        # A traced program holds public operators only.
        is_large = self.large and not _is_tracing()
        if is_large and x.numel() <= FEW_ROWS * x.shape[-1]:
            rows = x.reshape(-1, x.shape[-1])
            few = self._one(rows) if len(rows) == 1 else self._few(rows)
            return few.view(*x.shape[:-1], len(self.weight))
        if is_large or self.reordered:
            out: Tensor = _product(x, self.weight, self.bias, "none", [], "")
            return out
        return functional.linear(x, self.weight, self.bias)

    def activated(self, x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the activation of the product, in one operation where a card has one."""
        if not (self._has_gelu and activation is functional.gelu):
            return activation(self(x))
        rows = x.flatten(0, -2)
        out = torch._addmm_activation(self.bias, rows, self.weight.t(), use_gelu=True)  # type: ignore[arg-type]
        return out.view(*x.shape[:-1], -1)

    def plus(self, x: Tensor, y: Tensor) -> Tensor:
        """Add the product to y, both (rows, width), in one operation where there is one; return y."""
        if self.reordered or self.large or self.bias is not None:
            return y.add_(self(x))
        return y.addmm_(x, self.weight.t())

    def _one(self, row: Tensor) -> Tensor:
        """Return the product of one row (1, width) as a batch of products with slices of the matrix.

        On processors of AMD, MKL computes the product of one row on one thread; it computes a batch on all threads.
        """
        whole = len(self.weight) // SLICES * SLICES
        slices = self.weight[:whole].view(SLICES, -1, row.shape[1])
        # Transposed, since torch does without MKL when the column's second stride is not its length.
        out = torch.bmm(slices, row.T.expand(SLICES, -1, -1)).view(1, -1)
        if whole < len(self.weight):
            out = torch.cat([out, functional.linear(row, self.weight[whole:])], 1)
        return out if self.bias is None else out.add_(self.bias)

    def _few(self, rows: Tensor) -> Tensor:
        """Return the product of few rows (rows, width) as matrix times columns.

        MKL then reads the matrix once for all columns. In the usual order it reads the matrix once per row.
        """
        columns = rows.T
        if self.bias is None:
            out = torch.mm(self.weight, columns)
        else:
            out = torch.addmm(self.bias[:, None], self.weight, columns)
        return out.T.contiguous()


class Norm(NamedTuple):
    """A layer norm; weight and bias are None where they are folded into the next matrix."""

    weight: Tensor | None = None
    bias: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], self.weight, self.bias, EPS)


BARE = Norm()
"""The norm without weight and bias, for use with a matrix that `linear(before=...)` made."""


def norm(part: Part, shift: Tensor | None = None) -> Norm:
    """Return a layer norm whose output is shifted by `shift`."""
    bias = part.bias
    if shift is not None:
        bias = shift if bias is None else (bias.float() + shift.float()).to(bias.dtype)
    return Norm(part.weight, bias)


def linear(
    *parts: Part, gains: tuple[float | Tensor, ...] = (), before: Part | None = None, shift: Tensor | None = None
) -> Linear:
    """Return one matrix for several parts side by side.

    `gains` scales the outputs of each part (an attention scale), by one number or one per output. The weight and bias
    of the layer norm `before` are folded in; `BARE` then precedes the matrix. `shift` is what `norm` added to the
    matrix's input; the bias takes it out again.
    """
    folded = [_folded(part, gain, before, shift) for part, gain in zip_longest(parts, gains)]
    if len(folded) == 1:
        return Linear(*folded[0])
    return Linear(torch.cat([weight for weight, _ in folded]), torch.cat([bias for _, bias in folded]))


def _folded(
    part: Part, gain: float | Tensor | None, before: Part | None, shift: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a part, computed in float32."""
    weight, bias = part.weight, part.bias
    dtype = weight.dtype
    if bias is None:
        bias = torch.zeros(len(weight), dtype=dtype, device=weight.device)
    if gain is None and before is None and shift is None:
        return weight, bias
    weight, bias = weight.float(), bias.float()
    if shift is not None:
        bias = bias - weight @ shift.float()
    if gain is not None:
        per_output = gain[:, None] if isinstance(gain, Tensor) else gain
        weight, bias = weight * per_output, bias * gain
    if before is not None:
        bias = bias if before.bias is None else bias + weight @ before.bias.float()
        weight = weight * before.weight.float()
    return weight.to(dtype), bias.to(dtype)


class FeedForward:
    """The feed-forward part of an encoder or decoder layer, with the norm behind it."""

    def __init__(self, layer: Part, activation: str) -> None:
        self.up, self.down = linear(layer.at("fc1")), linear(layer.at("fc2"))
        self.norm, self.activation = norm(layer.at("final_layer_norm")), ACTIVATIONS[activation]

    def __call__(self, x: Tensor) -> Tensor:
        return self.norm(self.down(self.up.activated(x, self.activation)).add_(x))


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Return softmax(q k^T + bias) v for a q that is scaled already; all (rows, heads, positions, width).

    Two plain products are much faster than torch's fused attention for few queries on a CPU.
    """
    if q.device.type != "cpu":
        with sdpa_kernel(MASKED_ATTENTION, set_priority=True):
            return functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
    scores = torch.matmul(q, k.transpose(-1, -2)).add_(bias)
    return torch.matmul(torch.softmax(scores, -1), v)
