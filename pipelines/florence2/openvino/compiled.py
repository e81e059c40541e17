"""Vision tower and text encoder as compiled OpenVINO models, with the interfaces of `DaViT` and `Encoder`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pipelines.florence2.fast.parts import TextEncoder, Vision
from pipelines.florence2.openvino.library import openvino


class Compiled:
    """An OpenVINO model on a device, for one row at a time."""

    def __init__(self, model: Any, device: str, dtype: torch.dtype) -> None:
        """Compile a model. OpenVINO raises when the device does not exist or cannot run it.

        `model`: an `openvino.Model` or the path of its file, with weights in float32 or int8.
        `dtype`: type of the results, a hint for the products.
        """
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "bf16" if dtype == torch.bfloat16 else "f32"}
        if device == "CPU":
            options["INFERENCE_NUM_THREADS"] = torch.get_num_threads()
            # Captures and views run on the same cores: threads that are bound to one core would wait for them.
            options["ENABLE_CPU_PINNING"] = False
        compiled = openvino().Core().compile_model(model, device, {"PERFORMANCE_HINT": "LATENCY", **options})
        self._request, self._dtype = compiled.create_infer_request(), dtype

    def __call__(self, x: Tensor) -> Tensor:
        rows = [torch.from_numpy(self._request.infer(row[None].float().numpy())[0].copy()) for row in x]
        return torch.cat(rows).to(self._dtype)


class OpenVINOVision:
    """The vision tower through OpenVINO."""

    def __init__(self, model: Any, device: str, vision: Vision, dtype: torch.dtype) -> None:
        """`vision` is the tower that this one replaces."""
        self.tokens, self.peak = vision.tokens, vision.peak
        self._run = Compiled(model, device, dtype)

    def __call__(self, pixels: Tensor) -> Tensor:
        return self._run(pixels)


class OpenVINOEncoder:
    """The text encoder through OpenVINO."""

    def __init__(self, model: Any, device: str, encoder: TextEncoder, dtype: torch.dtype) -> None:
        """Keeps the embedding of `encoder`, not its layers."""
        self.embed = encoder.embed
        self._run = Compiled(model, device, dtype)

    def __call__(self, images: Sequence[Tensor], prompts: Sequence[Sequence[int]]) -> Tensor:
        rows = [self.embed(image, prompt) for image, prompt in zip(images, prompts, strict=True)]
        return torch.nn.utils.rnn.pad_sequence([self._run(row[None])[0] for row in rows], batch_first=True)
