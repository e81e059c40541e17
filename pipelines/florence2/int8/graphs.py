"""Vision tower and text encoder as OpenVINO models: traced from the fast engine, run in its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.florence2.fast.davit import DaViT
from pipelines.florence2.fast.encoder import Encoder
from pipelines.florence2.int8.libraries import openvino, quiet

NAMES = ("vision", "encoder")
"""The two models, in the order of their use."""


class _Traced(torch.nn.Module):
    """A function as the module that OpenVINO traces."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, x: Tensor) -> Tensor:
        return self._function(x)


@torch.inference_mode()
def trace_vision(vision: DaViT, pixels: Tensor) -> Any:
    """Return the tower as an OpenVINO model for pictures of the example's size, one at a time."""
    return _trace(vision, pixels, list(pixels.shape))


@torch.inference_mode()
def trace_encoder(encoder: Encoder, embedded: Tensor) -> Any:
    """Return the layers behind the embedding as an OpenVINO model for any length, one prompt at a time."""
    return _trace(encoder.run_layers, embedded, [1, -1, embedded.shape[2]])


def _trace(function: Callable[[Tensor], Tensor], example: Tensor, shape: list[int]) -> Any:
    with quiet():
        return openvino().convert_model(_Traced(function), example_input=example, input=[shape])


class _Compiled:
    def __init__(self, file: Path, threads: int, dtype: torch.dtype) -> None:
        ov = openvino()
        hint = "bf16" if dtype == torch.bfloat16 else "f32"
        options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads}
        self._model = ov.Core().compile_model(str(file), "CPU", options)
        self._dtype = dtype

    def __call__(self, x: Tensor) -> Tensor:
        rows = [torch.from_numpy(self._model(row[None].float().numpy())[0]) for row in x]
        return torch.cat(rows).to(self._dtype)


class Int8Vision:
    """The vision tower in int8, with the interface of `DaViT`."""

    def __init__(self, file: Path, vision: DaViT, dtype: torch.dtype) -> None:
        self.tokens, self.peak = vision.tokens, vision.peak
        self._run = _Compiled(file, torch.get_num_threads(), dtype)

    def __call__(self, pixels: Tensor) -> Tensor:
        return self._run(pixels)


class Int8Encoder:
    """The text encoder in int8, with the interface of `Encoder`."""

    def __init__(self, file: Path, encoder: Encoder, dtype: torch.dtype) -> None:
        self._encoder = encoder
        self._run = _Compiled(file, torch.get_num_threads(), dtype)

    def __call__(self, images: Sequence[Tensor], prompts: Sequence[Sequence[int]]) -> Tensor:
        embedded = [self._encoder.embed(image, prompt) for image, prompt in zip(images, prompts, strict=True)]
        rows = [self._run(x[None])[0] for x in embedded]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
