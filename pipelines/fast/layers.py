"""The few building blocks that vision tower, encoder and decoder share: plain weights and the operations on them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Linear(NamedTuple):
    """A matrix and its offset."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
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


def linear(*modules: Any, gains: tuple[float, ...] = (), before: Any = None) -> Linear:
    """One matrix for several modules side by side.

    `gains` multiplies the outputs of each module (an attention scale); `before` is the layer norm whose weight and bias
    are folded in, so that `bare` of it goes in front. The sums are made in float32.
    """
    dtype = modules[0].weight.dtype
    weights = [module.weight.detach().float() for module in modules]
    biases = [_bias(module) for module in modules]
    for index, gain in enumerate(gains):
        weights[index], biases[index] = weights[index] * gain, biases[index] * gain
    weight, bias = torch.cat(weights), torch.cat(biases)
    if before is not None:
        bias = bias + weight @ before.bias.detach().float()
        weight = weight * before.weight.detach().float()
    return Linear(weight.to(dtype).contiguous(), bias.to(dtype).contiguous())


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
