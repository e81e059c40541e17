"""Converts vision tower and text encoder of the fast engine to OpenVINO models, in float32."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from pipelines.florence2.fast.davit import DaViT
from pipelines.florence2.fast.encoder import Encoder
from pipelines.florence2.image_settings import ImageSettings
from pipelines.florence2.openvino.library import openvino


class _Traced(torch.nn.Module):
    """A function as the module that OpenVINO traces."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, x: Tensor) -> Tensor:
        return self._function(x)


def convert(vision: DaViT, encoder: Encoder, images: ImageSettings) -> Iterator[tuple[str, Any]]:
    """Yield name and `openvino.Model` of each part: `vision`, then `encoder`. Both parts must be float32."""
    yield "vision", trace_vision(vision, images.height, images.width)
    yield "encoder", trace_encoder(encoder, vision.tokens)


def trace_vision(vision: DaViT, height: int, width: int) -> Any:
    """Return the tower as an `openvino.Model`: pixels (1, 3, height, width) to image tokens (1, tokens, width).

    The weights of `vision` must be float32.
    """
    return _convert(vision, torch.zeros(1, 3, height, width), [1, 3, height, width])


def trace_encoder(encoder: Encoder, image_tokens: int) -> Any:
    """Return the layers behind the embedding as an `openvino.Model`: (1, positions, width), any number of positions.

    The weights of `encoder` must be float32. `image_tokens` only sets the length of the example.
    """
    return _convert(encoder.run_layers, torch.zeros(1, image_tokens + 8, encoder.width), [1, -1, encoder.width])


@torch.inference_mode()
def _convert(function: Callable[[Tensor], Tensor], example: Tensor, shape: list[int]) -> Any:
    """Return the model of a function; -1 in the shape of its argument stands for any number."""
    with warnings.catch_warnings():
        # The tracer warns of every Python number in the graph (all of them are constant) and of its own old age.
        warnings.simplefilter("ignore")
        # The check of a trace runs the graph several times more, most of the time of a conversion. The self-check
        # compares the results of the whole backend instead.
        traced = torch.jit.trace(_Traced(function), example, check_trace=False)
        return openvino().convert_model(traced, example_input=example, input=[shape])
