"""Finds out whether the kernels of a graphics card work there, before a model uses them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional

from pipelines.florence2.fast.davit import Kernels
from pipelines.florence2.fast.layers import EPS
from streamer.core.paths import cache_home
from streamer.core.reasons import reason_of

FRAMES, HEADS, HEAD, SIDE = 2, 3, 32, 12
"""Size of the trials: two windows of `SIDE` positions high and wide, beside each other."""
TOLERANCE = 0.02
"""Largest relative difference (Euclidean norms) from plain operations; rounding to bfloat16 makes 0.004."""


def usable_kernels(device: torch.device, dtype: torch.dtype) -> tuple[Kernels, str | None]:
    """Return the kernels for a device and number type, or None, and for users why a card's kernels are not used."""
    if device.type != "cuda" or dtype.itemsize != 2:
        return None, None
    without = "plain operations, which are slower"
    try:
        map_kernels = load_kernels()
        if map_kernels is None:
            return None, f"Triton is not installed: {without}"
        errors = dict(differences(map_kernels, device, dtype))
    except torch.AcceleratorError:
        raise  # The device is in an unknown state; only a new process helps.
    # Triton raises any exception, such as for a missing C compiler.
    except Exception as error:
        return None, f"the kernels of the vision tower do not run on {device}, {reason_of(error, 'kernels')}: {without}"
    wrong = [name for name, error in errors.items() if not error <= TOLERANCE]  # also when it is NaN
    if wrong:
        return None, f"the kernels of the vision tower give wrong results on {device} ({', '.join(wrong)}): {without}"
    return map_kernels, None


def load_kernels() -> Kernels:
    """Return the kernels as they are, None without Triton."""
    if find_spec("triton") is None:
        return None
    # Where caches are allowed: the home of a service may be read-only.
    os.environ.setdefault("TRITON_CACHE_DIR", str(cache_home() / "triton"))
    from pipelines.florence2.fast import map_kernels

    return map_kernels


@torch.inference_mode()
def differences(kernels: ModuleType, device: torch.device, dtype: torch.dtype) -> Iterator[tuple[str, float]]:
    """Yield the name of each kernel, and its relative difference from plain operations in float32."""
    height, width, channels = SIDE, 2 * SIDE, HEADS * HEAD
    source = torch.Generator().manual_seed(1)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=source).to(device, dtype)

    def norm(x: Tensor) -> Tensor:
        return functional.layer_norm(x, (channels,), gain.float(), offset.float(), EPS)

    x, weight = random(FRAMES, height * width, channels), random(channels, 9)
    qkv = random(FRAMES, height * width, 3, channels)
    bias, shift, gain, offset = (random(channels) for _ in range(4))
    taps = weight.float().T.contiguous()
    image = x.float().view(FRAMES, height, width, channels).permute(0, 3, 1, 2)
    kernel = weight.float().view(channels, 1, 3, 3)
    summed = functional.conv2d(image, kernel, bias.float(), padding=1, groups=channels)
    summed = summed.permute(0, 2, 3, 1).flatten(1, 2)
    sums, norms = kernels.depthwise_norm(x, taps, bias, shift, gain, offset, height, width)
    yield "convolution", _difference(sums, summed + shift.float())
    yield "norm of the convolution", _difference(norms, norm(summed))
    yield "norm", _difference(kernels.layer_norm(x, gain, offset), norm(x.float()))

    split = qkv.float().view(FRAMES, height, -1, SIDE, 3, HEADS, HEAD)
    q, k, v = split.permute(4, 0, 2, 5, 1, 3, 6).flatten(4, 5)  # (frames, windows, heads, positions, width)
    attended = functional.scaled_dot_product_attention(q, k, v).unflatten(3, (SIDE, SIDE))
    attended = attended.permute(0, 3, 1, 4, 2, 5).reshape(FRAMES, -1, channels)
    yield "windows", _difference(kernels.window_attention(qkv.flatten(2), HEADS, SIDE, height, width), attended)

    qkv = qkv * 0.2  # larger scores leave one weight in a row
    q, k, v = qkv.float().unflatten(3, (HEADS, HEAD)).permute(2, 0, 3, 4, 1)  # (frames, heads, width, positions)
    mixed = (torch.softmax(q @ k.mT, -1) @ v).permute(0, 3, 1, 2).flatten(2)
    yield "channels", _difference(kernels.channel_attention(qkv.flatten(2), HEADS), mixed)


def _difference(found: Tensor, wanted: Tensor) -> float:
    return float((found.float() - wanted).norm() / wanted.norm())
