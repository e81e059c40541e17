"""Chooses the number type of the weights: `dtype: auto`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch.nn import functional

SMALL_MODEL = 50_000_000
"""Parameters; a model with fewer runs in float32 on a CPU."""
BFLOAT16_CARD = (8, 0)
"""First generation of NVIDIA's cards (Ampere) that computes in bfloat16; older ones emulate it slowly."""
ENOUGH_SPEED = 0.9
"""Lowest speed of bfloat16 relative to float32 at which it is chosen. Below 1, since it halves the bytes that the
decoder reads per token. In the probe AVX-512 with bfloat16 reaches 1.6, and AVX-512 that emulates it 0.5."""
ROUNDS = 5
CHANNELS, SIDE = 256, 12
"""Size of the probe: one attention window of the second stage of the vision tower in Florence-2 base."""


class Choice(NamedTuple):
    """A number type and why it was chosen."""

    dtype: torch.dtype
    reason: str


def choose(wanted: str, device: torch.device, parameters: int) -> Choice:
    """Return the number type for a model of this size; `wanted` is the config key `dtype`.

    Never float16 on a CPU unless the config says so: few processors compute with it.
    """
    if wanted != "auto":
        return Choice(getattr(torch, wanted), "set by `dtype`")
    if device.type != "cpu":
        if not _card_supports_bfloat16(device):
            return Choice(torch.float16, "the card has no bfloat16 instructions")
        return Choice(torch.bfloat16, "default on a GPU")
    if parameters < SMALL_MODEL:
        return Choice(torch.float32, "small model")
    if not _supports_bfloat16():
        return Choice(torch.float32, "the processor has no bfloat16 instructions that torch uses")
    speed = _bfloat16_speed()
    dtype = torch.bfloat16 if speed >= ENOUGH_SPEED else torch.float32
    return Choice(dtype, f"bfloat16 has {speed:.1f} times the speed of float32 on this processor")


def _card_supports_bfloat16(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= BFLOAT16_CARD


def _supports_bfloat16() -> bool:
    """Return whether oneDNN, torch's library for products on a CPU, has bfloat16 for this processor, even if emulated.

    Its answer follows a limit set by ONEDNN_MAX_CPU_ISA. Without oneDNN, torch's own bfloat16 products are slow.
    """
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@cache
def _bfloat16_speed() -> float:
    """Return the speed of bfloat16 relative to float32, measured in about 50 ms.

    Other busy processes do not change it: the types take turns on one thread, whose processor time counts.
    """
    probes = [_feed_forward(dtype) for dtype in (torch.float32, torch.bfloat16)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times = [[_seconds(probe) for probe in probes] for _ in range(1 + ROUNDS)]
    finally:
        torch.set_num_threads(threads)
    # The first run of each compiles kernels.
    return statistics.median(float32 / bfloat16 for float32, bfloat16 in times[1:])


def _feed_forward(dtype: torch.dtype) -> Callable[[], object]:
    """Return a function that computes one feed-forward part of the vision tower: convolution, two products, activation.

    All parts count: some processors have fast products in bfloat16 but no fast convolution.
    """
    image = torch.full((1, CHANNELS, SIDE, SIDE), 0.1, dtype=dtype).to(memory_format=torch.channels_last)
    kernel = torch.full((CHANNELS, 1, 3, 3), 0.1, dtype=dtype)
    up = torch.full((4 * CHANNELS, CHANNELS), 0.01, dtype=dtype)
    down = torch.full((CHANNELS, 4 * CHANNELS), 0.01, dtype=dtype)

    @torch.inference_mode()
    def run() -> torch.Tensor:
        x = functional.conv2d(image, kernel, padding=1, groups=CHANNELS).flatten(2).transpose(1, 2)
        return functional.linear(functional.gelu(functional.linear(x, up)), down)

    return run


def _seconds(action: Callable[[], object]) -> float:
    started = time.thread_time()
    action()
    return time.thread_time() - started
