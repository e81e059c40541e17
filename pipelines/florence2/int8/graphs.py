"""The int8 vision tower and text encoder, with the interfaces of those of the fast engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pipelines.florence2.fast.davit import DaViT
from pipelines.florence2.fast.encoder import Encoder
from pipelines.florence2.openvino.library import openvino


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
