"""Antialiased resize as matrix products, for devices on which torch has no uint8 resize.

It gives the levels of torch's resize on a CPU: the same coefficients, quantised in the same way, and the same rounding
to whole levels between the two passes. torch's resize on a GPU does not round or clip there, so its results are many
levels apart beside thin lines.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.florence2.fast.graphs import device_tensor

BLOCK = 64
"""Outputs per product. A product reads only the inputs near its outputs, a tenth of the row for a 1080p frame."""
CACHED_AXES = 64
"""Pairs of an input and an output size whose coefficients are kept; a camera needs two, at most 1 MB each."""
_MAX_PRECISION = 22
"""Most bits behind the binary point of a coefficient, as in torch."""


class Axis(NamedTuple):
    """Coefficients that resize one axis, in blocks of `BLOCK` outputs."""

    inputs: Tensor
    """Indexes of the inputs of each block: (blocks * taps)."""
    coefficients: Tensor
    """float32 (blocks, taps, BLOCK)."""
    outputs: int


class Resampler:
    """Resizes pictures to one size on a device."""

    def __init__(self, size: tuple[int, int], mode: str, device: torch.device) -> None:
        """`size`: height and width. `mode`: bilinear or bicubic."""
        self._size = size
        self._axis = lru_cache(CACHED_AXES)(partial(_axis, mode=mode, device=device))

    def __call__(self, picture: Tensor, rows_first: bool) -> Tensor:
        """Resize (channels, height, width), uint8. `rows_first`: resize the height before the width."""
        for dimension in (1, 2) if rows_first else (2, 1):
            inputs, outputs = picture.shape[dimension], self._size[dimension - 1]
            if inputs != outputs:
                resized = _resize_last(picture.transpose(dimension, 2), self._axis(inputs, outputs))
                picture = resized.transpose(dimension, 2)
        return picture


def _resize_last(picture: Tensor, axis: Axis) -> Tensor:
    """Resize the last dimension of (channels, lines, inputs), uint8."""
    channels, lines, _ = picture.shape
    blocks = len(axis.coefficients)
    read = picture.index_select(2, axis.inputs).view(channels * lines, blocks, -1).transpose(0, 1)
    # A coefficient is an integer over a power of two, so float32 adds the products without rounding, except in the
    # last bits of a strong reduction. This needs torch's default, products in full float32.
    levels = torch.bmm(read.float(), axis.coefficients).add_(0.5).clamp_(0, 255).to(torch.uint8)
    return levels.transpose(0, 1).reshape(channels, lines, blocks * BLOCK)[..., : axis.outputs]


def _axis(inputs: int, outputs: int, mode: str, device: torch.device) -> Axis:
    first, weights = _coefficients(inputs, outputs, mode)
    blocks, reach = -(-outputs // BLOCK), weights.shape[1]
    starts = first[::BLOCK]
    output = np.arange(outputs)
    offset = first - starts[output // BLOCK]
    """Inputs between the first one of the block and the first one of the output."""
    taps = int(offset.max()) + reach
    table = np.zeros((blocks, taps, BLOCK), np.float32)
    for tap in range(reach):
        table[output // BLOCK, offset + tap, output % BLOCK] = weights[:, tap]
    # Indexes behind the end have coefficients of zero.
    index = np.minimum(starts[:, None] + np.arange(taps), inputs - 1)
    return Axis(device_tensor(index.ravel(), torch.long, device), device_tensor(table, torch.float32, device), outputs)


def _coefficients(inputs: int, outputs: int, mode: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return for each output its first input, and the coefficients of the inputs from there: (outputs, taps).

    A filter as wide as the reduction, in as many bits as fit into an int16, as in torch's uint8 resize.
    """
    support, kernel = _FILTERS[mode]
    scale = inputs / outputs
    stretch = max(scale, 1.0)
    centers = scale * (np.arange(outputs) + 0.5)
    first = np.maximum((centers - support * stretch + 0.5).astype(np.int64), 0)
    count = np.minimum((centers + support * stretch + 0.5).astype(np.int64), inputs) - first
    taps = np.arange(count.max())
    weights = kernel(np.abs(taps + first[:, None] - centers[:, None] + 0.5) / stretch)
    weights[taps >= count[:, None]] = 0.0
    weights /= weights.sum(1, keepdims=True)
    largest = weights.max()
    bits = next((bits for bits in range(_MAX_PRECISION) if int(0.5 + largest * 2 ** (bits + 1)) >> 15), _MAX_PRECISION)
    return first, np.trunc(weights * 2.0**bits + np.copysign(0.5, weights)) / 2.0**bits


def _triangle(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(1.0 - x, 0.0)


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Keys' cubic filter with a = -0.5."""
    inner, outer = (1.5 * x - 2.5) * x * x + 1.0, ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x < 1.0, inner, np.where(x < 2.0, outer, 0.0))


_FILTERS = {"bilinear": (1.0, _triangle), "bicubic": (2.0, _cubic)}
"""Distance in pixels at which the filter becomes zero, and the filter."""
