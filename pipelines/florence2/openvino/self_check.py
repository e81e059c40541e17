"""The check before another backend replaces parts of an engine: one picture runs through both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pipelines.florence2.processor import warm_up_job

if TYPE_CHECKING:
    from pipelines.florence2.fast.engine import FastEngine
    from pipelines.florence2.fast.parts import TextEncoder, Vision

TOLERANCE = {torch.float32: 0.005, torch.bfloat16: 0.08, torch.float16: 0.02}
"""Largest relative difference (Euclidean norms) by number type of the engine. float32 differs by 1e-5. Rounding to
bfloat16 costs 1.7 % in torch and as much in OpenVINO, 2.4 % between them; the limit is three times that, because real
weights amplify more than random ones. Wrong results differ by about 100 %."""


@torch.inference_mode()
def difference(engine: FastEngine, vision: Vision, encoder: TextEncoder, tolerance: float | None = None) -> str | None:
    """Return how the results of `vision` and `encoder` differ from those of the engine's own parts, None if equal.

    Equal means within `tolerance`, by default the one of the engine's number type.
    """
    dtype = engine.decoder.dtype
    limit = TOLERANCE[dtype] if tolerance is None else tolerance
    pixels, prompt = example(engine)
    expected = engine.image_cache.vision(pixels)
    # Both encoders get the same image tokens, so that each part is judged alone.
    states = engine.encoder([expected[0]], [prompt])
    pairs = [("vision tower", vision(pixels), expected), ("text encoder", encoder([expected[0]], [prompt]), states)]
    for part, found, wanted in pairs:
        error = _relative(found, wanted)
        if not error <= limit:  # also when it is NaN
            return f"its {part} differs from torch by {error:.2%} on a test picture, at most {limit:.1%} is right"
    return None


def example(engine: FastEngine) -> tuple[Tensor, Sequence[int]]:
    """Return the pixels of a test picture, (1, 3, height, width) in the engine's number type, and a prompt."""
    prompt, _ = engine.processor.encode(warm_up_job())
    return engine.image_cache.preprocess(_picture())[None].to(engine.decoder.dtype), prompt


def _relative(found: Tensor, wanted: Tensor) -> float:
    """Return the norm of the difference relative to the norm of `wanted`; infinite for another shape."""
    if found.shape != wanted.shape:
        return float("inf")
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


def _picture() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Return a picture with areas and edges of many colours, the same each time."""
    coarse = np.random.default_rng(1).integers(0, 256, (12, 16, 3), np.uint8)
    return np.kron(coarse, np.ones((40, 40, 1), np.uint8))
