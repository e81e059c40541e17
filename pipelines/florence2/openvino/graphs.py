"""Converts vision tower and text encoder of the fast engine to OpenVINO models, in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pipelines.florence2.fast.davit import DaViT
from pipelines.florence2.fast.encoder import Encoder
from pipelines.florence2.openvino.library import openvino


class _Traced(torch.nn.Module):
    """A function as the module that OpenVINO traces."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, x: Tensor) -> Tensor:
        return self._function(x)


@torch.inference_mode()
def trace_vision(vision: DaViT, height: int, width: int) -> Any:
    """Return the tower as an `openvino.Model`: pixels (1, 3, height, width) to image tokens (1, tokens, width).

    The weights of `vision` must be float32.
    """
    pixels = torch.zeros(1, 3, height, width)
    return openvino().convert_model(_Traced(vision), example_input=pixels, input=[[1, 3, height, width]])


@torch.inference_mode()
def trace_encoder(encoder: Encoder, image_tokens: int) -> Any:
    """Return the layers behind the embedding as an `openvino.Model`: (1, positions, width), any number of positions.

    The weights of `encoder` must be float32. `image_tokens` only sets the length of the example.
    """
    embedded = torch.zeros(1, image_tokens + 8, encoder.width)
    return openvino().convert_model(_Traced(encoder.run_layers), example_input=embedded, input=[[1, -1, encoder.width]])
