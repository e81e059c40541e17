"""Building blocks of vision tower, encoder and decoder: weights without autograd, and operations on them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

# torch.compile uses these two operators for bfloat16 on a CPU. With the matrix reordered once, a product of few rows
# takes half the time. They are not public, so plain products are the fallback.
_reorder: Any = getattr(torch.ops.mkldnn, "_reorder_linear_weight", None)
_product: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


class Linear:
    """A matrix and its bias; reordered for oneDNN's bfloat16 product where the CPU has one."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        fits = weight.dtype == torch.bfloat16 and weight.device.type == "cpu" and torch.backends.mkldnn.is_available()
        self.reordered = bool(fits and torch.ops.mkldnn._is_mkldnn_bf16_supported() and _reorder and _product)
        weight = weight.contiguous()
        self.weight: Tensor = _reorder(weight, None) if self.reordered else weight
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        if self.reordered:
            out: Tensor = _product(x, self.weight, self.bias, "none", [], "")
            return out
        return functional.linear(x, self.weight, self.bias)


class Norm(NamedTuple):
    """A layer norm; weight and bias are None where they are folded into the next matrix."""

    weight: Tensor | None
    bias: Tensor | None
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)


def norm(module: Any) -> Norm:
    return Norm(module.weight.detach(), module.bias.detach(), module.eps)


def bare(module: Any) -> Norm:
    """Return the norm without weight and bias, for use with a matrix that `linear(before=module)` made."""
    return Norm(None, None, module.eps)


def linear(*modules: Any, gains: tuple[float | Tensor, ...] = (), before: Any = None) -> Linear:
    """Return one matrix for several modules side by side, computed in float32.

    `gains` scales the outputs of each module (an attention scale), by one number or one per output. The weight and
    bias of the layer norm `before` are folded in; `bare(before)` then precedes the matrix.
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
    return Linear(weight.to(dtype), bias.to(dtype))


class FeedForward:
    """The feed-forward part of an encoder or decoder layer, with the norm behind it."""

    def __init__(self, layer: Any) -> None:
        self.up, self.down = linear(layer.fc1), linear(layer.fc2)
        self.norm, self.activation = norm(layer.final_layer_norm), layer.activation_fn

    def __call__(self, x: Tensor) -> Tensor:
        return self.norm(self.down(self.activation(self.up(x))).add_(x))


def _bias(module: Any) -> Tensor:
    if module.bias is None:
        return torch.zeros(len(module.weight), device=module.weight.device)
    return torch.as_tensor(module.bias.detach().float())


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return softmax(q k^T + bias) v for a q that is scaled already; all (rows, heads, positions, width).

    Two plain products are much faster than torch's fused attention for few queries on a CPU.
    """
    scores = torch.matmul(q, k.transpose(-1, -2))
    if bias is not None:
        scores += bias
    return torch.matmul(torch.softmax(scores, -1), v)
