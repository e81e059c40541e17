"""The few building blocks that vision tower, encoder and decoder share: plain weights and the operations on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

# Torch's own compiler calls these two for bfloat16 on a CPU: the same sums over a matrix that is laid out for them
# once, which for a few rows takes half the time. They are not public, so that plain products must do without them.
_reorder: Any = getattr(torch.ops.mkldnn, "_reorder_linear_weight", None)
_product: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


@dataclass(frozen=True, slots=True)
class Linear:
    """A matrix and its offset; `laid_out` for the CPU's fast product where there is one."""

    weight: Tensor
    bias: Tensor | None
    laid_out: bool = False

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None) -> Linear:
        fits = weight.dtype == torch.bfloat16 and weight.device.type == "cpu" and torch.backends.mkldnn.is_available()
        if fits and torch.ops.mkldnn._is_mkldnn_bf16_supported() and _reorder and _product:
            return cls(_reorder(weight.contiguous(), None), bias, True)
        return cls(weight.contiguous(), bias)

    def __call__(self, x: Tensor) -> Tensor:
        if self.laid_out:
            made: Tensor = _product(x, self.weight, self.bias, "none", [], "")
            return made
        return functional.linear(x, self.weight, self.bias)


class Norm(NamedTuple):
    """A layer norm; without weight and bias where these are folded into the matrix behind it."""

    weight: Tensor | None
    bias: Tensor | None
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)


def norm(module: Any) -> Norm:
    return Norm(module.weight.detach(), module.bias.detach(), module.eps)


def bare(module: Any) -> Norm:
    """The norm without weight and bias, for a matrix into which `linear` folded them."""
    return Norm(None, None, module.eps)


def linear(*modules: Any, gains: tuple[float | Tensor, ...] = (), before: Any = None) -> Linear:
    """One matrix for several modules side by side.

    `gains` multiplies the outputs of each module (an attention scale), all by one number or each by its own; `before`
    is the layer norm whose weight and bias are folded in, so that `bare` of it goes in front. The sums are made in
    float32.
    """
    dtype = modules[0].weight.dtype
    weights = [module.weight.detach().float() for module in modules]
    biases = [_bias(module) for module in modules]
    for index, gain in enumerate(gains):
        gain = torch.as_tensor(gain, device=biases[index].device)
        weights[index], biases[index] = weights[index] * gain[..., None], biases[index] * gain
    weight, bias = torch.cat(weights), torch.cat(biases)
    if before is not None:
        bias = bias + weight @ before.bias.detach().float()
        weight = weight * before.weight.detach().float()
    return Linear.of(weight.to(dtype), bias.to(dtype))


def _bias(module: Any) -> Tensor:
    if module.bias is None:
        return torch.zeros(len(module.weight), device=module.weight.device)
    return torch.as_tensor(module.bias.detach().float())


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T + bias) v with q scaled before; all (rows, heads, places, width).

    Two plain products: for few queries on a CPU much faster than the fused attention of torch.
    """
    scores = torch.matmul(q, k.transpose(-1, -2))
    if bias is not None:
        scores += bias
    return torch.matmul(torch.softmax(scores, -1), v)
